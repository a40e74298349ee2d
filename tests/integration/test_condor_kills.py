"""Killed at any moment of submit and start, by a real SIGKILL at seeded times: no task is lost, none runs twice.

The protocol is the caller's, as `Batch` describes it: after a doubt it looks with `find`, adopts what is runnable, removes what is not, and
submits again under another attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from parts.pool import Pool

from jupyter_offload.batch.base import Demand, Handle, Submission
from jupyter_offload.batch.condor import selection
from jupyter_offload.batch.condor.batch import CondorBatch
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.batch.condor.states import PROJECTION
from jupyter_offload.errors import SiteError
from jupyter_offload.job import State

from .batch_contract import Rig, Session

pytestmark = pytest.mark.pool

POINTS = int(os.environ.get("OFFLOAD_KILL_POINTS", "20"))

# Submits and starts one job after another, saying what it has done, until it is killed.
CHILD = """
import asyncio, json, sys
from pathlib import Path
from jupyter_offload.batch.base import Demand, Submission
from jupyter_offload.batch.condor.batch import CondorBatch
from jupyter_offload.batch.condor.config import CondorConfig
order = json.load(sys.stdin)
async def main():
    order["config"]["token_file"] = Path(order["config"]["token_file"])
    batch = CondorBatch(CondorConfig(**order["config"]))
    await batch.schedd.locate()
    print("ready", flush=True)
    for job in order["jobs"]:
        job = Submission(**{**job, "demand": Demand(**job["demand"]), "inputs": tuple(job["inputs"])})
        [[handle]] = await batch.submit([job])
        print("recorded", job.job_id, flush=True)
        await batch.start([handle])
        print("started", job.job_id, flush=True)
asyncio.run(main())
"""


def _config(pool: Pool) -> CondorConfig:
    return CondorConfig(collector=pool.collector, schedd=pool.schedd, token_file=pool.token_file())


async def _finish(batch: CondorBatch, jobs: Sequence[Submission]) -> list[Handle]:
    """What a service does after it was killed: bring each job to exactly one started task."""
    handles: list[Handle] = []
    everything = await batch.find([job.job_id for job in jobs])
    for job in jobs:
        mine = [item for item in everything if item.status.handle.job_id == job.job_id]
        found = [item for item in mine if item.status.state is not State.CANCELLED]
        runnable = [item.status.handle for item in found if item.runnable]
        assert len(runnable) <= 1, found
        stale = [item.status.handle for item in found if not item.runnable]
        if stale:
            await batch.remove(stale)
        if not runnable:
            again = replace(job, attempt=f"{job.attempt}-again")
            [runnable] = await batch.submit([again])
            await batch.start(runnable)
        handles += runnable
    return handles


async def _ran_once(session: Session, jobs: Sequence[Submission], handles: Sequence[Handle]) -> None:
    statuses = await session.ended(handles)
    assert {status.state for status in statuses} == {State.FINISHING}
    batch = session.batch
    assert isinstance(batch, CondorBatch)
    constraint = selection.by_jobs([job.job_id for job in jobs])
    ads = [
        *await batch.schedd.history(constraint, PROJECTION, 10_000),
        *await batch.schedd.query(constraint, PROJECTION),
    ]
    for job, handle in zip(jobs, handles, strict=True):
        mine = [ad for ad in ads if ad["OffloadJob"] == job.job_id]
        begun = {(ad["ClusterId"], ad["ProcId"]): ad.get("NumShadowStarts", 0) for ad in mine}
        assert sum(begun.values()) == 1, (job.job_id, begun)
        assert handle.job_id == job.job_id


async def test_the_service_is_killed_at_seeded_times(pool: Pool, tmp_path: Path) -> None:
    config = _config(pool)
    plain = {**asdict(config), "token_file": str(config.token_file)}
    chance = random.Random(20261121)
    everything: list[Submission] = []
    said = {"ready": 0, "recorded": 0, "started": 0}
    async with Session(Rig(make=lambda: CondorBatch(config), folder=tmp_path, seconds=240)) as session:
        for _ in range(POINTS):
            jobs = [session.job("true\n", inputs={"inputs.tar": b"x"}, demand=SMALL) for _ in range(8)]
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CHILD, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(json.dumps({"config": plain, "jobs": [asdict(job) for job in jobs]}).encode())
            child.stdin.close()
            lines = [await child.stdout.readline()]
            await asyncio.sleep(chance.uniform(0, 0.25))
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself just now
                child.kill()
            lines += (await child.stdout.read()).splitlines()
            await child.wait()
            for line in lines:
                said[line.decode().split()[0]] += 1
            # What was never begun has no doubt: only the jobs around the kill matter.
            begun = sum(line.startswith(b"recorded") for line in lines)
            everything += jobs[: begun + 1]
        handles = await _finish(session.batch, everything)  # type: ignore[arg-type]
        session.handles += handles
        assert said["ready"] == POINTS
        await _ran_once(session, everything, handles)


async def test_workers_are_killed_at_seeded_times(pool: Pool, tmp_path: Path) -> None:
    config = _config(pool)
    chance = random.Random(42)
    jobs: list[Submission] = []
    broken = 0
    async with Session(Rig(make=lambda: CondorBatch(config), folder=tmp_path, seconds=240)) as session:
        batch = session.batch
        assert isinstance(batch, CondorBatch)
        await batch.start(await _handed(batch, warm := session.job("true\n", demand=SMALL)))
        jobs.append(warm)
        for _ in range(POINTS):
            job = session.job("true\n", inputs={"inputs.tar": bytes(chance.choice([1, 3_000_000]))}, demand=SMALL)
            jobs.append(job)
            task = asyncio.create_task(_submit_and_start(batch, job))
            await asyncio.sleep(chance.uniform(0, 0.05))
            pid = batch.workers.pids.get("writer")
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):  # it may have ended by itself just now
                    os.kill(pid, signal.SIGKILL)
            try:
                await task
            except SiteError:
                broken += 1
        assert broken >= POINTS // 4, broken
        handles = await _finish(batch, jobs)
        session.handles += handles
        await _ran_once(session, jobs, handles)


async def _handed(batch: CondorBatch, job: Submission) -> list[Handle]:
    [handles] = await batch.submit([job])
    return handles


async def _submit_and_start(batch: CondorBatch, job: Submission) -> None:
    await batch.start(await _handed(batch, job))


SMALL = Demand(cpus=1, memory_bytes=64 << 20, disk_bytes=64 << 20)
