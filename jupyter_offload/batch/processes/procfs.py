"""Processes as Linux's /proc shows them (proc(5)), and the size of folders. Reads nothing but what it is asked for.

A pid alone is never believed: it is used again. `Identity` is pid, start time, boot and pid namespace together.
"""

# Plain os calls: pathlib takes longer to import than a task to start.
# ruff: noqa: PERF203, PTH110, PTH115, PTH123, PTH208

from __future__ import annotations

import os

__all__ = [
    "SIGKILL",
    "Identity",
    "boot_id",
    "descendants",
    "folder_bytes",
    "identity",
    "marked",
    "memory_bytes",
    "namespace",
    "resident_bytes",
    "send",
]

SIGKILL = 9
"""As everywhere (POSIX, kill); the module `signal` takes long to import."""

_PAGE = os.sysconf("SC_PAGE_SIZE")

Identity = tuple[int, int, str, str]
"""pid, start time in clock ticks since boot, boot id, pid namespace."""


def boot_id() -> str:
    """Return the id of this boot of the machine."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


def namespace() -> str:
    """Return the name of the pid namespace (pid_namespaces(7)) of this process: another one in another container."""
    return os.readlink("/proc/self/ns/pid")


def identity(pid: int, boot: str | None = None) -> Identity | None:
    """Return who ``pid`` is now; None when there is no such process or it has ended and only waits to be reaped."""
    fields = _stat(pid)
    if fields is None or fields[0] in ("Z", "X"):
        return None
    return pid, int(fields[19]), boot or boot_id(), namespace()


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/<pid>/stat from the third one (state) on: the second may hold blanks and parentheses."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def descendants(pid: int) -> list[int]:
    """Return the pids of all children of ``pid``, their children and so on, zombies too."""
    try:
        found: list[int] = []
        todo = [pid]
        while todo:
            for child in _children(todo.pop()):
                found.append(child)
                todo.append(child)
    except _NoChildrenFile:
        return _descendants_by_scan(pid)
    return found


class _NoChildrenFile(Exception):
    """A kernel without CONFIG_PROC_CHILDREN."""


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as stream:
                found += [int(word) for word in stream.read().split()]
        except FileNotFoundError:
            if os.path.exists(f"/proc/{pid}/task/{thread}/stat"):
                raise _NoChildrenFile from None
        except ProcessLookupError:
            continue
    return found


def _descendants_by_scan(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for other in _pids():
        fields = _stat(other)
        if fields is not None:
            parents.setdefault(int(fields[1]), []).append(other)
    found: list[int] = []
    todo = [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def marked(marker: bytes, *files: str) -> list[int]:
    """Return the processes of a task whose supervisor is gone, with all their descendants.

    They are told by their environment, which holds the variable ``marker`` (``NAME=value``), or, where they replaced that, by a
    standard output or error that is one of ``files`` (absolute paths without links). Somebody who only reads these files is not taken.
    """
    found: set[int] = set()
    for pid in _pids():
        try:
            if _has_mark(pid, marker) or _writes_to(pid, files):
                found.add(pid)
                found.update(descendants(pid))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or another user's
    found.discard(os.getpid())
    return sorted(found)


def _has_mark(pid: int, marker: bytes) -> bool:
    with open(f"/proc/{pid}/environ", "rb") as stream:
        return marker in stream.read().split(b"\0")


def _writes_to(pid: int, files: tuple[str, ...]) -> bool:
    for number in (1, 2):
        try:
            if files and os.readlink(f"/proc/{pid}/fd/{number}") in files:
                return True
        except FileNotFoundError:  # closed
            continue
    return False


def resident_bytes(pid: int) -> int:
    """Return a process' resident memory, pages shared with others counted in full."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _proportional_bytes(pid: int) -> int:
    """Return a process' resident memory, shared pages divided among their users (Pss); resident memory where that is hidden."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as stream:
            for line in stream:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return resident_bytes(pid)
    return 0  # a kernel thread or a zombie


def memory_bytes(pids: list[int], limit: int) -> int:
    """Return the memory that processes use together.

    The plain sum counts an array that ten forked workers share ten times, the exact one costs milliseconds a gigabyte:
    so the exact one is taken only when the plain one is over ``limit``.
    """
    plain = sum(map(resident_bytes, pids))
    return plain if plain <= limit else sum(map(_proportional_bytes, pids))


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended; a set-user-ID program, which may not be sent any, ends with its parent."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def folder_bytes(*folders: str) -> int:
    """Return the disk space that folders use, each file once however many names it has; links are not followed."""
    seen: set[tuple[int, int]] = set()
    total = 0
    todo = list(folders)
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    if (status.st_dev, status.st_ino) not in seen:
                        seen.add((status.st_dev, status.st_ino))
                        total += status.st_blocks * 512
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # removed meanwhile, or closed by the task itself
    return total
