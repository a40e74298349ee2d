"""Faults on the way of the results from the spool: the schedd dies in the middle of a transfer, or has lost the files of one job."""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path

import pytest
from parts.pool import Pool

from jupyter_offload.batch.base import OUTPUT, Demand, task_folder
from jupyter_offload.batch.condor import selection
from jupyter_offload.batch.condor.batch import CondorBatch
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.errors import SiteError, SiteTimeout, SiteUnreachable

from .batch_contract import Rig, Session, content

pytestmark = pytest.mark.pool


def _rig(pool: Pool, folder: Path) -> Rig:
    config = CondorConfig(collector=pool.collector, schedd=pool.schedd, token_file=pool.token_file())
    return Rig(make=lambda: CondorBatch(config), folder=folder, seconds=120)


async def test_only_the_job_whose_files_the_schedd_has_lost_has_a_problem(pool: Pool, tmp_path: Path) -> None:
    async with Session(_rig(pool, tmp_path)) as session:
        [handles] = await session.run(session.job("echo $1; echo $1 > output.tar\n", tasks=3))
        await session.ended(handles)
        assert isinstance(session.batch, CondorBatch)
        [ad] = await session.batch.schedd.query(selection.by_handles(handles[1:2]), ["Iwd"])
        pool.exec("ap", "rm", f"{ad['Iwd']}/{OUTPUT}")
        for _ in range(2):
            fetched = await session.batch.fetch(handles)
            assert [content(one.output) for one in (fetched[0], fetched[2])] == [b"0\n", b"2\n"]
            assert [bool(one.problem) for one in fetched] == [False, True, False]
            assert fetched[1].output is None
            assert "No such file" in fetched[1].problem


async def test_a_schedd_that_dies_while_it_sends_results_loses_none(fault_pool: Pool, tmp_path: Path) -> None:
    script = "head -c 400000000 /dev/urandom > output.tar; sha256sum output.tar\n"
    demand = Demand(cpus=1, memory_bytes=256 << 20, disk_bytes=1 << 30)
    async with Session(_rig(fault_pool, tmp_path)) as session:
        [[handle]] = await session.run(session.job(script, demand=demand))
        await session.ended([handle])
        output = Path(task_folder(handle), OUTPUT)
        fetching = asyncio.create_task(session.batch.fetch([handle]))
        while not output.exists() or not output.stat().st_size:
            assert not fetching.done(), "the transfer was over before it could be broken"
            await asyncio.sleep(0.005)
        await asyncio.to_thread(fault_pool.kill, "ap")
        try:
            with pytest.raises((SiteUnreachable, SiteTimeout)):
                await fetching
            assert not output.exists()
        finally:
            await asyncio.to_thread(fault_pool.start, "ap")
        deadline = time.monotonic() + 120
        while True:
            try:
                [fetched] = await session.batch.fetch([handle])
                break
            except SiteError:
                assert time.monotonic() < deadline
                await asyncio.sleep(1)
        assert fetched.output, fetched.problem
        with Path(fetched.output).open("rb") as file:
            assert hashlib.sha256(file.read()).hexdigest() == content(fetched.out).decode().split()[0]
