"""What `doctor` sees of the chain to a real schedd: every link by name, and the first that is broken with a hint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from parts.pool import Pool

from jupyter_offload.batch.base import Examined, Link
from jupyter_offload.batch.condor.batch import CondorBatch
from jupyter_offload.batch.condor.config import CondorConfig

pytestmark = pytest.mark.pool


async def _links(pool: Pool, **changes: object) -> list[Link]:
    config = CondorConfig(collector=pool.collector, schedd=pool.schedd, token_file=pool.token_file())
    batch = CondorBatch(dataclasses.replace(config, **changes))
    assert isinstance(batch, Examined)
    try:
        return [link async for link in batch.checks()]
    finally:
        await batch.close()


async def test_every_link_of_a_good_pool_is_named_and_holds(pool: Pool) -> None:
    links = await _links(pool)
    assert [link.name for link in links] == ["TCP", "token", "bindings", "schedd", "ping", "worker nodes"]
    for link in links:
        assert link.ok is True, link
        assert link.detail, link
        assert 0 <= link.seconds < 30, link
    assert sum(link.seconds for link in links) > 0
    said = {link.name: link.detail for link in links}
    assert pool.schedd in said["schedd"]
    assert "alice" in said["token"]
    assert "alice" in said["ping"]
    assert "cores" in said["worker nodes"]


async def test_a_token_with_a_wrong_signature_breaks_the_link_to_the_schedd(pool: Pool, tmp_path: Path) -> None:
    head, claims, signature = pool.token("alice").strip().split(".")
    wrong = tmp_path / "token"
    wrong.write_text(f"{head}.{claims}.{signature[::-1]}\n")
    wrong.chmod(0o600)
    links = await _links(pool, token_file=wrong)
    assert [link.ok for link in links[:-1]] == [True] * (len(links) - 1)
    assert (links[-1].name, links[-1].ok) == ("schedd", False)
    assert "token" in links[-1].hint


async def test_no_token_file_breaks_the_link_of_the_token(pool: Pool, tmp_path: Path) -> None:
    links = await _links(pool, token_file=tmp_path / "none")
    assert [(link.name, link.ok) for link in links] == [("TCP", True), ("token", False)]
    assert str(tmp_path / "none") in links[-1].detail
    assert "token_file" in links[-1].hint


async def test_a_collector_that_cannot_be_reached_breaks_the_first_link(pool: Pool) -> None:
    host = pool.collector.rpartition(":")[0]
    links = await _links(pool, collector=f"{host}:9")  # nothing listens there
    assert [(link.name, link.ok) for link in links] == [("TCP", False)]
    assert f"{host}:9" in links[0].detail
    assert "collector" in links[0].hint
