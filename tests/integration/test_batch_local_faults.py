"""The local batch under faults: limits, trees of processes, killed supervisors and services, a machine that restarts, two services."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jupyter_offload.batch.base import OUT, Demand, Handle
from jupyter_offload.batch.local import LocalBatch
from jupyter_offload.batch.processes import procfs
from jupyter_offload.batch.processes.spool import Spool, read_record, write_record
from jupyter_offload.batch.processes.task import MARKER
from jupyter_offload.job import State

pytest.register_assert_rewrite(f"{__package__}.batch_contract")
from .batch_contract import TRAP, Rig, Session, content, output  # noqa: E402 (after the registration)

CALLER = Path(__file__).with_name("local_caller.py")
PYTHON = sys.executable


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    rig = Rig(make=lambda: LocalBatch(tmp_path / "spool", slots=2), folder=tmp_path, seconds=30)
    async with Session(rig) as session:
        yield session
    assert (tmp_path / "spool/supervisors.log").read_text() == ""


def spool(session: Session) -> Spool:
    return Spool(str(session.rig.folder / "spool"))


def marked(handle: Handle) -> list[int]:
    """The processes of a task."""
    return procfs.marked(f"{MARKER}={handle.id}".encode())


def supervisor(session: Session, handle: Handle) -> int:
    record = read_record(spool(session).state(f"{handle.job_id}~{handle.attempt}", handle.index, "run"))
    assert record is not None
    return int(record["pid"])


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def demand(**changes: int) -> Demand:
    return Demand(**{"cpus": 1, "memory_bytes": 100 << 20, "disk_bytes": 100 << 20, **changes})  # type: ignore[arg-type]


# -- limits


async def test_more_memory_than_asked_for_ends_the_task_and_says_how_much(session: Session) -> None:
    hog = f"{PYTHON} -S -c \"x = b'x' * (200 << 20); import time; time.sleep(600)\""
    script = (
        f"trap : TERM\n({hog}; echo $? > code) &\nuntil [ -s code ]; do sleep 0.05; done\n"
        "tar cf output.tmp code; mv output.tmp output.tar\n"
    )
    [[handle]] = await session.run(session.job(script, demand=demand()))
    [status] = await session.ended([handle])
    assert (status.state, status.error) == (State.FINISHING, "MemoryExceeded")
    assert status.reason.startswith("asked for 100.0 MiB of memory and used ")
    used = float(status.reason.split("used ")[1].split(" MiB")[0])
    assert 100 < used < 260
    assert "--memory" in status.hint
    [fetched] = await session.batch.fetch([handle])
    assert output(fetched) == {"code": b"137\n"}  # the script was there to tell


async def test_memory_that_workers_share_counts_once(session: Session) -> None:
    program = (
        "import os, time\nx = b'x' * (60 << 20)\n"
        "for _ in range(4):\n    if not os.fork():\n        time.sleep(1.5); os._exit(0)\n"
        "for _ in range(4): os.wait()\n"
    )
    job = session.job(f"{PYTHON} -S workers.py\n", inputs={"workers.py": program.encode()}, demand=demand())
    [[handle]] = await session.run(job)
    [status] = await session.ended([handle])
    assert (status.exit_code, status.error) == (0, ""), status
    end = read_record(spool(session).state(f"{handle.job_id}~{handle.attempt}", 0, "end"))
    assert end is not None
    assert 60 << 20 < int(end["memory_bytes"]) < 100 << 20


@pytest.mark.parametrize("where", [".", "$TMPDIR"])
async def test_more_disk_than_asked_for_ends_the_task(session: Session, where: str) -> None:
    script = f"trap 'exit 9' TERM\nhead -c 30000000 /dev/zero > {where}/large\nsleep 600 & wait\n"
    [[handle]] = await session.run(session.job(script, demand=demand(disk_bytes=20 << 20)))
    [status] = await session.ended([handle])
    assert (status.state, status.error, status.exit_code) == (State.FINISHING, "DiskExceeded", 9)
    assert status.reason.startswith("asked for 20.0 MiB of disk and used ")
    assert 20 < float(status.reason.split("used ")[1].split(" MiB")[0]) <= 28.7  # as seen while it was being written
    await until(lambda: not list((session.rig.folder / "spool/tmp").iterdir()))


# -- trees of processes


async def test_cancel_ends_children_in_sessions_of_their_own(session: Session) -> None:
    daemon = "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\ntime.sleep(600)\n"
    script = (
        "for i in $(seq 10); do setsid sleep 600 & done\n"
        f"for i in $(seq 5); do {PYTHON} -S daemon.py; env -i {PYTHON} -S daemon.py; done\n"
        "trap '' TERM\necho ready\nwhile :; do sleep 1; done\n"
    )
    [[handle]] = await session.run(session.job(script, inputs={"daemon.py": daemon.encode()}, grace_seconds=1))
    await session.ready(handle)
    tree = procfs.descendants(supervisor(session, handle))
    assert len(tree) >= 21
    await session.batch.cancel([handle], "enough")
    [status] = await session.ended([handle])
    assert (status.state, status.signal) == (State.CANCELLED, 9)
    assert not [pid for pid in tree if procfs.identity(pid)]


async def test_a_script_that_ends_leaves_nothing_running(session: Session) -> None:
    script = "(setsid sleep 600 &)\n(setsid setsid sleep 600 > /dev/null 2>&1 &)\necho done\n"
    [[handle]] = await session.run(session.job(script))
    [status] = await session.ended([handle])
    assert status.exit_code == 0
    assert marked(handle) == []


async def test_the_kernel_ends_a_task_before_the_service_when_memory_runs_out(session: Session) -> None:
    [[handle]] = await session.run(session.job("cat /proc/self/oom_score_adj\n"))
    await session.ended([handle])
    [fetched] = await session.batch.fetch([handle])
    assert int(content(fetched.out)) >= 500


async def test_a_script_finds_signals_as_a_shell_expects_them(session: Session) -> None:
    [[handle]] = await session.run(
        session.job("yes | head -1; echo ${PIPESTATUS[0]}; umask; trap -p; ls /proc/$$/fd\n")
    )
    await session.ended([handle])
    [fetched] = await session.batch.fetch([handle])
    assert content(fetched.out) == b"y\n141\n0077\n0\n1\n2\n255\n"  # 255: bash's own, the script


# -- supervisors that are killed


async def test_a_task_whose_supervisor_is_killed_runs_again_when_it_may(session: Session) -> None:
    script = "trap 'exit 1' TERM\necho ready $$\n(setsid sleep 600 &)\nsleep 600 & wait\n"
    [[handle]] = await session.run(session.job(script))
    await session.ready(handle)
    await until(lambda: len(marked(handle)) == 3)
    before = marked(handle)
    os.kill(supervisor(session, handle), signal.SIGKILL)
    [status] = await session.until([handle], lambda s: s.attempts == 2 and s.state is State.RUNNING)
    await session.ready(handle)
    assert not [pid for pid in before if procfs.identity(pid)]
    os.kill(supervisor(session, handle), signal.SIGKILL)
    await session.until([handle], lambda s: s.attempts == 3 and s.state is State.RUNNING)
    await session.ready(handle)
    os.kill(supervisor(session, handle), signal.SIGKILL)
    [status] = await session.ended([handle])
    assert (status.state, status.error, status.attempts) == (State.FINISHING, "JobFailed", 3)
    assert status.reason == "its supervisor vanished while it ran, and it may not start again"
    assert marked(handle) == []


async def test_a_task_that_may_not_run_again_tells_that_its_supervisor_vanished(session: Session) -> None:
    [[handle]] = await session.run(session.job(TRAP, rerun=False))
    await session.ready(handle)
    os.kill(supervisor(session, handle), signal.SIGKILL)
    await until(lambda: not marked(handle))  # the kernel told the script: no service needed for that
    [status] = await session.ended([handle])
    assert (status.state, status.error, status.attempts) == (State.FINISHING, "JobFailed", 1)
    assert "its supervisor vanished" in status.reason
    [fetched] = await session.batch.fetch([handle])
    assert content(fetched.out).startswith(b"ready\n")


async def test_children_that_dropped_the_mark_are_found_after_their_supervisor(session: Session) -> None:
    script = "(env -i setsid /bin/sleep 600 &)\necho ready; sleep 600 & wait\n"
    [[handle]] = await session.run(session.job(script, rerun=False))
    await session.ready(handle)
    await until(lambda: len(marked(handle)) == 2)  # all but the one
    tree = procfs.descendants(supervisor(session, handle))
    assert len(tree) == 3
    os.kill(supervisor(session, handle), signal.SIGKILL)
    [status] = await session.ended([handle])
    assert "its supervisor vanished" in status.reason
    assert not [pid for pid in tree if procfs.identity(pid)]


async def test_a_cancelled_task_whose_supervisor_is_killed_is_cancelled(session: Session) -> None:
    [[handle]] = await session.run(
        session.job("trap '' TERM\necho ready\nwhile :; do sleep 1; done\n", grace_seconds=2)
    )
    await session.ready(handle)
    await session.batch.cancel([handle], "enough")
    os.kill(supervisor(session, handle), signal.SIGKILL)
    [status] = await session.ended([handle])
    assert (status.state, status.reason) == (State.CANCELLED, "enough")
    assert marked(handle) == []


@pytest.mark.parametrize("how", ["removed", "expired"])
async def test_nothing_of_a_task_is_left_when_its_supervisor_was_killed(session: Session, how: str) -> None:
    life = 2.0 if how == "expired" else 3600
    script = "trap '' TERM\n(env -i setsid /bin/sleep 600 &)\necho ready\nwhile :; do sleep 1; done\n"
    job = replace(session.job(script, grace_seconds=1), expires=time.time() + life)
    [[handle]] = await session.run(job)
    await session.ready(handle)
    pid = supervisor(session, handle)
    await until(lambda: len(procfs.descendants(pid)) >= 3)
    tree = procfs.descendants(pid)
    os.kill(pid, signal.SIGKILL)
    if how == "removed":
        await session.batch.remove([handle])
    else:
        await asyncio.sleep(life)
    await session.until([handle], lambda status: status.state is State.LOST)
    deadline = time.monotonic() + 30
    while [pid for pid in tree if procfs.identity(pid)]:
        assert time.monotonic() < deadline
        await session.batch.poll([])  # any look finds it: a killed process holds its lock for a moment longer
    await until(
        lambda: not [path for kind in ("jobs", "running") for path in Path(spool(session).root, kind).iterdir()]
    )


async def test_a_supervisor_that_is_asked_to_end_gives_its_task_back(session: Session) -> None:
    [[handle]] = await session.run(session.job(TRAP))
    await session.ready(handle)
    os.kill(supervisor(session, handle), signal.SIGTERM)
    await session.until([handle], lambda s: s.attempts == 2 and s.state is State.RUNNING)


async def test_supervisors_killed_at_any_moment_start_nothing_twice(session: Session) -> None:
    seed = random.Random(20)
    for turn in range(12):
        count = session.rig.folder / f"starts-{turn}"
        script = f"echo x >> {count}; sleep 0.02; touch f; tar cf output.tar f\n"
        job = session.job(script, rerun=False, grace_seconds=1)
        [[handle]] = await session.run(job)
        await asyncio.sleep(seed.uniform(0, 0.08))
        for pid in procfs.descendants(os.getpid()):
            if (
                Path(f"/proc/{pid}/cmdline").exists()
                and b"processes.supervise" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ):
                os.kill(pid, signal.SIGKILL)
        [status] = await session.ended([handle])
        started = len(count.read_text().split()) if count.exists() else 0
        assert started <= 1
        if status.exit_code == 0:
            assert started == 1
        else:
            assert "its supervisor vanished" in status.reason
    await until(lambda: not list(Path(spool(session).running).iterdir()))


async def test_supervisors_that_cannot_begin_are_not_tried_for_ever(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    [[handle]] = await session.run(session.job("true\n"))
    [status] = await session.ended([handle])
    assert (status.state, status.error, status.attempts) == (State.FAILED, "JobFailed", 0)
    assert "its supervisor could not begin, 5 times" in status.reason
    assert status.hint
    monkeypatch.undo()
    [[after]] = await session.run(session.job("true\n"))
    assert (await session.ended([after]))[0].exit_code == 0


# -- the machine and the service


async def test_a_machine_that_restarts_loses_no_task(session: Session) -> None:
    again, once, waiting = session.job(TRAP), session.job(TRAP, rerun=False), session.job("echo late\n")
    [first], [second], [third] = await session.run(again, once, waiting)
    await session.ready(first)
    await session.ready(second)
    before = [supervisor(session, first), supervisor(session, second)]
    for pid in (*before, *marked(first), *marked(second)):
        procfs.send(pid, signal.SIGKILL)
    await session.batch.close()
    session.batch = LocalBatch(session.rig.folder / "spool", slots=2, boot_id="another boot")
    [one, two, _] = await session.until(
        [first, second, third],
        lambda s: (s.state in (State.RUNNING, State.FINISHING) and "restart" not in s.reason) or s.error != "",
    )
    assert (one.attempts, two.attempts) == (2, 1)
    assert (two.state, two.reason) == (
        State.FINISHING,
        "the machine restarted while it ran, and it may not start again",
    )
    await session.ended([third])
    assert (await session.batch.poll([first]))[0].state is State.RUNNING


async def test_a_container_that_restarts_is_told_from_a_supervisor_that_vanished(session: Session) -> None:
    [[handle]] = await session.run(session.job(TRAP, rerun=False))
    await session.ready(handle)
    path = spool(session).state(f"{handle.job_id}~{handle.attempt}", 0, "run")
    record = read_record(path)
    assert record is not None
    write_record(path, {**record, "namespace": "pid:[1]"})
    os.kill(int(record["pid"]), signal.SIGKILL)
    [status] = await session.ended([handle])
    assert status.reason == "the container restarted while it ran, and it may not start again"


async def test_a_pid_that_was_used_again_is_sent_no_signal(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    [[handle]] = await session.run(session.job(TRAP))
    await session.ready(handle)
    path = spool(session).state(f"{handle.job_id}~{handle.attempt}", 0, "run")
    record = read_record(path)
    assert record is not None
    sent: list[int] = []
    kill = os.kill
    monkeypatch.setattr(os, "kill", lambda pid, number: (sent.append(pid), kill(pid, number))[1])
    for change in ({"pid": str(os.getpid())}, {"start": "1"}, {"boot": "another"}, {"namespace": "pid:[1]"}):
        write_record(path, {**record, **change})
        await session.batch.cancel([handle], "enough")
        assert sent == []
    write_record(path, record)
    await session.batch.cancel([handle], "enough")
    [status] = await session.ended([handle])
    assert status.state is State.CANCELLED
    assert set(sent) <= {int(record["pid"])}


async def test_the_queue_moves_on_while_no_service_runs(session: Session) -> None:
    await session.batch.close()
    session.batch = LocalBatch(session.rig.folder / "spool", slots=1)
    [handles] = await session.run(session.job("sleep 0.05; echo $1\n", tasks=8))
    await session.batch.close()
    states = Path(spool(session).group(f"{handles[0].job_id}~{handles[0].attempt}")) / "state"
    await until(lambda: len(list(states.glob("*.end"))) == 8)
    now = time.time()
    session.batch = session.rig.make()
    statuses = await session.batch.poll(handles)
    assert all(s.state is State.FINISHING and s.finished is not None and s.finished <= now for s in statuses)
    starts = [s.started or 0 for s in statuses]
    assert starts == sorted(starts)  # first come, first served


async def test_cores_are_never_given_twice_and_a_large_task_runs_alone(session: Session) -> None:
    script = "date +%s.%N; sleep 0.15; date +%s.%N\n"
    jobs = [session.job(script, demand=demand(cpus=cpus)) for cpus in (1, 1, 5, 1, 2, 1)]
    groups = await session.run(*jobs)
    handles = [handle for group in groups for handle in group]
    large = (await session.batch.poll(handles))[2]
    assert "it asks for 5 cores and this site has 2: it runs alone" in large.reason
    assert "2 tasks are before it" not in large.reason
    assert (await session.batch.describe()).cpus_free == 0
    await session.ended(handles)
    spans = []
    for handle, cpus in zip(handles, (1, 1, 2, 1, 2, 1), strict=True):
        text = (await session.batch.read(handle, OUT, 0)).data.split()
        spans.append((float(text[0]), float(text[1]), cpus))
    for begin, _end, _cpus in spans:
        assert sum(cpus for left, right, cpus in spans if left <= begin < right) <= 2
    starts = [begin for begin, _end, _cpus in spans]
    assert max(starts[:2]) < starts[2] < min(starts[3:])  # first come, first served: none slips past the large one


async def test_two_services_on_one_home_start_nothing_twice(session: Session) -> None:
    marks = session.rig.folder / "marks"
    [handles] = await session.submit(session.job(f"echo $1 >> {marks}\n", tasks=20))
    others = [session.rig.make() for _ in range(3)]
    await asyncio.gather(*(batch.start(handles) for batch in (session.batch, *others)))
    while any(status.state is not State.FINISHING for status in await session.batch.poll(handles)):
        await asyncio.gather(*(batch.poll(handles) for batch in others))
    assert sorted(map(int, marks.read_text().split())) == list(range(20))
    assert {status.attempts for status in await session.batch.poll(handles)} == {1}
    await asyncio.gather(*(batch.remove(handles) for batch in others))
    await until(lambda: not list(Path(spool(session).jobs).iterdir()))
    for batch in others:
        await batch.close()


async def test_nothing_outlives_its_expiry(session: Session) -> None:
    clock = [time.time()]
    await session.batch.close()
    session.batch = LocalBatch(session.rig.folder / "spool", slots=1, clock=lambda: clock[0])
    soon = [replace(session.job(TRAP), expires=time.time() + 1.0) for _ in range(2)]
    never = replace(session.job("true\n"), expires=None)
    [running], [waiting] = await session.run(*soon)
    [[unstarted]] = await session.submit(never)
    await session.ready(running)
    await until(lambda: not marked(running))  # the supervisor knows the time too
    clock[0] += 3
    statuses = await session.until([running, waiting], lambda status: status.state is State.LOST)
    assert len(statuses) == 2
    assert (await session.batch.poll([unstarted]))[0].state is State.PREPARING
    assert not list(Path(spool(session).expires).iterdir())


def life(folder: Path, job_id: str, kill_at: int) -> subprocess.CompletedProcess[str]:
    """One life of a service."""
    argv = [sys.executable, str(CALLER), str(folder / "spool"), str(folder), job_id, str(kill_at)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def check_kill_points(tmp_path: Path, points: list[int] | None, sample: int) -> None:
    def fresh(name: str) -> tuple[Path, str]:
        folder = tmp_path / name
        folder.mkdir(mode=0o700)
        (folder / "job.sh").write_text(f"echo $1 >> {folder}/ran; cat input.txt\n")
        (folder / "input.txt").write_text("input\n")
        return folder, uuid.uuid4().hex

    dry = life(*fresh("dry"), 0)
    assert dry.returncode == 0, dry.stderr
    total = int(dry.stdout)
    assert total > 20
    for point in points or sorted(random.Random(7).sample(range(1, total + 1), min(sample, total))):
        folder, job_id = fresh(f"kill-{point}")
        killed = life(folder, job_id, point)
        assert killed.returncode in (-signal.SIGKILL, 0), killed.stderr
        last = life(folder, job_id, 0)
        assert last.returncode == 0, (point, last.stderr)
        assert sorted((folder / "ran").read_text().split()) == ["0", "1"], point
        assert [(folder / f"task-{index}/out").read_text() for index in (0, 1)] == ["input\n"] * 2, point
        deadline = time.monotonic() + 20  # a supervisor tidies up after it has told the end
        while left := [path for path in (folder / "spool").glob("*/*") if not path.name.startswith(".")]:
            assert time.monotonic() < deadline, (point, left)
            time.sleep(0.01)
        assert (folder / "spool/supervisors.log").read_text() == ""
        shutil.rmtree(folder)


def test_a_service_killed_at_any_point_loses_nothing_and_runs_nothing_twice(tmp_path: Path) -> None:
    check_kill_points(tmp_path, None, 22)


@pytest.mark.soak
def test_a_service_killed_at_every_point_loses_nothing_and_runs_nothing_twice(tmp_path: Path) -> None:
    check_kill_points(tmp_path, None, 10_000)
