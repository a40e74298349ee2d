"""The end of a task: writing it down, freeing its slot, starting the next one, tidying up; also after a supervisor that vanished."""

# Plain os calls: pathlib takes longer to import than a task to start.
# ruff: noqa: PTH110, PTH123

from __future__ import annotations

import os
import time

from . import dispatch, procfs
from .spool import Record, read_record, remove_file, remove_tree, write_record
from .task import MARKER, Task

__all__ = ["MOST_STARTS", "finish", "recover"]

MOST_STARTS = 3
"""A task that took its supervisor with it this often (a machine out of memory, say) does not start again."""

_KEPT = ("out", "err", "output.tar")


def finish(task: Task, verdict: str, reason: str, ended: Record | None = None) -> None:
    """Write down the end. ``ended`` is `Watch.record`. An evicted task goes back to the queue if it may."""
    if verdict == "evicted" and _again(task, reason):
        return
    record = {
        "verdict": verdict,
        "reason": reason,
        "attempts": task.run_record.get("attempts", str(task.attempts - 1)),
        "host": task.run_record.get("host", ""),
        "started": task.run_record.get("started", ""),
        "finished": repr(time.time()),
        **(ended or {}),
    }
    write_record(task.state("end"), record)
    remove_file(f"{task.spool.running}/{task.entry.name}")
    try:
        _dispatch(task)
    finally:
        _tidy(task)


def _dispatch(task: Task) -> None:
    dispatch.run_pass(task.spool, dict(os.environ), time.time(), task.boot)


def _again(task: Task, reason: str) -> bool:
    """Put the task back into the queue if it may start again."""
    unwanted = any(os.path.exists(task.state(wish)) for wish in ("cancel", "gone"))
    if task.submission["rerun"] == "no" or task.attempts >= MOST_STARTS or task.expired or unwanted:
        return False
    write_record(task.state("again"), {"attempts": str(task.attempts), "reason": reason})
    _tidy(task)
    dispatch.requeue(task.spool, task.entry)
    return True


def _tidy(task: Task) -> None:
    """Leave only the files that `fetch` brings (inputs may hold secrets), and nothing of a removed task."""
    if "tmp" in task.run_record:
        remove_tree(task.run_record["tmp"])
    if os.path.exists(task.state("gone")):
        remove_tree(task.folder)
        lock = task.spool.lock(timeout=60)
        aside = dispatch.set_aside_if_gone(task.spool, task.entry.group)
        os.close(lock)
        if aside:
            remove_tree(aside)
        return
    for folder, kept in ((task.folder, ("work",)), (task.work, _KEPT)):
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


def recover(task: Task) -> None:
    """End what a supervisor that vanished left running, and say so."""
    record = read_record(task.state("run"))
    if record is None:
        raise AssertionError("a task without a run record needs no recovery")
    task.run_record = record
    task.attempts = int(record["attempts"])
    write_record(task.state("run"), {**record, "recovered": "yes"})
    reason = "its supervisor vanished while it ran"
    if record["boot"] != task.boot:
        reason = "the machine restarted while it ran"
    elif record["namespace"] != procfs.namespace():
        reason = "the container restarted while it ran"
    _end_marked(task)
    cancel = read_record(task.state("cancel"))
    if cancel:
        finish(task, "cancelled", cancel["reason"])
    else:
        finish(task, "evicted", reason)
        os.close(dispatch.LOCK_DESCRIPTOR)  # or this very task would not be free to start
        _dispatch(task)


def _end_marked(task: Task) -> None:
    """Give the script, which the kernel has sent SIGTERM, its grace; then end whatever carries the mark."""
    marker = f"{MARKER}={task.entry.task}".encode()
    script = f"bash\0{task.submission['script']}\0{task.entry.index}\0".encode("utf-8", "surrogateescape")
    until = time.monotonic() + float(task.submission["grace_seconds"])
    work = os.path.realpath(task.work)
    while pids := procfs.marked(marker, f"{work}/out", f"{work}/err"):
        if time.monotonic() >= until or not any(_command(pid) == script for pid in pids):
            for pid in pids:
                procfs.send(pid, procfs.SIGKILL)
        time.sleep(0.02)


def _command(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return stream.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""
