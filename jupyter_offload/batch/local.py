"""The `local` batch: processes of this machine. Nothing to install, and its queue moves on while no service runs.

Each task runs in a session of its own under a small supervisor (`processes.supervise`) that outlives the service. All state is
on disk below ``root`` (`processes.spool`), so that a new `LocalBatch`, in this process or another one, at any time, continues where the
last one stopped; two of them on one root get on with each other. ``slots`` counts cores: tasks start first come, first served while the
sum of what they ask for fits; one that asks for more than there are runs alone. ``root`` must lie on a file system with locks
(flock(2)), and Linux's /proc is needed.
"""

# Plain os calls: a thousand tasks are looked at in one poll.
# ruff: noqa: PERF203, PTH110, PTH208

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from jupyter_offload.batch.base import BatchInfo, Chunk, Fetched, Found, Handle, Status, Submission
from jupyter_offload.batch.local_files import fetch_one, read_chunk, stage
from jupyter_offload.batch.local_machine import cores, describe, task_environment
from jupyter_offload.batch.local_status import Look, take_look, task_id
from jupyter_offload.batch.processes import dispatch, procfs
from jupyter_offload.batch.processes.spool import (
    Entry,
    LockTimeout,
    Spool,
    read_record,
    remove_file,
    remove_tree,
    touch,
    write_file,
    write_record,
)
from jupyter_offload.errors import CapabilityMissing, SiteTimeout, SiteUnreachable
from jupyter_offload.job import State

__all__ = ["LocalBatch"]

_ABANDONED_SECONDS = 86400.0
_Result = TypeVar("_Result")
_ENDED = frozenset({State.FINISHING, State.CANCELLED, State.FAILED})


