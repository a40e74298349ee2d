"""The service on a real pool, killed at seeded points while many jobs are alive."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts.kill_scene import kill_scene
from parts.pool import Pool
from parts.service import Service

pytestmark = [pytest.mark.pool, pytest.mark.xdist_group("service-pool")]
PAUSES = [0.0, 0.01, 0.05, 0.2, 0.5, 1.5]


@pytest.fixture
def service(pool: Pool, tmp_path: Path) -> Iterator[Service]:
    part = Service(tmp_path)
    batch = {
        "type": "condor",
        "collector": pool.collector,
        "schedd": pool.schedd,
        "token_file": str(pool.token_file("alice")),
    }
    config = tmp_path / "sites.yaml"
    config.write_text(json.dumps({"sites": {"pool": {"batch": batch}}}))  # JSON is YAML
    part.environ["OFFLOAD_CONFIG"] = str(config)
    yield part
    part.close()


@pytest.fixture
def ran(pool: Pool) -> Iterator[Path]:
    """A file on the pool's shared folder that jobs of any node append to."""
    path = pool.share / f"ran-{uuid.uuid4().hex}"
    path.touch(mode=0o666)
    path.chmod(0o666)
    yield path
    path.unlink()


@pytest.mark.timeout(280)
def test_six_kills_on_the_pool(service, ran):
    kill_scene(service, ran, points=6, jobs=12, seed=6, seconds=150, pauses=PAUSES)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_two_hundred_kills_on_the_pool(service, ran):
    kill_scene(service, ran, points=200, jobs=300, seed=200, seconds=1200, pauses=PAUSES)
