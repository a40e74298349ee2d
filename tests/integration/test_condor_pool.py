"""What the HTCondor batch does beyond the contract, on a real pool: live logs, limits, holds, identities, GPUs, group commit."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from parts.pool import Pool

from jupyter_offload.batch.base import OUT, Demand, Handle, Status, Submission
from jupyter_offload.batch.condor import selection
from jupyter_offload.batch.condor.batch import CondorBatch
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.batch.condor.description import decode
from jupyter_offload.errors import AuthFailed, BatchNotFound, Denied, SiteUnreachable
from jupyter_offload.job import State

from .batch_contract import SMALL, Rig, Session, content

pytestmark = pytest.mark.pool


def _config(pool: Pool, **changes: object) -> CondorConfig:
    config = CondorConfig(collector=pool.collector, schedd=pool.schedd, token_file=pool.token_file())
    return dataclasses.replace(config, **changes)


@pytest.fixture
async def session(pool: Pool, tmp_path: Path) -> AsyncIterator[Session]:
    config = _config(pool)
    async with Session(Rig(make=lambda: CondorBatch(config), folder=tmp_path)) as running:
        yield running


def _batch(session: Session) -> CondorBatch:
    assert isinstance(session.batch, CondorBatch)
    return session.batch


async def _raw(session: Session, handle: Handle, *attributes: str) -> dict[str, object]:
    [ad] = await _batch(session).schedd.query(selection.by_handles([handle]), attributes)
    return ad


async def test_what_a_job_prints_is_seen_within_two_seconds(session: Session) -> None:
    script = "for i in $(seq 12); do date +%s.%N; sleep 0.5; done; tar cf output.tar job.sh\n"
    [[handle]] = await session.run(session.job(script))
    seen, ages = b"", []
    while True:
        chunk = await session.batch.read(handle, OUT, len(seen))
        complete = chunk.data[: chunk.data.rfind(b"\n") + 1]
        if complete and not chunk.end:
            ages.append(time.time() - float(complete.split()[-1]))
        seen += complete
        if chunk.end:
            break
        await asyncio.sleep(0.1)
    assert len(ages) >= 4, ages
    assert max(ages) <= 2.0, ages
    [fetched] = await session.batch.fetch([handle])
    assert fetched.output
    assert content(fetched.out) == seen  # a retrieve in the middle must not leave a shorter file behind
    assert len(seen.split()) == 12


async def test_over_the_memory_limit(session: Session) -> None:
    script = "echo before; python3 -c 'x = b\"x\" * 700_000_000; import time; time.sleep(60)'\n"
    [[handle]] = await session.run(session.job(script, demand=Demand(memory_bytes=64 << 20, disk_bytes=64 << 20)))
    [status] = await session.ended([handle])
    assert (status.state, status.error) == (State.FINISHING, "MemoryExceeded")
    assert "--memory" in status.hint
    [fetched] = await session.batch.fetch([handle])
    assert content(fetched.out) == b"before\n"


async def test_an_administrator_holds_releases_and_removes(session: Session, pool: Pool) -> None:
    [[held], [removed]] = await session.run(session.job("sleep 100\n"), session.job("sleep 100\n"))
    await session.until([held, removed], lambda status: status.state is State.RUNNING)
    pool.exec("ap", "condor_hold", "-reason", "too much I/O", held.id.rpartition("#")[2])
    pool.exec("ap", "condor_rm", "-reason", "not allowed here", removed.id.rpartition("#")[2])
    [status] = await session.until([held], lambda status: status.state is State.HELD)
    assert "too much I/O" in status.reason
    assert status.error == "JobHeld"
    assert status.hint
    await session.batch.start([held])  # a repeated start does not undo a hold
    assert (await session.batch.poll([held]))[0].state is State.HELD
    [status] = await session.until([removed], lambda status: status.state is State.CANCELLED)
    assert "not allowed here" in status.reason
    pool.exec("ap", "condor_release", held.id.rpartition("#")[2])
    [status] = await session.until([held], lambda status: status.state is State.RUNNING)
    assert status.attempts == 2


async def test_an_eviction_reruns_or_ends(session: Session, pool: Pool) -> None:
    script = "echo run; sleep 100\n"
    [[again], [once]] = await session.run(session.job(script), session.job(script, rerun=False))
    await session.until([again, once], lambda status: status.state is State.RUNNING)
    for handle in (again, once):
        await _seen(session, handle, b"run")
        pool.exec("ap", "condor_vacate_job", handle.id.rpartition("#")[2])
    [status] = await session.until([again], lambda status: status.attempts == 2 and status.state is State.RUNNING)
    [status] = await session.until([once], lambda status: status.state is State.FAILED)
    assert "evicted" in status.reason
    assert status.attempts == 1
    # It matches no slot any more, not only as we show it: several negotiation cycles pass.
    await asyncio.sleep(5)
    ad = await _raw(session, once, "JobStatus", "NumShadowStarts")
    assert (ad["JobStatus"], ad["NumShadowStarts"]) == (1, 1)


async def _seen(session: Session, handle: Handle, text: bytes) -> None:
    deadline = time.monotonic() + session.rig.seconds
    while text not in (await session.batch.read(handle, OUT, 0)).data:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_the_end_of_its_life_removes_a_job(session: Session) -> None:
    # The schedd looks at such expressions now and then; here every few seconds.
    past = dataclasses.replace(session.job("sleep 600\n"), expires=time.time() - 5)
    [[handle]] = await session.run(past)
    [status] = await session.until([handle], lambda status: status.state is State.CANCELLED)
    assert "OffloadExpires" in status.reason or status.reason


async def test_gpu_models_are_listed_and_asked_for(session: Session) -> None:
    [model] = (await session.batch.describe()).gpus
    assert model.name.startswith("A100")
    assert model.total == 4
    assert model.memory_bytes
    small = dataclasses.replace(SMALL, gpus=1)
    script = "echo $CUDA_VISIBLE_DEVICES\n"
    jobs = [
        session.job(script, demand=dataclasses.replace(small, gpu_model=name))
        for name in ("A100", "a100-sxm4-40gb", "A10", "H100")
    ]
    handles = [handle for group in await session.run(*jobs) for handle in group]
    await session.ended(handles[:2])
    for item in await session.batch.fetch(handles[:2]):
        assert content(item.out).startswith(b"GPU-")
    assert {status.state for status in await session.batch.poll(handles[2:])} == {State.QUEUED}


async def test_a_thousand_submissions_are_one_and_a_sweep_is_one_query(session: Session, tmp_path: Path) -> None:
    batch = _batch(session)
    await batch.schedd.locate()
    jobs = [session.job("true\n") for _ in range(1000)]
    groups = await session.submit(*jobs)
    handles = [handle for group in groups for handle in group]
    assert batch.schedd.counts["submit"] == 1
    assert len({handle.id for handle in handles}) == 1000
    for count in (1, 100, 1000):
        before = {"query": 0, **batch.schedd.counts}
        assert {status.state for status in await batch.poll(handles[:count])} == {State.PREPARING}
        assert batch.schedd.counts["query"] - before["query"] == 1
        assert batch.schedd.counts.get("history", 0) == before.get("history", 0)
    before = dict(batch.schedd.counts)
    await asyncio.gather(*(batch.poll([handle]) for handle in handles))
    assert batch.schedd.counts["query"] - before["query"] <= 2
    ad = await _raw(session, handles[999], "OffloadJob", "OffloadIndex")
    assert ad["OffloadJob"] == jobs[999].job_id


async def test_concurrent_callers_share_submissions_and_start_alone(session: Session) -> None:
    batch = _batch(session)
    await batch.schedd.locate()
    jobs = [session.job("true\n") for _ in range(50)]
    groups = await asyncio.gather(*(session.submit(job) for job in jobs))
    assert batch.schedd.counts["submit"] <= 3
    handles = [handle for [[handle]] in groups]
    assert [handle.job_id for handle in handles] == [job.job_id for job in jobs]
    # One of a shared cluster is started; its neighbours stay.
    await batch.start([handles[7]])
    await session.ended([handles[7]])
    others = [handle for handle in handles if handle is not handles[7]]
    assert {status.state for status in await batch.poll(others)} == {State.PREPARING}


HOSTILE = [
    "plain",
    "a\nqueue 5\n",
    "include command : touch /tmp/pwned",
    "$(HOME) $ENV(HOME) $$(Arch) $RANDOM_CHOICE(a,b)",
    ")",
    "\x1f\x1f",
    'x" || true || "',
    "\\",
    "ä ü 漢字 🚀",
    "\x00\x01\x7f",
    "'; rm -rf ~; '",
    "`id`",
    "#comment",
    "=",
    " lead and trail ",
    "\ud800",
]


async def test_hostile_names_arrive_as_they_were(pool: Pool, tmp_path: Path) -> None:
    config = _config(pool, submit={"+ProjectName": 'a $(HOME) $ENV(HOME) "b" ) # ä'})
    async with Session(Rig(make=lambda: CondorBatch(config), folder=tmp_path)) as session:
        values = [f"{text}{number}" for number in range(13) for text in HOSTILE][:200]
        jobs = [dataclasses.replace(session.job("true\n"), owner=text, name=text[::-1]) for text in values]
        groups = await session.submit(*jobs)
        handles = [handle for group in groups for handle in group]
        assert len(handles) == 200
        ads = await _batch(session).schedd.query(
            selection.by_handles(handles),
            ("ProcId", "OffloadOwner", "OffloadName", "ProjectName", "Args", "Env", "Environment"),
        )
        assert len(ads) == 200
        for ad in ads:
            assert decode(ad["OffloadOwner"]) == values[ad["ProcId"]]
            assert decode(ad["OffloadName"]) == values[ad["ProcId"]][::-1]
            assert ad["ProjectName"] == 'a $(HOME) $ENV(HOME) "b" ) # ä'


async def test_a_job_folder_may_have_an_odd_name(pool: Pool, tmp_path: Path) -> None:
    config = _config(pool)
    folder = tmp_path / "odd ä = # ~ % @ : + folder"
    folder.mkdir()
    async with Session(Rig(make=lambda: CondorBatch(config), folder=folder)) as session:
        [[handle]] = await session.run(session.job("cat x\n", inputs={"x": b"here"}))
        await session.ended([handle])
        [fetched] = await session.batch.fetch([handle])
        assert content(fetched.out) == b"here"
        assert (await session.batch.find([handle.job_id]))[0].status.handle == handle


async def test_a_job_ad_is_small_and_holds_no_environment(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SERVICE", "must not be seen")
    [[handle]] = await session.submit(session.job("true\n", inputs={"secret.tar": b"hidden"}))
    everything = _batch(session)
    location = await everything.schedd.locate()
    assert location["Name"]
    ad = await _raw(session, handle, "Environment", "Env", "Args", "Arguments", "TransferInput", "Requirements", "Iwd")
    text = json.dumps(ad)
    assert "must not be seen" not in text
    assert "hidden" not in text
    assert not ad.get("Environment")
    assert len(text) < 4000


async def test_a_swapped_token_is_another_user_at_once(pool: Pool, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(pool.token("alice"))
    config = _config(pool, token_file=token)
    async with Session(Rig(make=lambda: CondorBatch(config), folder=tmp_path)) as session:
        [[first]] = await session.submit(session.job("true\n"))
        assert (await _raw(session, first, "Owner"))["Owner"] == "alice"
        pids = set(_batch(session).workers.pids.values())
        fresh = tmp_path / "fresh"
        fresh.write_text(pool.token("bob"))
        fresh.replace(token)
        [[second]] = await session.submit(session.job("true\n"))
        assert (await _raw(session, second, "Owner"))["Owner"] == "bob"
        assert pids.isdisjoint(_batch(session).workers.pids.values())
        assert (await session.batch.describe()).identity.startswith("bob@")
        token.write_text(pool.token("alice"))
        await session.batch.remove([first])
        [status] = await session.batch.poll([first])
        assert status.state is State.CANCELLED
        token.write_text(pool.token("bob"))
        await session.batch.remove([second])


async def _refused(pool: Pool, tmp_path: Path, token: str) -> list[Exception]:
    path = tmp_path / f"token-{uuid.uuid4().hex}"
    path.write_text(token)
    batch = CondorBatch(_config(pool, token_file=path))
    folder = tmp_path / uuid.uuid4().hex
    folder.mkdir()
    (folder / "job.sh").write_text("true\n")
    job = Submission(uuid.uuid4().hex, "a", "alice", "x", str(folder), "job.sh", demand=SMALL)
    strange = Handle(f"{pool.schedd}#999999.0", uuid.uuid4().hex, 0, "a", str(folder))
    problems: list[Exception] = []
    try:
        for call in (batch.submit([job]), batch.cancel([strange], "x"), batch.start([strange])):
            with pytest.raises((AuthFailed, Denied)) as caught:
                await call
            problems.append(caught.value)
    finally:
        await batch.close()
    return problems


async def test_an_expired_token(pool: Pool, tmp_path: Path) -> None:
    token = pool.token("alice", lifetime=1)
    await asyncio.sleep(2.5)
    for problem in await _refused(pool, tmp_path, token):
        assert isinstance(problem, AuthFailed)
        assert "expired" in str(problem)
        assert "token_file" in str(problem)


async def test_a_wrong_token(pool: Pool, tmp_path: Path) -> None:
    head, claims, signature = pool.token("alice").split(".")
    for problem in await _refused(pool, tmp_path, f"{head}.{claims}.{signature[::-1]}"):
        assert isinstance(problem, AuthFailed)
        assert problem.hint


async def test_a_token_that_may_only_look(pool: Pool, tmp_path: Path) -> None:
    for problem in await _refused(pool, tmp_path, pool.token("alice", scopes=["READ"])):
        assert isinstance(problem, Denied)
        assert "condor:/WRITE" in str(problem)


async def test_what_was_not_spooled_is_dead_and_said_to_be(session: Session) -> None:
    # A submission that broke off before its files were sent: the writer is killed when the schedd has the job.
    batch = _batch(session)
    [[warm]] = await session.submit(session.job("true\n"))
    job = session.job("true\n", inputs={"large": bytes(200_000_000)})
    task = asyncio.create_task(session.submit(job))
    while not (ads := await batch.schedd.query(selection.by_jobs([job.job_id]), ("ClusterId", "HoldReasonCode"))):
        await asyncio.sleep(0.005)
    os.kill(batch.workers.pids["writer"], signal.SIGKILL)
    with pytest.raises(SiteUnreachable):
        await task
    handle = Handle(f"{batch.schedd.name}#{ads[0]['ClusterId']}.0", job.job_id, 0, job.attempt, job.folder)
    # The schedd may remove it by itself, when it notices that the transfer broke off.
    for found in await batch.find([job.job_id]):
        assert found.status.handle == handle
        assert not found.runnable or found.status.state is State.CANCELLED
    with contextlib.suppress(BatchNotFound):
        await batch.start([handle])
    await asyncio.sleep(3)
    assert {status.state for status in await batch.poll([handle])} <= {State.PREPARING, State.CANCELLED}
    await batch.remove([handle])
    await session.until([handle], lambda status: status.state is State.CANCELLED)
    assert (await batch.poll([warm]))[0].state is State.PREPARING


async def test_a_cancelled_task_keeps_what_it_printed(session: Session) -> None:
    [[handle]] = await session.run(session.job("echo so far; sleep 100\n"))
    await session.until([handle], lambda status: status.state is State.RUNNING)
    await _seen(session, handle, b"so far")
    await session.batch.cancel([handle], "not needed")
    [status] = await session.until([handle], lambda status: status.state is State.CANCELLED)
    assert "not needed" in status.reason
    chunk = await session.batch.read(handle, OUT, 0)
    assert chunk.data == b"so far\n"
    [fetched] = await session.batch.fetch([handle])
    assert content(fetched.out) == b"so far\n"


async def test_statuses_follow_one_task(session: Session) -> None:
    [[handle]] = await session.submit(session.job("sleep 1; exit 3\n"))
    states: list[State] = []

    def note(status: Status) -> bool:
        if not states or states[-1] is not status.state:
            states.append(status.state)
        return status.state is State.FINISHING

    await session.batch.poll([handle])
    await session.batch.start([handle])
    await session.until([handle], note)
    order = [State.PREPARING, State.QUEUED, State.RUNNING, State.FINISHING]
    assert states == [state for state in order if state in states]
