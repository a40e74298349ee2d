"""The whole way with HTCondor 23.9 on every daemon and the bindings of today."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from parts.pool import Pool

from jupyter_offload.batch.base import OUT, Demand
from jupyter_offload.batch.condor.batch import CondorBatch
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.job import State

from .batch_contract import Rig, Session, content

pytestmark = pytest.mark.pool
TINY = Demand(cpus=1, memory_bytes=64 << 20, disk_bytes=64 << 20)


async def test_submit_start_read_fetch_and_remove(old_pool: Pool, tmp_path: Path) -> None:
    config = CondorConfig(collector=old_pool.collector, schedd=old_pool.schedd, token_file=old_pool.token_file())
    script = "for i in $(seq 6); do echo $i; sleep 1; done; echo x > f; tar cf output.tar f; exit 3\n"
    async with Session(Rig(make=lambda: CondorBatch(config), folder=tmp_path)) as session:
        [[waiting], [handle]] = await session.submit(
            session.job("true\n", demand=TINY), session.job(script, demand=TINY)
        )
        await asyncio.sleep(2)  # the files are there: what is held must stay so
        assert [status.state for status in await session.batch.poll([waiting, handle])] == [State.PREPARING] * 2
        await session.batch.start([handle])
        await session.until([handle], lambda status: status.state is State.RUNNING)
        await session.batch.read(handle, OUT, 0)  # a retrieve in the middle must do no harm
        assert (await session.batch.describe()).logs == "at_end"
        [status] = await session.ended([handle])
        assert (status.state, status.exit_code, status.attempts) == (State.FINISHING, 3, 1)
        [fetched] = await session.batch.fetch([handle])
        assert fetched.output
        assert content(fetched.out) == b"1\n2\n3\n4\n5\n6\n"  # not what the retrieve in the middle brought
        assert (await session.batch.poll([waiting]))[0].state is State.PREPARING
        assert "23.9" in (await session.batch.describe()).version
        await session.batch.remove([handle, waiting])
        [status] = await session.until([waiting], lambda status: status.state is State.CANCELLED)
