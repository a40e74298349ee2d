"""The supervisor: runs one task, keeps it within its limits, ends all of it, writes down how it ended, starts the next one.

It is a child of nobody in particular and outlives the service. It is the *subreaper* (prctl(2)) of its task: whatever the task starts,
also in a session of its own and orphaned, stays its descendant and is ended with it. When the supervisor itself is killed, the script
is sent SIGTERM by the kernel (PR_SET_PDEATHSIG) and the next pass starts a supervisor in mode ``recover``, which ends what carries the
task's mark.

Here is what comes before the script starts, and nothing is imported that is not needed for that; then `watch` and `finish` take over.
"""

# Plain os calls: pathlib takes longer to import than a task to start.
# ruff: noqa: PTH110, PTH123

from __future__ import annotations

import ctypes
import os

from .spool import Entry, Spool, read_record
from .task import MARKER, Task

__all__ = ["main"]

_LOCK_DESCRIPTOR = 3
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SIGTERM = 15
_OOM_SCORE = 500
_IGNORED_BY_PYTHON = (13, 25)
"""SIGPIPE and SIGXFSZ: a shell that inherits them ignored cannot set them right again (POSIX, trap)."""


def main(argv: list[str]) -> None:
    """Run one task: ``<root> <entry> run|recover <boot id>``; the task's lock is descriptor 3."""
    os.closerange(_LOCK_DESCRIPTOR + 1, 1 << 20)
    os.set_inheritable(_LOCK_DESCRIPTOR, False)  # noqa: FBT003 (positional only)
    os.umask(0o077)
    root, entry, mode, boot = argv
    task = Task.open(Spool(root), Entry(entry), boot)
    if task is None:  # removed at this very moment
        return
    if mode == "recover":
        from .finish import recover

        recover(task)
    else:
        run(task)


def run(task: Task) -> None:
    """Start the script and stay until nothing of it is left."""
    cancel = read_record(task.state("cancel"))
    if cancel or os.path.exists(task.state("gone")):
        from .finish import finish

        finish(task, "cancelled", cancel["reason"] if cancel else "")
        return
    if task.expired:
        from .finish import finish

        finish(task, "expired", "its end of life came before it could start")
        return
    task.write_run()
    try:
        task.prepare()
    except OSError as error:
        from .finish import finish

        finish(task, "failed", f"its folder could not be made: {error}")
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    script = os.fork()
    if script == 0:
        _exec(task, libc)
    from .finish import finish
    from .watch import Watch

    watch = Watch(task, script)
    watch.stay()
    watch.end_all()
    finish(task, watch.verdict, watch.reason, watch.record())


def _exec(task: Task, libc: ctypes.CDLL) -> None:
    """Become the script (in the child)."""
    code = 126
    try:
        os.setsid()
        libc.prctl(_PR_SET_PDEATHSIG, _SIGTERM, 0, 0, 0)
        for number in _IGNORED_BY_PYTHON:
            libc.signal(number, None)
        _offer_to_the_oom_killer()
        os.chdir(task.work)
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600), descriptor)
        os.closerange(3, 64)
        environ = dict(os.environ)
        environ[MARKER] = task.entry.task
        environ["TMPDIR"] = task.run_record["tmp"]
        environ["OMP_NUM_THREADS"] = str(task.entry.cpus)  # as HTCondor does: a task keeps to its cores
        os.execvpe("bash", ["bash", task.submission["script"], str(task.entry.index)], environ)  # noqa: S606
    except OSError as error:
        code = 127
        os.write(2, f"bash cannot be started: {error}\n".encode())
    finally:
        os._exit(code)


def _offer_to_the_oom_killer() -> None:
    """Let the kernel, when memory runs out, end the task before the service and its notebooks (proc(5), oom_score_adj)."""
    try:
        with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as stream:
            if int(stream.read()) < _OOM_SCORE:
                stream.write(str(_OOM_SCORE))
    except OSError:  # a read-only /proc: then as the kernel sees fit
        return
