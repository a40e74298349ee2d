"""Faults of the pool itself: its schedd dies, restarts, hangs or refuses, a worker node dies. On a pool of this process alone."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from parts.pool import Pool

from jupyter_offload.batch.base import Demand
from jupyter_offload.batch.condor.batch import CondorBatch
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.errors import BadSubmit, QuotaExceeded, SiteError, SiteTimeout, SiteUnreachable
from jupyter_offload.job import State

from .batch_contract import Rig, Session, content

pytestmark = pytest.mark.pool
TINY = Demand(cpus=1, memory_bytes=64 << 20, disk_bytes=64 << 20)


def _config(pool: Pool, **changes: object) -> CondorConfig:
    config = CondorConfig(collector=pool.collector, schedd=pool.schedd, token_file=pool.token_file())
    return dataclasses.replace(config, **changes)


@pytest.fixture
async def session(fault_pool: Pool, tmp_path: Path) -> AsyncIterator[Session]:
    config = _config(fault_pool)
    async with Session(Rig(make=lambda: CondorBatch(config), folder=tmp_path, seconds=120)) as running:
        yield running


def _batch(session: Session) -> CondorBatch:
    assert isinstance(session.batch, CondorBatch)
    return session.batch


async def _patiently(session: Session, call: object) -> object:
    """Repeat what may fail while a daemon restarts."""
    deadline = time.monotonic() + session.rig.seconds
    while True:
        try:
            return await call()  # type: ignore[operator]
        except SiteError as error:
            assert isinstance(error, (SiteUnreachable, SiteTimeout)), error
            assert time.monotonic() < deadline
            await asyncio.sleep(0.5)


async def test_the_schedd_is_killed_while_a_job_runs_and_while_one_waits(fault_pool: Pool, session: Session) -> None:
    script = "echo begin; sleep 20; echo end; tar cf output.tar job.sh\n"
    [[running], [unstarted]] = await session.submit(
        session.job(script, demand=TINY), session.job("echo later\n", demand=TINY)
    )
    await session.batch.start([running])
    await session.until([running], lambda status: status.state is State.RUNNING)
    await asyncio.sleep(5)  # the schedd writes some of a job's state to disk only later
    fault_pool.kill_daemon("ap", "condor_schedd")
    problems = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            first, second = await session.batch.poll([running, unstarted])
        except SiteError as error:
            problems.append(error)
            await asyncio.sleep(0.2)
            continue
        # We could not look, or we see what is: never a failure.
        # Whether the schedd finds the job's worker again, or runs it anew, is its own affair.
        assert first.state in (State.RUNNING, State.QUEUED, State.FINISHING), first
        assert second.state is State.PREPARING, second
        if problems and first.state is State.FINISHING:
            break
        await asyncio.sleep(0.2)
    assert problems
    assert {type(problem) for problem in problems} <= {SiteUnreachable, SiteTimeout}
    [status] = await session.ended([running])
    assert (status.state, status.exit_code) == (State.FINISHING, 0)
    [fetched] = await session.batch.fetch([running])
    # What is streamed after a reconnection may not reach the spool; output.tar, which comes at the end, is whole.
    assert content(fetched.out).startswith(b"begin\n")
    assert fetched.output
    await session.batch.start([unstarted])
    await session.ended([unstarted])
    [fetched] = await session.batch.fetch([unstarted])
    assert content(fetched.out) == b"later\n"


async def test_a_start_that_the_schedd_forgot_is_made_again(fault_pool: Pool, session: Session) -> None:
    # Killed in the second in which it takes over the files, and just after it.
    for pause in (0.0, 1.5):
        [[handle]] = await session.run(session.job("echo x; tar cf output.tar job.sh\n", demand=TINY))
        await asyncio.sleep(pause)
        fault_pool.kill_daemon("ap", "condor_schedd")
        deadline = time.monotonic() + 120
        while True:
            statuses = await _patiently(session, lambda one=handle: session.batch.poll([one]))
            assert isinstance(statuses, list)
            if statuses[0].state in (State.FINISHING, State.FAILED):
                break
            assert time.monotonic() < deadline, statuses
            await asyncio.sleep(0.5)
        if statuses[0].state is State.FINISHING:
            assert (await session.batch.fetch([handle]))[0].output
        else:  # killed while it took over the files: said, and never runnable
            assert "never ran" in statuses[0].reason
            assert not (await session.batch.find([handle.job_id]))[0].runnable


async def test_the_submit_node_restarts_during_submissions(fault_pool: Pool, session: Session) -> None:
    batch = _batch(session)
    jobs = [session.job("echo x; tar cf output.tar job.sh\n", demand=TINY) for _ in range(12)]
    doubt = []

    async def submit_all() -> None:
        for job in jobs:
            try:
                [handles] = await session.submit(job)
                await batch.start(handles)
            except SiteError as error:
                assert isinstance(error, (SiteUnreachable, SiteTimeout)), error
                doubt.append(job)
            await asyncio.sleep(0.3)

    task = asyncio.create_task(submit_all())
    await asyncio.sleep(0.8)
    await asyncio.to_thread(fault_pool.restart_schedd)
    await task
    assert doubt
    handles = []
    found = await _patiently(session, lambda: batch.find([job.job_id for job in jobs]))
    assert isinstance(found, list)
    for job in jobs:
        mine = [item for item in found if item.status.handle.job_id == job.job_id]
        runnable = [item.status.handle for item in mine if item.runnable]
        assert len(runnable) <= 1
        if not runnable:
            if stale := [item.status.handle for item in mine]:
                await batch.remove(stale)
            again = dataclasses.replace(job, attempt="second")
            [runnable] = await session.submit(again)
            await batch.start(runnable)
        handles += runnable
    assert {status.state for status in await session.ended(handles)} == {State.FINISHING}
    assert len(await session.batch.fetch(handles)) == 12
    after = await batch.schedd.locate()
    assert after["MyAddress"].startswith("<")  # a restarted container may come back under the same address


async def test_a_frozen_submit_node_is_a_timeout_and_no_state(fault_pool: Pool, tmp_path: Path) -> None:
    config = _config(fault_pool, query_seconds=2.0, act_seconds=2.0, submit_seconds=2.0, locate_seconds=2.0)
    async with Session(Rig(make=lambda: CondorBatch(config), folder=tmp_path)) as session:
        [[handle]] = await session.run(session.job("sleep 30\n", demand=TINY))
        await session.until([handle], lambda status: status.state is State.RUNNING)
        fault_pool.pause("ap")
        try:
            begun = time.monotonic()
            with pytest.raises((SiteTimeout, SiteUnreachable)) as caught:
                await session.batch.poll([handle])
            assert time.monotonic() - begun < 10
            assert caught.value.hint
            with pytest.raises((SiteTimeout, SiteUnreachable)):
                await session.submit(session.job("true\n", demand=TINY))
            for _ in range(5):
                with pytest.raises((SiteTimeout, SiteUnreachable)):
                    await session.batch.poll([handle])
            begun = time.monotonic()
            with pytest.raises(SiteUnreachable) as caught:
                await session.batch.poll([handle])
            assert time.monotonic() - begun < 0.5
            assert caught.value.details["since"]
        finally:
            fault_pool.unpause("ap")
        await asyncio.sleep(31)  # the breaker's pause
        [status] = await session.until([handle], lambda status: status.state is not State.QUEUED)
        assert status.state in (State.RUNNING, State.FINISHING)


async def test_a_schedd_that_takes_few_jobs_at_once_is_learned(fault_pool: Pool, session: Session) -> None:
    fault_pool.configure("MAX_JOBS_PER_SUBMISSION=10", node="ap")
    try:
        batch = _batch(session)
        groups = await _patiently(
            session, lambda: session.submit(*(session.job("true\n", demand=TINY) for _ in range(40)))
        )
        assert isinstance(groups, list)
        assert len({handle.id for group in groups for handle in group}) == 40
        first = batch.schedd.counts["submit"]
        await session.submit(*(session.job("true\n", demand=TINY) for _ in range(40)))
        assert batch.schedd.counts["submit"] - first <= 8
        with pytest.raises(QuotaExceeded):
            await session.submit(session.job("true\n", tasks=11, demand=TINY))
    finally:
        fault_pool.configure("MAX_JOBS_PER_SUBMISSION=20000", node="ap")


async def test_a_rule_of_the_schedd_refuses_one_caller_only(fault_pool: Pool, session: Session) -> None:
    fault_pool.configure(
        "SUBMIT_REQUIREMENT_NAMES=NotOdd",
        'SUBMIT_REQUIREMENT_NotOdd=OffloadName isnt "odd"',
        'SUBMIT_REQUIREMENT_NotOdd_REASON="odd names are not welcome"',
        node="ap",
    )
    try:
        await _patiently(session, lambda: session.submit(session.job("true\n", demand=TINY)))
        good = [session.job("true\n", demand=TINY) for _ in range(3)]
        odd = dataclasses.replace(session.job("true\n", demand=TINY), name="odd")
        answers = await asyncio.gather(
            *(session.submit(job) for job in good), session.submit(odd), return_exceptions=True
        )
        assert isinstance(answers[-1], BadSubmit), answers[-1]
        assert "not welcome" in str(answers[-1])
        assert all(isinstance(answer, list) for answer in answers[:-1])
    finally:
        fault_pool.configure("SUBMIT_REQUIREMENT_NAMES=", node="ap")


async def test_a_dead_worker_node_is_said_and_the_job_runs_again(fault_pool: Pool, session: Session) -> None:
    [[handle]] = await session.run(session.job("echo begin; sleep 12; echo end\n", demand=TINY))
    await session.until([handle], lambda status: status.state is State.RUNNING)
    await asyncio.sleep(2)
    fault_pool.kill("ep1")
    try:
        [status] = await session.until([handle], lambda status: "contact" in status.reason)
        assert status.state is State.RUNNING
    finally:
        fault_pool.start("ep1")
