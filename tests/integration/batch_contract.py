"""The contract of the batch seam, run on every batch: subclass `BatchContract` and give it a fixture ``rig``.

::

    class TestMyBatch(BatchContract):
        @pytest.fixture
        def rig(self, tmp_path):
            return Rig(make=lambda: MyBatch(...), folder=tmp_path)

Nothing here assumes speed, a number of slots or a shared file system; every wait has a deadline (`Rig.seconds`). The jobs of one test are submitted together,
so that the whole suite costs about a minute on a pool where each takes some seconds.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import stat
import tarfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jupyter_offload.batch.base import ERR, OUT, OUTPUT, Batch, Demand, Fetched, Handle, Status, Submission, task_folder
from jupyter_offload.job import State

ENDED = frozenset({State.FINISHING, State.FAILED, State.CANCELLED, State.LOST, State.HELD})
OVER = frozenset({State.CANCELLED, State.LOST})
SMALL = Demand(cpus=1, memory_bytes=256 << 20, disk_bytes=256 << 20)
SECRET = "SECRET_TOKEN_OF_THE_SERVICE"


@dataclass
class Rig:
    """What a batch brings to its contract test."""

    make: Callable[[], Batch]
    """Makes another object for the same batch system, as a service that starts again does."""
    folder: Path
    """Where job folders are made."""
    seconds: float = 90.0
    """Longest wait for one thing to happen."""
    partial_output: bool = False
    """Whether what a script writes after SIGTERM comes back."""


@dataclass
class Session:
    """A batch, and everything submitted to it, which is removed at the end."""

    rig: Rig
    batch: Batch = field(init=False)
    handles: list[Handle] = field(default_factory=list)

    async def __aenter__(self) -> Session:
        self.batch = self.rig.make()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.batch.remove(self.handles)
        await self.batch.close()

    async def again(self) -> Batch:
        """Replace the batch by another object: the service starts again."""
        await self.batch.close()
        self.batch = self.rig.make()
        return self.batch

    def job(
        self,
        script: str,
        *,
        inputs: dict[str, bytes] | None = None,
        task_inputs: Sequence[dict[str, bytes]] = (),
        tasks: int = 1,
        demand: Demand = SMALL,
        rerun: bool = True,
        grace_seconds: int = 5,
    ) -> Submission:
        """Write a job folder."""
        job_id = uuid.uuid4().hex
        folder = self.rig.folder / job_id
        folder.mkdir(mode=0o700)
        files = {"job.sh": script.encode(), **(inputs or {})}
        for per_task in task_inputs:
            files.update(per_task)
        for name, data in files.items():
            (folder / name).write_bytes(data)
            (folder / name).chmod(0o600)
        return Submission(
            job_id=job_id,
            attempt=uuid.uuid4().hex[:12],
            owner="contract",
            name="contract",
            folder=str(folder),
            script="job.sh",
            inputs=tuple(inputs or ()),
            task_inputs=tuple(tuple(per_task) for per_task in task_inputs),
            tasks=tasks,
            demand=demand,
            rerun=rerun,
            grace_seconds=grace_seconds,
            expires=time.time() + 3600,
        )

    async def submit(self, *submissions: Submission) -> list[list[Handle]]:
        """Hand over, not yet runnable."""
        handles = await self.batch.submit(submissions)
        self.handles += [handle for group in handles for handle in group]
        return handles

    async def run(self, *submissions: Submission) -> list[list[Handle]]:
        """Hand over and make runnable."""
        handles = await self.submit(*submissions)
        await self.batch.start([handle for group in handles for handle in group])
        return handles

    async def until(self, handles: Sequence[Handle], condition: Callable[[Status], bool]) -> list[Status]:
        """Poll until all are so. Fails at the deadline, showing the states."""
        deadline = time.monotonic() + self.rig.seconds
        pause = 0.01
        while True:
            statuses = await self.batch.poll(handles)
            assert [status.handle for status in statuses] == list(handles)
            if all(map(condition, statuses)):
                return statuses
            assert time.monotonic() < deadline, [(s.state, s.reason) for s in statuses]
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.5)

    async def ready(self, handle: Handle) -> None:
        """Wait until a task's script has said ``ready``: where output cannot be read, for its state and some more seconds."""
        if (await self.batch.describe()).logs == "live":
            deadline = time.monotonic() + self.rig.seconds
            while b"ready" not in (await self.batch.read(handle, OUT, 0)).data:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        else:
            await self.until([handle], lambda status: status.state is State.RUNNING)
            await asyncio.sleep(3.0)

    async def ended(self, handles: Sequence[Handle]) -> list[Status]:
        """Wait for their end."""
        return await self.until(handles, lambda status: status.state in ENDED)


