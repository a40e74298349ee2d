"""Real job scripts, as the translator writes them, ended by the local batch: what the user gets back then."""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from parts.job_script import Ran, pod, shell, work

from jupyter_offload.batch.base import OUT, Demand, Fetched, Handle, Submission
from jupyter_offload.batch.local import LocalBatch
from jupyter_offload.batch.processes import procfs
from jupyter_offload.batch.processes.task import MARKER
from jupyter_offload.job import State
from jupyter_offload.pod import Work
from jupyter_offload.translator import Options, translate, write
from jupyter_offload.translator.frames import FrameParser, LogFrame

pytest.register_assert_rewrite(f"{__package__}.batch_contract")
from .batch_contract import Rig, Session  # noqa: E402 (after the registration)


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    rig = Rig(make=lambda: LocalBatch(tmp_path / "spool", slots=2), folder=tmp_path, seconds=60)
    async with Session(rig) as session:
        yield session


def submission(session: Session, given: Work, **demand: Any) -> Submission:
    folder = session.rig.folder / uuid.uuid4().hex
    folder.mkdir(mode=0o700)
    translation = translate(given, Options(runtime="host"))
    written = write(translation, folder)
    return Submission(
        job_id=uuid.uuid4().hex,
        attempt=uuid.uuid4().hex[:12],
        owner="translator",
        name="translator",
        folder=str(folder),
        script=written.script,
        inputs=written.inputs,
        task_inputs=written.task_inputs,
        tasks=given.tasks,
        demand=Demand(**{"cpus": 1, "memory_bytes": 200 << 20, "disk_bytes": 200 << 20, **demand}),
        grace_seconds=5,
    )


def ran(fetched: Fetched) -> Ran:
    assert fetched.output, fetched.problem
    out = Path(fetched.out or "").read_bytes()
    return Ran(Path(fetched.output).parent, 0, out, Path(fetched.err or "").read_text(), FrameParser().feed(out))


async def said(session: Session, handle: Handle, text: bytes) -> None:
    """Wait until a container has said something."""
    deadline = time.monotonic() + 30
    while True:
        frames = FrameParser().feed((await session.batch.read(handle, OUT, 0)).data)
        if text in b"".join(frame.data for frame in frames if isinstance(frame, LogFrame)):
            return
        assert time.monotonic() < deadline


async def test_a_job_that_used_too_much_memory_brings_its_log_back(session: Session) -> None:
    hog = (
        f"echo before; {sys.executable} -S -c \"x = b'x' * (400 << 20); import time; time.sleep(60)\"; echo $?; exit 9"
    )
    [[handle]] = await session.run(submission(session, work(pod(shell(hog), terminationGracePeriodSeconds=2))))
    [status] = await session.ended([handle])
    assert (status.state, status.error) == (State.FINISHING, "MemoryExceeded"), status
    [fetched] = await session.batch.fetch([handle])
    job = ran(fetched)
    assert job.log(stream="stdout").startswith(b"before\n")
    assert job.status["phase"] == "Failed"


@pytest.mark.parametrize("why", ["cancel", "time", "disk"])
async def test_a_job_that_is_ended_brings_its_log_back(session: Session, why: str) -> None:
    script = "echo before; [ $WHY != disk ] || head -c 300000000 /dev/zero > large; sleep 600"
    made = shell(script, env=[{"name": "WHY", "value": why}])
    limit = {"time_seconds": 2} if why == "time" else {}
    [[handle]] = await session.run(submission(session, work(pod(made, terminationGracePeriodSeconds=2)), **limit))
    await said(session, handle, b"before\n")
    before = procfs.marked(f"{MARKER}={handle.id}".encode())
    if why == "cancel":
        await session.batch.cancel([handle], "enough")
    [status] = await session.ended([handle])
    assert status.error == {"cancel": "", "time": "TimeExceeded", "disk": "DiskExceeded"}[why]
    assert status.state is (State.CANCELLED if why == "cancel" else State.FINISHING)
    [fetched] = await session.batch.fetch([handle])
    job = ran(fetched)
    assert job.log(stream="stdout") == b"before\n"
    assert job.status["phase"] == "Failed"
    assert job.status["reason"] == "Terminated"
    assert before
    assert not [pid for pid in before if procfs.identity(pid)]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:  # it has ended meanwhile
        return b""


async def test_a_job_whose_supervisor_is_killed_runs_again_and_ends_well(session: Session) -> None:
    marks = session.rig.folder / "marks"
    script = f"echo x >> {marks}; [ $(wc -l < {marks}) = 2 ] || sleep 600; echo done"
    [[handle]] = await session.run(submission(session, work(pod(shell(script), terminationGracePeriodSeconds=1))))
    deadline = time.monotonic() + 30
    while not marks.exists():
        assert time.monotonic() < deadline
        await session.batch.poll([handle])
    [pid] = [pid for pid in procfs.descendants(os.getpid()) if b"processes.supervise" in _command_line(pid)]
    os.kill(pid, signal.SIGKILL)
    [status] = await session.ended([handle])
    assert (status.state, status.exit_code, status.attempts) == (State.FINISHING, 0, 2)
    [fetched] = await session.batch.fetch([handle])
    assert ran(fetched).log(stream="stdout") == b"done\n"
