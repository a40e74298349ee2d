"""The supervisor: runs one task, keeps it within its limits, ends all of it, writes down how it ended, starts the next one.

It is a child of nobody in particular and outlives the service. It is the *subreaper* (prctl(2)) of its task: whatever the task starts,
also in a session of its own and orphaned, stays its descendant and is ended with it. When the supervisor itself is killed, the script
is sent SIGTERM by the kernel (PR_SET_PDEATHSIG) and the next pass starts a supervisor in mode ``recover``, which ends what carries the
task's mark.

Nothing is imported that is not needed before the script starts.
"""

# Plain os calls: pathlib takes longer to import than a task to start.
# ruff: noqa: PTH102, PTH103, PTH110, PTH112, PTH116, PTH123, PTH208

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from . import dispatch, procfs
from .spool import Entry, Record, Spool, read_record, remove_file, remove_tree, write_record

__all__ = ["MARKER", "MOST_STARTS", "main"]

MARKER = "OFFLOAD_LOCAL_TASK"
"""The environment variable that marks every process of a task, by `Entry.task`."""

MOST_STARTS = 3
"""A task that took its supervisor with it this often (a machine out of memory, say) does not start again."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_COPY_BYTES = 16 << 20
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, dispatch.NUDGE)
_KEPT = ("out", "err", "output.tar")


def main(argv: list[str]) -> None:
    """Run one task: ``<root> <entry> run|recover <boot id>``; the task's lock is descriptor 3."""
    os.closerange(dispatch.LOCK_DESCRIPTOR + 1, 1 << 20)
    os.set_inheritable(dispatch.LOCK_DESCRIPTOR, False)  # noqa: FBT003 (positional only)
    os.umask(0o077)
    supervisor = Supervisor(Spool(argv[0]), Entry(argv[1]), argv[3])
    if argv[2] == "recover":
        supervisor.recover()
    else:
        supervisor.run()