def output(fetched: Fetched) -> dict[str, bytes]:
    """Return the files in a fetched output.tar."""
    assert fetched.output is not None, fetched.problem
    with tarfile.open(fetched.output) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}  # type: ignore[union-attr]


def content(path: str | None) -> bytes:
    """Return a fetched file."""
    assert path is not None
    return Path(path).read_bytes()


def through_json(handle: Handle) -> Handle:
    """Return the handle as a later process reads it from a file."""
    return Handle(**json.loads(json.dumps(asdict(handle))))


def tar(**files: bytes) -> bytes:
    """Return a tar of files."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return target.getvalue()


TRAP = """
trap 'kill $child 2>/dev/null; echo term > term; echo got-term; tar cf output.tmp term; mv output.tmp output.tar; exit 7' TERM
sleep 600 &
child=$!
echo ready
wait
"""
STUBBORN = """
trap '' TERM
echo ready
while :; do sleep 1; done
"""


class BatchContract:
    """What every batch keeps to."""

    async def test_nothing_runs_before_start_and_once_after(self, rig: Rig) -> None:
        async with Session(rig) as session:
            script = "echo ran; echo x > f; tar cf output.tar f\n"
            [first], [second] = await session.submit(session.job(script), session.job(script, rerun=False))
            assert (first.index, second.index) == (0, 0)
            assert first.job_id != second.job_id
            await asyncio.sleep(1.0)  # nothing to wait for: nothing may happen
            assert [status.state for status in await session.batch.poll([first, second])] == [State.PREPARING] * 2
            assert not (await session.batch.fetch([first]))[0].output
            # The service dies between submit and start; another one finds what is there.
            batch = await session.again()
            found = await batch.find([first.job_id, second.job_id])
            assert {item.status.handle for item in found} == {first, second}
            assert not any(item.runnable for item in found)
            everything = {item.status.handle for item in await batch.find([])}
            assert {first, second} <= everything
            assert await batch.find([uuid.uuid4().hex]) == []

            await batch.remove([second])
            await batch.remove([second])
            left = {item.status.handle: item for item in await batch.find([second.job_id])}
            assert second not in left or left[second].status.state in OVER

            await batch.start([first])
            await batch.start([first])
            [status] = await session.ended([first])
            await batch.start([first])
            assert (status.state, status.exit_code, status.attempts) == (State.FINISHING, 0, 1), status
            assert all(item.runnable for item in await batch.find([first.job_id]))
            [fetched] = await batch.fetch([first])
            assert content(fetched.out) == b"ran\n"
            [later] = await batch.poll([first])
            assert (later.state, later.attempts) == (State.FINISHING, 1)

    async def test_tasks_have_their_index_their_inputs_and_their_end(self, rig: Rig) -> None:
        script = """
        echo "task $1"; echo "problem $1" >&2
        cat common.txt "own $1.txt"; tar xf inputs.tar; mkdir files; cp -r -- odd files/
        tar cf output.tmp files; mv output.tmp output.tar
        case $1 in 0) exit 0;; 1) exit 3;; 2) exit 255;; 3) kill -KILL $$;; esac
        """
        name = "odd/ä \" ' $(touch x) \\ *\n-.txt"
        async with Session(rig) as session:
            job = session.job(
                script,
                tasks=4,
                inputs={"common.txt": b"common\n", "inputs.tar": tar(**{name: b"odd\0\xff\n"})},
                task_inputs=[{f"own {index}.txt": b"own %d\n" % index} for index in range(4)],
            )
            quiet = session.job("true\n")
            handles, [nothing] = await session.run(job, quiet)
            assert [handle.index for handle in handles] == [0, 1, 2, 3]
            assert len({handle.id for handle in handles}) == 4
            statuses = await session.ended(handles)
            assert [status.state for status in statuses] == [State.FINISHING] * 4
            assert [(status.exit_code, status.signal) for status in statuses] == [
                (0, None),
                (3, None),
                (255, None),
                (None, 9),
            ]
            assert all(status.host for status in statuses)
            now = time.time()
            for status in statuses:
                assert status.started is not None
                assert status.finished is not None
                assert now - 3600 < status.started <= status.finished + 1 < now + 3600
            for _ in range(2):  # a repeat brings the same
                fetched = await session.batch.fetch(handles)
                for index, (handle, item) in enumerate(zip(handles, fetched, strict=True)):
                    assert item.handle == handle
                    assert content(item.out) == b"task %d\ncommon\nown %d\n" % (index, index)
                    assert content(item.err) == b"problem %d\n" % index
                    assert Path(item.out or "") == Path(task_folder(handle)) / OUT
                    assert Path(item.err or "") == Path(task_folder(handle)) / ERR
                    folder = Path(task_folder(handle))
                    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
                    assert {stat.S_IMODE((folder / file).stat().st_mode) for file in (OUT, ERR)} == {0o600}
                for item in fetched[:3]:
                    assert output(item) == {f"files/{name}": b"odd\0\xff\n"}
                    assert Path(item.output or "").name == OUTPUT
            await session.ended([nothing])
            [fetched_nothing] = await session.batch.fetch([nothing])
            assert fetched_nothing.output is None
            assert fetched_nothing.problem
            assert content(fetched_nothing.out) == b""
            await session.batch.remove(handles)
            await session.batch.remove(handles)

    async def test_many_submissions_in_one_call(self, rig: Rig) -> None:
        async with Session(rig) as session:
            jobs = [session.job(f"echo {place}-$1\n", tasks=1 + place % 3) for place in range(6)]
            groups = await session.submit(*jobs)
            assert [len(group) for group in groups] == [job.tasks for job in jobs]
            assert [[handle.job_id for handle in group] for group in groups] == [[j.job_id] * j.tasks for j in jobs]
            handles = [handle for group in groups for handle in group]
            await session.batch.start(handles)
            backwards = handles[::-1]
            assert {status.exit_code for status in await session.ended(backwards)} == {0}
            fetched = await session.batch.fetch(handles)
            expected = [b"%d-%d\n" % (place, index) for place, job in enumerate(jobs) for index in range(job.tasks)]
            assert [content(item.out) for item in fetched] == expected
            assert len(await session.batch.find([job.job_id for job in jobs])) == len(handles)

    async def test_output_is_read_while_it_grows(self, rig: Rig) -> None:
        # The second half comes when the first has had time to be seen; on a batch without live logs only the end counts.
        async with Session(rig) as session:
            logs = (await session.batch.describe()).logs
            assert logs in ("live", "delayed", "at_end")
            script = "printf 'one\\0\\377\\n'; echo problem >&2; sleep 5; echo two\n"
            [[handle]] = await session.run(session.job(script))
            first, seen_running = b"", False
            deadline = time.monotonic() + rig.seconds
            while logs == "live" and len(first) < 6:
                assert time.monotonic() < deadline
                chunk = await session.batch.read(handle, OUT, len(first))
                first += chunk.data
                seen_running = not chunk.end
                await asyncio.sleep(0.05)
            assert seen_running or logs != "live"
            assert first in (b"", b"one\0\xff\n")
            await session.ended([handle])
            if logs != "at_end":
                data = first
                while True:
                    chunk = await session.batch.read(handle, OUT, len(data), 3)
                    assert chunk.offset == len(data)
                    assert len(chunk.data) <= 3
                    data += chunk.data
                    if chunk.end:
                        break
                assert data == b"one\0\xff\ntwo\n"
                assert (await session.batch.read(handle, ERR, 2)).data == b"oblem\n"
            [fetched] = await session.batch.fetch([handle])
            assert content(fetched.out) == b"one\0\xff\ntwo\n"
            assert content(fetched.err) == b"problem\n"

    async def test_large_binary_output_arrives_whole(self, rig: Rig) -> None:
        script = "head -c 5000000 /dev/urandom | tee copy; tar cf output.tmp copy; mv output.tmp output.tar\n"
        async with Session(rig) as session:
            [[handle]] = await session.run(session.job(script))
            [status] = await session.ended([handle])
            assert status.exit_code == 0
            if (await session.batch.describe()).logs != "at_end":
                read = b""
                while not (chunk := await session.batch.read(handle, OUT, len(read))).end:
                    assert len(chunk.data) <= 1 << 20
                    read += chunk.data
                read += chunk.data
            [fetched] = await session.batch.fetch([handle])
            data = content(fetched.out)
            assert len(data) == 5_000_000
            assert output(fetched) == {"copy": data}
            if (await session.batch.describe()).logs != "at_end":
                assert read == data

    async def test_the_environment_and_the_folder_are_private(self, rig: Rig) -> None:
        os.environ[SECRET] = "must not be seen"
        script = """
        env -0; stat -c '%a' . >&2; umask >&2; [ -z "$TMPDIR" ] || touch "$TMPDIR/x" >&2; pwd -P >&2
        cat /proc/$PPID/environ 2>/dev/null || true
        """
        try:
            async with Session(rig) as session:
                handles = [h for group in await session.run(session.job(script, tasks=2)) for h in group]
                assert {status.exit_code for status in await session.ended(handles)} == {0}
                fetched = await session.batch.fetch(handles)
        finally:
            del os.environ[SECRET]
        folders = set()
        for item in fetched:
            environ = dict(line.split(b"=", 1) for line in content(item.out).split(b"\0") if b"=" in line)
            assert b"must not be seen" not in content(item.out)
            assert b"/bin" in environ[b"PATH"]
            mode, _mask, *problems, folder = content(item.err).decode().splitlines()
            assert mode == "700"
            assert problems == []
            folders.add(folder)
        assert len(folders) == 2

    async def test_cancel_ends_what_runs_and_what_waits(self, rig: Rig) -> None:
        async with Session(rig) as session:
            total = (await session.batch.describe()).cpus_total or 8
            large = Demand(cpus=total + 1, memory_bytes=256 << 20, disk_bytes=256 << 20)
            jobs = [session.job(TRAP), session.job(TRAP, demand=large), session.job(TRAP), session.job("exit 4\n")]
            (running,), (waiting,), (unstarted,), (done,) = await session.submit(*jobs)
            await session.batch.start([done, running, waiting])
            await session.ready(running)
            assert (await session.batch.poll([running]))[0].state is State.RUNNING
            await session.ended([done])
            handles = [running, waiting, unstarted]
            await session.batch.cancel([*handles, done], "not needed any more")
            await session.batch.cancel(handles, "asked twice")
            cancelling = await session.batch.poll(handles)
            assert {status.state for status in cancelling} <= {State.CANCELLING, State.CANCELLED}
            statuses = await session.ended(handles)
            assert [status.state for status in statuses] == [State.CANCELLED] * 3
            await session.batch.cancel(handles, "and once more")
            await session.batch.start(handles)  # too late
            [ended] = await session.batch.poll([done])
            assert (ended.state, ended.exit_code) == (State.FINISHING, 4)
            assert [status.state for status in await session.batch.poll(handles)] == [State.CANCELLED] * 3
            if rig.partial_output:
                [fetched] = await session.batch.fetch([running])
                assert output(fetched) == {"term": b"term\n"}

    async def test_the_time_limit_ends_a_task_by_term_then_kill(self, rig: Rig) -> None:
        async with Session(rig) as session:
            limit = Demand(cpus=1, memory_bytes=256 << 20, disk_bytes=256 << 20, time_seconds=2)
            polite = session.job(TRAP, demand=limit)
            stubborn = session.job(STUBBORN, demand=limit, grace_seconds=2)
            (first,), (second,) = await session.run(polite, stubborn)
            statuses = await session.ended([first, second])
            assert [status.error for status in statuses] == ["TimeExceeded"] * 2, statuses
            assert all(status.hint for status in statuses)
            assert all("2" in status.reason for status in statuses)
            fetched = await session.batch.fetch([first, second])
            if rig.partial_output:
                assert output(fetched[0]) == {"term": b"term\n"}
                assert content(fetched[0].out) == b"ready\ngot-term\n"
                assert (statuses[0].exit_code, statuses[1].signal) == (7, 9)

    async def test_handles_are_all_that_a_later_service_needs(self, rig: Rig) -> None:
        async with Session(rig) as session:
            script = "echo $1; for i in $(seq 30); do sleep 0.1; done; echo x > f; tar cf output.tar f; exit 5\n"
            [handles] = await session.run(session.job(script, tasks=2, rerun=False))
            await session.until(handles[:1], lambda status: status.state in (State.RUNNING, *ENDED))
            kept = [through_json(handle) for handle in handles]
            batch = await session.again()
            assert {status.state for status in await batch.poll(kept)} <= {State.RUNNING, State.QUEUED, State.FINISHING}
            found = await batch.find([kept[0].job_id])
            assert sorted((item.status.handle for item in found), key=lambda h: h.index) == kept
            assert all(item.runnable for item in found)
            await batch.start(kept)
            statuses = await session.ended(kept)
            assert [(status.exit_code, status.attempts) for status in statuses] == [(5, 1)] * 2
            assert [content(item.out) for item in await batch.fetch(kept)] == [b"0\n", b"1\n"]

    async def test_a_task_that_never_was_is_lost(self, rig: Rig) -> None:
        async with Session(rig) as session:
            [[real]] = await session.submit(session.job("true\n"))
            # Forms of a real id, for a job that is not there.
            strange = [
                Handle(real.id, uuid.uuid4().hex, 0, "0123456789ab", real.folder),
                Handle("", uuid.uuid4().hex, 3, "", real.folder),
            ]
            assert [status.state for status in await session.batch.poll(strange)] == [State.LOST] * 2
            await session.batch.start(strange)
            await session.batch.cancel(strange, "")
            for item in await session.batch.fetch(strange):
                assert item.output is None
                assert item.problem
            await session.batch.remove(strange)
            [status] = await session.batch.poll([real])
            assert status.state is State.PREPARING

    async def test_a_running_task_can_be_removed_and_is_not_fetched_before_its_end(self, rig: Rig) -> None:
        async with Session(rig) as session:
            [[handle]] = await session.run(session.job(TRAP))
            await session.ready(handle)
            [fetched] = await session.batch.fetch([handle])
            assert fetched.output is None
            assert fetched.problem
            await session.batch.remove([handle])
            [status] = await session.until([handle], lambda status: status.state in OVER)
            assert status.exit_code in (None, 7)

    async def test_nothing_to_do_is_fine_and_the_description_is_data(self, rig: Rig) -> None:
        async with Session(rig) as session:
            assert await session.batch.submit([]) == []
            assert await session.batch.poll([]) == []
            assert await session.batch.fetch([]) == []
            await session.batch.start([])
            await session.batch.cancel([], "")
            await session.batch.remove([])
            info = await session.batch.describe()
            assert info.kind
            assert json.loads(json.dumps(asdict(info)))["logs"] == info.logs
            assert info.cpus_total is None or info.cpus_total > 0
