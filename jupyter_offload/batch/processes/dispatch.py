"""The one place that decides which task starts next.

A pass looks at what is on disk, puts right what a kill -9 left behind, and starts what fits: first come, first served, the sum of
cores within the slots; a task that asks for more cores than there are runs alone. A pass is made by the service when something is
started or found wrong, and by every supervisor as it ends, so the queue moves on while no service runs.
"""

# Plain os calls: pathlib takes longer to import than a task to start.
# ruff: noqa: PTH100, PTH104, PTH110, PTH120, PTH208

from __future__ import annotations

import os
import signal
import sys

from .spool import Entry, Spool, read_record, remove_file, remove_tree, write_record

__all__ = [
    "LOCK_DESCRIPTOR",
    "MOST_FALSE_STARTS",
    "NUDGE",
    "launch",
    "requeue",
    "run_pass",
    "set_aside_if_gone",
    "sweep",
]

_BOOT = "import sys; sys.path.append(sys.argv[1]); from processes.supervise import main; main(sys.argv[2:])"
"""Finds this package without its parents, whose import would cost more than the start of the supervisor."""

NUDGE = signal.SIGURG
"""Wakes a supervisor up. Ignored by default, so that it harms no one who does not expect it (yet)."""

MOST_FALSE_STARTS = 5
"""A task whose supervisor ended this often in a row before it began is not tried again."""

LOCK_DESCRIPTOR = 3
"""Where a supervisor finds its task's lock, already held: so there is no moment in which a started task has no lock."""


def run_pass(spool: Spool, environ: dict[str, str], now: float, boot: str) -> list[int]:
    """Start what can start; return the pids of the supervisors started (the caller's children, to be reaped by it).

    ``environ`` is the whole environment of the tasks, ``boot`` the id of this boot of the machine. Raises `spool.LockTimeout`.
    """
    started: list[int] = []
    rubbish: list[str] = []
    lock = spool.lock()
    try:
        rubbish += sweep(spool, now)
        slots = spool.slots()
        used = 0
        for name in os.listdir(spool.running):
            entry = Entry(name)
            claim = _claim(spool, entry)
            if claim is None:
                used += min(entry.cpus, slots)
            elif claim >= 0:
                if _settled(spool, entry, now):
                    os.close(claim)
                    continue
                started.append(launch(spool, entry, "recover", claim, environ, boot))
                used += min(entry.cpus, slots)
        for name in sorted(os.listdir(spool.queue)):
            entry = Entry(name)
            if used + min(entry.cpus, slots) > slots:
                break
            claim = _claim(spool, entry)
            if claim is None:
                continue  # its last supervisor is about to exit: the pass that it makes then starts this one
            if claim < 0 or _is_final(spool, entry):
                remove_file(f"{spool.queue}/{name}")
                if claim >= 0:
                    os.close(claim)
                continue
            os.rename(f"{spool.queue}/{name}", f"{spool.running}/{name}")
            started.append(launch(spool, entry, "run", claim, environ, boot))
            used += min(entry.cpus, slots)
    finally:
        os.close(lock)
    for path in rubbish:
        remove_tree(path)
    return started


def _claim(spool: Spool, entry: Entry) -> int | None:
    """As `Spool.claim`; -1 when the whole submission is gone (and its entry with it)."""
    try:
        return spool.claim(entry.group, entry.index)
    except FileNotFoundError:
        remove_file(f"{spool.running}/{entry.name}")
        return -1


def _is_final(spool: Spool, entry: Entry) -> bool:
    return any(os.path.exists(spool.state(entry.group, entry.index, what)) for what in ("end", "gone"))


def _settled(spool: Spool, entry: Entry, now: float) -> bool:
    """Put right a running entry without a supervisor that needs no supervisor to be put right."""
    ended = os.path.exists(spool.state(entry.group, entry.index, "end"))
    if not ended and os.path.exists(spool.state(entry.group, entry.index, "run")):
        return False  # what it started may still run, also when the task was removed
    if ended or _is_final(spool, entry):
        remove_file(f"{spool.running}/{entry.name}")
        return True
    # Killed before the script could start: as if nothing had been, unless that is the rule (no memory, no disk, a broken Python).
    known = read_record(spool.state(entry.group, entry.index, "false"))
    starts = int(known["starts"]) + 1 if known else 1
    if starts < MOST_FALSE_STARTS:
        write_record(spool.state(entry.group, entry.index, "false"), {"starts": str(starts)})
        os.rename(f"{spool.running}/{entry.name}", f"{spool.queue}/{entry.name}")
        return True
    reason = f"its supervisor could not begin, {starts} times: see {spool.root}/supervisors.log"
    end = {"verdict": "failed", "reason": reason, "attempts": "0", "finished": repr(now)}
    write_record(spool.state(entry.group, entry.index, "end"), end)
    remove_file(f"{spool.running}/{entry.name}")
    return True


def requeue(spool: Spool, entry: Entry) -> None:
    """Move a task from running back to its old place in the queue. Its ``again`` record must have been written."""
    lock = spool.lock(timeout=60)
    try:
        remove_file(spool.state(entry.group, entry.index, "run"))
        os.rename(f"{spool.running}/{entry.name}", f"{spool.queue}/{entry.name}")
    finally:
        os.close(lock)


def sweep(spool: Spool, now: float) -> list[str]:
    """Take submissions out of sight whose end of life has come; return the folders that are left to be deleted.

    What still runs is left to its supervisor, which knows that end too. Only under the queue's lock.
    """
    rubbish = []
    for name in os.listdir(spool.expires):
        expires, _, group = name.partition("~")
        if int(expires) > now:
            continue
        if any(Entry(entry).group == group for entry in os.listdir(spool.running)):
            continue
        for entry in os.listdir(spool.queue):
            if Entry(entry).group == group:
                remove_file(f"{spool.queue}/{entry}")
        if os.path.exists(spool.group(group)):
            rubbish.append(_set_aside(spool, group))
        remove_file(f"{spool.expires}/{name}")
    return rubbish


def set_aside_if_gone(spool: Spool, group: str) -> str | None:
    """Take a submission out of sight when every task was removed and none runs; return the folder that is left to be deleted.

    Only under the queue's lock; the deleting is better done without it.
    """
    submission = read_record(f"{spool.group(group)}/submission")
    if submission is None:
        return None
    gone = sum(name.endswith(".gone") for name in os.listdir(f"{spool.group(group)}/state"))
    if gone < int(submission["tasks"]) or any(Entry(name).group == group for name in os.listdir(spool.running)):
        return None
    if submission["expires"]:
        remove_file(f"{spool.expires}/{int(float(submission['expires'])) + 1}~{group}")
    return _set_aside(spool, group)


def _set_aside(spool: Spool, group: str) -> str:
    aside = f"{spool.jobs}/.{group}.{os.urandom(4).hex()}"
    os.rename(spool.group(group), aside)
    return aside


def launch(spool: Spool, entry: Entry, mode: str, claim: int, environ: dict[str, str], boot: str) -> int:
    """Start the supervisor of a task whose lock is ``claim`` (closed here) and return its pid."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    log = f"{spool.root}/supervisors.log"
    argv = [sys.executable, "-I", "-S", "-c", _BOOT, folder, spool.root, entry.name, mode, boot]
    try:
        return os.posix_spawn(
            sys.executable,
            argv,
            environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, claim, LOCK_DESCRIPTOR),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD],
        )
    finally:
        os.close(claim)
