"""Watching a running script: its limits, the wish to end it, and the end of everything it started."""

# Plain os calls: pathlib takes longer to import than a task to start.
# ruff: noqa: PTH110

from __future__ import annotations

import os
import signal
import time

from . import procfs
from .dispatch import NUDGE
from .spool import Record, read_record
from .task import Task

__all__ = ["Watch"]

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, NUDGE)


class Watch:
    """The watch over process ``script``, a child of this process. ``verdict`` and ``reason`` tell why it was ended, if it was."""

    def __init__(self, task: Task, script: int) -> None:
        self.task = task
        self.script = script
        self.status: int | None = None
        self.verdict = ""
        self.reason = ""
        self._memory_limit = int(task.submission["memory_bytes"])
        self._disk_limit = int(task.submission["disk_bytes"])
        limit = task.submission["time_seconds"]
        self._time_limit = float(limit) if limit else None
        self._grace = float(task.submission["grace_seconds"])
        self._ending_since: float | None = None
        self._memory_most = 0
        self._memory_cost = 0.0
        self._disk_most = 0
        self._disk_next = 0.0
        self._clock = time.monotonic
        self._begin = self._clock()

    def record(self) -> Record:
        """Return how the script ended and the most that it used."""
        record = {"memory_bytes": str(self._memory_most), "disk_bytes": str(self._disk_most)}
        if self.status is not None and os.WIFSIGNALED(self.status):
            record["signal"] = str(os.WTERMSIG(self.status))
        elif self.status is not None:
            record["exit_code"] = str(os.WEXITSTATUS(self.status))
        return record

    def stay(self) -> None:
        """Wait for the script's end; look at its limits meanwhile, more often while it is young or near them."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        while True:
            self._look()
            now = self._clock()
            until = now + self._interval(now)
            while self.status is None and now < until:
                came = signal.sigtimedwait(_SIGNALS, until - now)
                self._reap()
                if came is not None and came.si_signo in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    self._end("evicted", "the machine or its session was ended while it ran")
                if came is not None and came.si_signo != signal.SIGCHLD:
                    break
                now = self._clock()
            if self.status is not None:
                return

    def _interval(self, now: float) -> float:
        if self._ending_since is not None:
            return 0.1
        age = now - self._begin
        close = self._memory_most > self._memory_limit // 2
        pause = min(max(0.1 if age < 5 or close else 1.0, 50 * self._memory_cost), 2.0)
        limit = self._time_left(now)
        return pause if limit is None else max(0.0, min(pause, limit))

    def _time_left(self, now: float) -> float | None:
        return None if self._time_limit is None else self._time_limit - (now - self._begin)

    def _look(self) -> None:
        now = self._clock()
        self._reap()
        if os.path.exists(self.task.state("gone")):
            self._end("cancelled", "it was removed")
            self._grace = 0.0
        cancel = self.verdict != "cancelled" and read_record(self.task.state("cancel"))
        if cancel:
            self._end("cancelled", cancel["reason"])
        if self.task.expired:
            self._end("expired", "its end of life has come")
            self._grace = 0.0
        left = self._time_left(now)
        if left is not None and left <= 0:
            self._end("TimeExceeded", f"asked for {self.task.submission['time_seconds']} s and ran longer")
        self._look_at_memory()
        if now >= self._disk_next:
            self._look_at_disk()
        if self._ending_since is not None and now - self._ending_since >= self._grace and self.status is None:
            self._kill(procfs.descendants(os.getpid()))

    def _look_at_memory(self) -> None:
        before = self._clock()
        pids = procfs.descendants(os.getpid())
        used = procfs.memory_bytes(pids, self._memory_limit)
        self._memory_cost = self._clock() - before
        self._memory_most = max(self._memory_most, used)
        if used <= self._memory_limit:
            return
        # The largest process ends at once, as by the kernel's own out-of-memory killer, so that the script can still tell the tale.
        self._end("MemoryExceeded", f"asked for {_show(self._memory_limit)} of memory and used {_show(used)}")
        self._kill([max(pids, key=procfs.resident_bytes)])

    def _look_at_disk(self) -> None:
        before = self._clock()
        used = procfs.folder_bytes(self.task.folder, self.task.run_record["tmp"])
        now = self._clock()
        self._disk_next = now + max(0.5, 50 * (now - before))
        self._disk_most = max(self._disk_most, used)
        if used > self._disk_limit:
            self._end("DiskExceeded", f"asked for {_show(self._disk_limit)} of disk and used {_show(used)}")
        if used > 2 * self._disk_limit:
            self._grace = 0.0

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.script:
                self.status = status

    # -- ending

    def _end(self, verdict: str, reason: str) -> None:
        """Ask the script to end; the first reason stays, but a cancel outranks all."""
        if self.status is not None or (self.verdict and verdict != "cancelled"):
            return
        self.verdict, self.reason = verdict, reason
        if self._ending_since is None:
            self._ending_since = self._clock()
            procfs.send(self.script, signal.SIGTERM)

    def _kill(self, pids: list[int]) -> None:
        for pid in pids:
            procfs.send(pid, signal.SIGKILL)

    def end_all(self) -> None:
        """End everything that the script left behind: first stop it, so that nothing can be born meanwhile."""
        deadline = self._clock() + 10
        while self._clock() < deadline:
            stopped: set[int] = set()
            while new := set(procfs.descendants(os.getpid())) - stopped:
                for pid in new:
                    procfs.send(pid, signal.SIGSTOP)
                stopped |= new
            if not stopped:
                return
            self._kill(list(stopped))
            self._reap()
            time.sleep(0.001)
            self._reap()
        self.reason = f"{self.reason}; some of its processes could not be ended".lstrip("; ")


def _show(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"