class LocalBatch:
    """Runs scripts as processes of this machine; see `batch.base.Batch` for what every method promises.

    ``root`` is the folder of its state (made, 0700), ``slots`` the number of cores it may use (None: all that this process may use),
    ``environ`` where the tasks' environment is taken from, by an allow-list (`local_machine.task_environment`), and ``setenv`` what
    is put on top. ``clock`` and ``boot_id`` are arguments for tests. Raises `CapabilityMissing` where there is no Linux /proc.
    """

    def __init__(
        self,
        root: Path,
        slots: int | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        setenv: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        boot_id: str | None = None,
    ) -> None:
        if not sys.platform.startswith("linux"):
            raise CapabilityMissing(
                "the local site needs Linux's /proc", hint="Configure a site of another type in sites.yaml."
            )
        self._spool = Spool(str(root.absolute()))
        self._slots = slots if slots is not None else cores()
        self._environ = {**task_environment(os.environ if environ is None else environ), **(setenv or {})}
        self._clock = clock
        self._boot_id = boot_id or procfs.boot_id()
        self._opened = False
        self._children: set[int] = set()
        self._ended: dict[str, Status] = {}
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="offload-local")

    async def submit(self, submissions: Sequence[Submission]) -> list[list[Handle]]:
        """Put everything in place, not yet runnable. Raises `BadSubmit`. The same attempt again returns the same handles."""
        return await self._run(lambda: stage(self._spool, submissions))

    async def start(self, handles: Sequence[Handle]) -> None:
        """Queue the tasks, in this order, and start those that fit."""
        await self._run(lambda: self._start(handles))

    async def poll(self, handles: Sequence[Handle]) -> list[Status]:
        """Return the states as the files tell them; puts right what a killed supervisor or service left behind."""
        return await self._run(lambda: self._poll(handles))

    async def read(self, handle: Handle, file: str, offset: int, limit: int = 1 << 20) -> Chunk:
        """Return a piece of ``out`` or ``err``. Raises `BatchNotFound` for a task that was removed or never was."""
        return await self._run(lambda: read_chunk(self._spool, handle, file, offset, limit))

    async def cancel(self, handles: Sequence[Handle], reason: str) -> None:
        """End tasks: at once where they have not started, else SIGTERM now and SIGKILL to all of it after the grace."""
        await self._run(lambda: self._cancel(handles, reason))

    async def fetch(self, handles: Sequence[Handle]) -> list[Fetched]:
        """Bring the files of ended tasks."""
        return await self._run(lambda: self._fetch(handles))

    async def remove(self, handles: Sequence[Handle]) -> None:
        """Delete tasks and their files; running ones are ended first, without grace."""
        await self._run(lambda: self._remove(handles))

    async def find(self, job_ids: Sequence[str]) -> list[Found]:
        """Return every task of these jobs that has not been removed; without ids, of all jobs."""
        return await self._run(lambda: self._find(job_ids))

    async def describe(self) -> BatchInfo:
        """Return what this machine has."""
        return await self._run(lambda: describe(self._spool, self._slots, self._environ))

    async def close(self) -> None:
        """End the threads of this object. Tasks go on, and so does their queue."""
        await asyncio.to_thread(self._threads.shutdown)
        self._reap()

    # -- the same, in a thread

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        """Run file work away from the event loop, with this batch's errors."""

        def guarded() -> _Result:
            try:
                if not self._opened:
                    self._open()
                return work()
            except LockTimeout:
                raise SiteTimeout(
                    f"the local site's lock {self._spool.root}/lock was held by another process for 10 s",
                    hint="Another server on this home is stopped or very slow; end it and try again.",
                ) from None
            except OSError as error:
                raise SiteUnreachable(
                    f"the local site's folder {self._spool.root} cannot be used: {error}",
                    hint="Check free space, permissions and file locks there.",
                ) from error

        return await asyncio.get_running_loop().run_in_executor(self._threads, guarded)

    def _open(self) -> None:
        self._spool.create()
        write_file(f"{self._spool.root}/slots", str(self._slots).encode())
        for name in os.listdir(self._spool.jobs):  # a submission or a removal that a kill cut short
            path = f"{self._spool.jobs}/{name}"
            if name.startswith(".") and self._clock() - os.lstat(path).st_mtime > _ABANDONED_SECONDS:
                remove_tree(path)
        self._opened = True

    def _pass(self) -> None:
        self._children.update(dispatch.run_pass(self._spool, self._environ, self._clock(), self._boot_id))
        self._reap()

    def _reap(self) -> None:
        """Take note of supervisors that ended, so that they do not stay as zombies of this process."""
        for pid in list(self._children):
            try:
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    self._children.discard(pid)
            except ChildProcessError:  # someone else's wait() got it
                self._children.discard(pid)

    def _look(self, groups: Sequence[str], *, locked: bool = False) -> Look:
        return take_look(self._spool, groups, self._ended, self._boot_id, locked=locked)

    def _start(self, handles: Sequence[Handle]) -> None:
        lock = self._spool.lock()
        try:
            look = self._look(sorted({_group(handle) for handle in handles}), locked=True)
            sequence = time.time_ns()
            if look.last_sequence >= sequence:
                sequence = look.last_sequence + 1
            for handle in handles:
                if look.status(handle).state is State.PREPARING:
                    cpus = look.submission(_group(handle))["cpus"]
                    touch(f"{self._spool.queue}/{sequence:020d}~{cpus}~{_group(handle)}~{handle.index}")
                    sequence += 1
        finally:
            os.close(lock)
        self._pass()

    def _poll(self, handles: Sequence[Handle]) -> list[Status]:
        groups = sorted({_group(handle) for handle in handles})
        look = self._look(groups)
        if look.needs_pass(self._slots, self._clock()):
            self._pass()
            look = self._look(groups)
        elif self._children:
            self._reap()
        return [look.status(handle) for handle in handles]

    def _cancel(self, handles: Sequence[Handle], reason: str) -> None:
        lock = self._spool.lock()
        try:
            look = self._look(sorted({_group(handle) for handle in handles}), locked=True)
            for handle in handles:
                state = look.status(handle).state
                if state in _ENDED or state is State.LOST:
                    continue
                entry = look.running.get(task_id(handle))
                if entry is None:
                    self._end_unstarted(look, handle, reason)
                else:
                    cancel = self._spool.state(_group(handle), handle.index, "cancel")
                    if not os.path.exists(cancel):
                        write_record(cancel, {"reason": reason})
                    self._nudge(entry)
        finally:
            os.close(lock)
        self._pass()

    def _end_unstarted(self, look: Look, handle: Handle, reason: str) -> None:
        path = self._spool.state(_group(handle), handle.index, "end")
        record = {"verdict": "cancelled", "reason": reason, "attempts": str(look.attempts(handle))}
        write_record(path, {**record, "finished": repr(self._clock())})
        waiting = look.queue.get(task_id(handle))
        if waiting is not None:
            remove_file(f"{self._spool.queue}/{waiting.name}")

    def _nudge(self, entry: Entry) -> None:
        """Wake the supervisor up (it looks by itself within a second). SIGURG harms no one who does not expect it."""
        record = read_record(self._spool.state(entry.group, entry.index, "run"))
        if record is None:
            return
        expected = (int(record["pid"]), int(record["start"]), record["boot"], record["namespace"])
        if procfs.identity(expected[0], self._boot_id) == expected:
            try:
                os.kill(expected[0], dispatch.NUDGE)
            except ProcessLookupError:
                return

    def _fetch(self, handles: Sequence[Handle]) -> list[Fetched]:
        look = self._look(sorted({_group(handle) for handle in handles}))
        fetched = []
        for handle in handles:
            state = look.status(handle).state
            if state in _ENDED:
                fetched.append(fetch_one(self._spool, handle))
            else:
                known = "the local site has no trace of it" if state is State.LOST else "it has not ended"
                fetched.append(Fetched(handle, problem=known))
        return fetched

    def _remove(self, handles: Sequence[Handle]) -> None:
        rubbish = []
        lock = self._spool.lock()
        try:
            groups = sorted({_group(handle) for handle in handles})
            look = self._look(groups, locked=True)
            for handle in handles:
                task = task_id(handle)
                if look.status(handle).state is State.LOST:
                    continue
                touch(self._spool.state(_group(handle), handle.index, "gone"))
                self._ended.pop(task, None)
                if task in look.queue:
                    remove_file(f"{self._spool.queue}/{look.queue[task].name}")
                if task in look.running:
                    self._nudge(look.running[task])
                else:
                    rubbish.append(self._spool.folder(_group(handle), handle.index))
            rubbish += [aside for group in groups if (aside := dispatch.set_aside_if_gone(self._spool, group))]
        finally:
            os.close(lock)
        for path in rubbish:
            remove_tree(path)
        self._pass()

    def _find(self, job_ids: Sequence[str]) -> list[Found]:
        wanted = set(job_ids)
        groups = [
            name
            for name in sorted(os.listdir(self._spool.jobs))
            if name.count("~") == 1 and (not wanted or name.partition("~")[0] in wanted)
        ]
        handles = [handle for group in groups for handle in self._look([group]).handles(group)]
        known = [status for status in self._poll(handles) if status.state is not State.LOST]
        return [Found(status, runnable=status.state is not State.PREPARING) for status in known]


def _group(handle: Handle) -> str:
    return f"{handle.job_id}~{handle.attempt}"