class Supervisor:
    """One start of one task."""

    def __init__(self, spool: Spool, entry: Entry, boot: str) -> None:
        self.boot = boot
        self.spool = spool
        self.entry = entry
        self.folder = spool.folder(entry.group, entry.index)
        self.work = f"{self.folder}/work"
        submission = read_record(f"{spool.group(entry.group)}/submission")
        if submission is None:  # removed at this very moment
            remove_file(f"{spool.running}/{entry.name}")
            sys.exit(0)
        self.submission = submission
        self.memory_limit = int(submission["memory_bytes"])
        self.disk_limit = int(submission["disk_bytes"])
        self.grace = float(submission["grace_seconds"])
        again = read_record(self._state("again"))
        self.attempts = int(again["attempts"]) + 1 if again else 1
        self.run_record: Record = {}
        self.script = 0
        self.status: int | None = None
        self.started = 0.0
        self.verdict = ""
        self.reason = ""
        self.ending_since: float | None = None
        self.grace_left = self.grace
        self.memory_most = 0
        self.disk_most = 0
        self.disk_next = 0.0
        self.clock = time.monotonic

    def _state(self, what: str) -> str:
        return self.spool.state(self.entry.group, self.entry.index, what)

    # -- one start

    def run(self) -> None:
        """Start the script and stay until nothing of it is left."""
        cancel = read_record(self._state("cancel"))
        if cancel or os.path.exists(self._state("gone")):
            self._finish("cancelled", cancel["reason"] if cancel else "")
            return
        self._write_run()
        try:
            tmp = self._prepare()
        except OSError as error:
            self._finish("failed", f"its folder could not be made: {error}")
            return
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self.started = time.time()
        self.begin = self.clock()
        self.script = os.fork()
        if self.script == 0:
            self._exec(libc, tmp)
        self._watch()
        self._end_all()
        self._finish(self.verdict, self.reason)

    def _write_run(self) -> None:
        me = procfs.identity(os.getpid(), self.boot)
        if me is None:
            raise AssertionError("this process exists")
        pid, start, boot, namespace = me
        self.run_record = {
            "attempts": str(self.attempts),
            "pid": str(pid),
            "start": str(start),
            "boot": boot,
            "namespace": namespace,
            "host": os.uname().nodename,
            "started": repr(time.time()),
            "tmp": f"{self.spool.tmp}/{os.urandom(4).hex()}",
        }
        write_record(self._state("run"), self.run_record, durable=self.submission["rerun"] == "no")

    def _prepare(self) -> str:
        """Make the private folder anew, with copies of script and inputs (large ones by hard link); return TMPDIR."""
        remove_tree(self.folder)
        os.makedirs(self.work, mode=0o700)
        tmp = self.run_record["tmp"]
        os.mkdir(tmp, mode=0o700)
        group = self.spool.group(self.entry.group)
        for source in (f"{group}/inputs", f"{group}/inputs-{self.entry.index}"):
            if os.path.isdir(source):
                for name in os.listdir(source):
                    _copy(f"{source}/{name}", f"{self.work}/{name}")
        return tmp

    def _exec(self, libc: ctypes.CDLL, tmp: str) -> None:
        """Become the script (in the child)."""
        code = 126
        try:
            os.setsid()
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            os.chdir(self.work)
            for descriptor, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600), descriptor)
            os.closerange(3, 64)
            environ = dict(os.environ)
            environ[MARKER] = self.entry.task
            environ["TMPDIR"] = tmp
            environ["OMP_NUM_THREADS"] = str(self.entry.cpus)  # as HTCondor does: a task keeps to its cores
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            os.execvpe("bash", ["bash", self.submission["script"], str(self.entry.index)], environ)  # noqa: S606
        except OSError as error:
            code = 127
            os.write(2, f"bash cannot be started: {error}\n".encode())
        finally:
            os._exit(code)

    # -- watching

    def _watch(self) -> None:
        """Wait for the script's end; look at its limits meanwhile, more often while it is young or near them."""
        while True:
            cost = self.clock()
            self._look()
            now = self.clock()
            pause = max(self._interval(now), 50 * (now - cost))
            until = now + pause
            while self.status is None and now < until:
                came = signal.sigtimedwait(_SIGNALS, until - now)
                self._reap()
                if came is not None and came.si_signo in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    self._end("evicted", "the machine or its session was ended while it ran")
                if came is not None and came.si_signo != signal.SIGCHLD:
                    break
                now = self.clock()
            if self.status is not None:
                return

    def _interval(self, now: float) -> float:
        if self.ending_since is not None:
            return 0.1
        age = now - self.begin
        close = self.memory_most > self.memory_limit // 2
        pause = 0.1 if age < 5 or close else 1.0
        limit = self._time_left(now)
        return pause if limit is None else max(0.0, min(pause, limit))

    def _time_left(self, now: float) -> float | None:
        limit = self.submission["time_seconds"]
        return float(limit) - (now - self.begin) if limit else None

    def _look(self) -> None:
        now = self.clock()
        self._reap()
        if os.path.exists(self._state("gone")):
            self._end("cancelled", "it was removed")
            self.grace_left = 0.0
        cancel = self.verdict != "cancelled" and read_record(self._state("cancel"))
        if cancel:
            self._end("cancelled", cancel["reason"])
        expires = self.submission["expires"]
        if expires and time.time() >= float(expires):
            self._end("expired", "its end of life has come")
            self.grace_left = 0.0
        left = self._time_left(now)
        if left is not None and left <= 0:
            self._end("TimeExceeded", f"asked for {self.submission['time_seconds']} s and ran longer")
        self._look_at_memory()
        if now >= self.disk_next:
            self._look_at_disk()
        if self.ending_since is not None and now - self.ending_since >= self.grace_left and self.status is None:
            self._kill(procfs.descendants(os.getpid()))

    def _look_at_memory(self) -> None:
        pids = procfs.descendants(os.getpid())
        used = procfs.memory_bytes(pids, self.memory_limit)
        self.memory_most = max(self.memory_most, used)
        if used <= self.memory_limit:
            return
        # The largest process ends at once, as by the kernel's own out-of-memory killer, so that the script can still tell the tale.
        victims = [pid for pid in pids if pid != self.script]
        self._end("MemoryExceeded", f"asked for {_show(self.memory_limit)} of memory and used {_show(used)}")
        self._kill([max(victims, key=procfs.resident_bytes)] if victims else [self.script])

    def _look_at_disk(self) -> None:
        before = self.clock()
        used = procfs.folder_bytes(self.folder, self.run_record["tmp"])
        now = self.clock()
        self.disk_next = now + max(0.5, 50 * (now - before))
        self.disk_most = max(self.disk_most, used)
        if used > self.disk_limit:
            self._end("DiskExceeded", f"asked for {_show(self.disk_limit)} of disk and used {_show(used)}")
        if used > 2 * self.disk_limit:
            self.grace_left = 0.0

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
        if self.verdict and verdict != "cancelled":
            return
        self.verdict, self.reason = verdict, reason
        if self.ending_since is None:
            self.ending_since = self.clock()
            if self.status is None:
                self._signal(self.script, signal.SIGTERM)

    def _signal(self, pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        except PermissionError:  # a set-user-ID program: its parent's end must do
            return

    def _kill(self, pids: list[int]) -> None:
        for pid in pids:
            self._signal(pid, signal.SIGKILL)

    def _end_all(self) -> None:
        """End everything that the script left behind: first stop it, so that nothing can be born meanwhile."""
        deadline = self.clock() + 10
        while self.clock() < deadline:
            stopped: set[int] = set()
            while new := set(procfs.descendants(os.getpid())) - stopped:
                for pid in new:
                    self._signal(pid, signal.SIGSTOP)
                stopped |= new
            if not stopped:
                return
            self._kill(list(stopped))
            self._reap()
            time.sleep(0.001)
            self._reap()
        self.reason = f"{self.reason}; some of its processes could not be ended".lstrip("; ")

    def _finish(self, verdict: str, reason: str) -> None:
        """Write down the end, free the slot, start the next one, tidy up."""
        if verdict == "evicted" and self._again(reason):
            return
        record = {
            "verdict": verdict,
            "reason": reason,
            "attempts": self.run_record.get("attempts", str(self.attempts - 1)),
            "host": self.run_record.get("host", ""),
            "started": repr(self.started) if self.started else self.run_record.get("started", ""),
            "finished": repr(time.time()),
            "memory_bytes": str(self.memory_most),
            "disk_bytes": str(self.disk_most),
            "exit_code": "",
            "signal": "",
        }
        if self.status is not None:
            if os.WIFSIGNALED(self.status):
                record["signal"] = str(os.WTERMSIG(self.status))
            else:
                record["exit_code"] = str(os.WEXITSTATUS(self.status))
        write_record(self._state("end"), record)
        remove_file(f"{self.spool.running}/{self.entry.name}")
        try:
            dispatch.run_pass(self.spool, dict(os.environ), time.time(), self.boot)
        finally:
            self._tidy()

    def _again(self, reason: str) -> bool:
        """Put the task back into the queue if it may start again."""
        expires = self.submission["expires"]
        over = bool(expires) and time.time() >= float(expires)
        cancelled = any(os.path.exists(self._state(wish)) for wish in ("cancel", "gone"))
        if self.submission["rerun"] == "no" or self.attempts >= MOST_STARTS or over or cancelled:
            return False
        write_record(self._state("again"), {"attempts": str(self.attempts), "reason": reason})
        self._tidy()
        dispatch.requeue(self.spool, self.entry)
        return True

    def _tidy(self) -> None:
        """Leave only the files that `fetch` brings (inputs may hold secrets), and nothing of a removed task."""
        if "tmp" in self.run_record:
            remove_tree(self.run_record["tmp"])
        if os.path.exists(self._state("gone")):
            remove_tree(self.folder)
            lock = self.spool.lock(timeout=60)
            aside = dispatch.set_aside_if_gone(self.spool, self.entry.group)
            os.close(lock)
            if aside:
                remove_tree(aside)
            return
        for folder, kept in ((self.folder, ("work",)), (self.work, _KEPT)):
            try:
                entries = list(os.scandir(folder))
            except FileNotFoundError:
                continue
            for entry in entries:
                if entry.name in kept:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
                else:
                    remove_file(entry.path)

    # -- after another supervisor

    def recover(self) -> None:
        """End what a supervisor that vanished left running, and say so."""
        record = read_record(self._state("run"))
        if record is None:
            raise AssertionError("a task without a run record needs no recovery")
        self.run_record = record
        self.attempts = int(record["attempts"])
        write_record(self._state("run"), {**record, "recovered": "yes"})
        restarted = record["boot"] != self.boot
        reason = "the machine restarted while it ran" if restarted else "its supervisor vanished while it ran"
        self._end_marked()
        cancel = read_record(self._state("cancel"))
        if cancel:
            self._finish("cancelled", cancel["reason"])
        else:
            self._finish("evicted", reason)
            os.close(dispatch.LOCK_DESCRIPTOR)  # or this very task would not be free to start
            dispatch.run_pass(self.spool, dict(os.environ), time.time(), self.boot)

    def _end_marked(self) -> None:
        """Give the script, which the kernel has sent SIGTERM, its grace; then end whatever carries the mark."""
        marker = f"{MARKER}={self.entry.task}".encode()
        script = f"bash\0{self.submission['script']}\0{self.entry.index}\0".encode("utf-8", "surrogateescape")
        until = self.clock() + self.grace
        while pids := procfs.marked(marker):
            if self.clock() >= until or not any(_command(pid) == script for pid in pids):
                self._kill(pids)
            time.sleep(0.02)


def _command(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return stream.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _copy(source: str, target: str) -> None:
    """Copy a file 0600 so that the task may change it; link a large one, which a task is expected to read only."""
    if os.stat(source).st_size > _COPY_BYTES:
        os.link(source, target)
        return
    with open(source, "rb") as old, open(target, "xb") as new:
        while block := old.read(1 << 20):
            new.write(block)


def _show(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"
