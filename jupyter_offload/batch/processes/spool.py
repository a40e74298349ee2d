"""What the local batch keeps on disk. There is no other state: any process that opens the folder knows everything.

::

    <root>/lock                       flock: held while tasks move between queue and running
    <root>/slots                      how many cores may be in use
    <root>/queue/<entry>              may start; the names sort by time of start
    <root>/running/<entry>            has a supervisor (renamed from queue: a task is in one of them, never in both)
    <root>/expires/<epoch>~<group>    when a submission must be gone
    <root>/tmp/<random>/              TMPDIR of one running task
    <root>/jobs/<group>/              one submission; <group> is <job id>~<attempt>
        submission
        inputs/  inputs-<index>/      script and inputs as submitted
        state/<index>.lock            flock: held by the supervisor for as long as it lives, so that no pid need be believed
        state/<index>.run             who runs it, written before the script starts
        state/<index>.again           how often it had started before it went back to the queue, and why
        state/<index>.false               how often in a row its supervisor did not even begin
        state/<index>.cancel          the reason of a wish to end it
        state/<index>.end             how it ended; final
        state/<index>.gone            removed; final
        task/<index>/                 the private folder in which the script runs

Every file appears whole (written aside, then renamed). ``<entry>`` is ``<sequence>~<cpus>~<job id>~<attempt>~<index>``.
"""

# Plain os calls: pathlib takes longer to import than a task to start.
# ruff: noqa: PTH101, PTH103, PTH105, PTH108, PTH120, PTH123, PTH106

from __future__ import annotations

import errno
import fcntl
import os
import time

__all__ = [
    "Entry",
    "LockTimeout",
    "Spool",
    "read_record",
    "remove_file",
    "remove_tree",
    "touch",
    "write_file",
    "write_record",
]

Record = dict[str, str]


class LockTimeout(Exception):
    """The queue's lock could not be had in time."""


class Entry:
    """One task in the queue or running, as its file name says it."""

    __slots__ = ("attempt", "cpus", "group", "index", "job_id", "name")

    def __init__(self, name: str) -> None:
        _sequence, cpus, self.job_id, self.attempt, index = name.split("~")
        self.name = name
        self.cpus = int(cpus)
        self.index = int(index)
        self.group = f"{self.job_id}~{self.attempt}"

    @property
    def task(self) -> str:
        """The task's id, the same for all its starts: ``<job id>~<attempt>~<index>``."""
        return f"{self.group}~{self.index}"


class Spool:
    """The paths below ``root`` and the locks."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.queue = f"{root}/queue"
        self.running = f"{root}/running"
        self.jobs = f"{root}/jobs"
        self.expires = f"{root}/expires"
        self.tmp = f"{root}/tmp"  # noqa: S108 (below root)

    def create(self) -> None:
        """Make the folders, all 0700."""
        for folder in (self.root, self.queue, self.running, self.jobs, self.expires, self.tmp):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        os.chmod(self.root, 0o700)

    def group(self, group: str) -> str:
        """Return the folder of a submission."""
        return f"{self.jobs}/{group}"

    def state(self, group: str, index: int, what: str) -> str:
        """Return the path of a task's ``lock``, ``run``, ``again``, ``false``, ``cancel``, ``end`` or ``gone``."""
        return f"{self.jobs}/{group}/state/{index}.{what}"

    def folder(self, group: str, index: int) -> str:
        """Return the private folder of a task."""
        return f"{self.jobs}/{group}/task/{index}"

    def lock(self, *, shared: bool = False, timeout: float = 10.0) -> int:
        """Take the queue's lock and return its descriptor; closing that gives it back.

        Raises `LockTimeout` after ``timeout`` seconds, and OSError on a file system without locks.
        """
        descriptor = os.open(f"{self.root}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + timeout
        pause = 0.0005
        while not _flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise LockTimeout(self.root)
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        return descriptor

    def claim(self, group: str, index: int) -> int | None:
        """Take a task's lock and return its descriptor, or None while its supervisor lives. Only under `lock`."""
        descriptor = os.open(self.state(group, index, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(20):
            if _flock(descriptor, fcntl.LOCK_EX):
                return descriptor
            if not _flock(descriptor, fcntl.LOCK_SH):
                break
            time.sleep(0.0005)  # only another `supervised` holds it, for microseconds
        os.close(descriptor)
        return None

    def supervised(self, group: str, index: int) -> bool:
        """Return whether the task's supervisor lives."""
        try:
            descriptor = os.open(self.state(group, index, "lock"), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def slots(self) -> int:
        """Return how many cores may be in use, as the last service that opened this folder said."""
        with open(f"{self.root}/slots", encoding="ascii") as stream:
            return int(stream.read())


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def write_file(path: str, data: bytes, *, durable: bool = False) -> None:
    """Write a 0600 file that appears whole; ``durable`` survives a power failure too."""
    aside = f"{path}.{os.getpid()}.{time.monotonic_ns()}.new"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(aside, path)
    if durable:  # the name, too, is on disk only when its folder is (fsync(2))
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def touch(path: str) -> None:
    """Make an empty 0600 file, or leave it as it is."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def write_record(path: str, record: Record, *, durable: bool = False) -> None:
    """Write ``key=value`` lines (the form that needs no import to read)."""
    text = "".join(f"{key}={_escape(value)}\n" for key, value in record.items())
    write_file(path, text.encode("utf-8", "surrogateescape"), durable=durable)


def read_record(path: str) -> Record | None:
    """Read what `write_record` wrote; None when there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
            pairs = (line.rstrip("\n").split("=", 1) for line in stream)
            return {key: _unescape(value) for key, value in pairs}
    except FileNotFoundError:
        return None


def _escape(text: str) -> str:
    return text.replace("\0", "").replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _unescape(text: str) -> str:
    marked = text.replace("\\\\", "\0")  # no value holds a NUL
    return marked.replace("\\n", "\n").replace("\\r", "\r").replace("\0", "\\")


def remove_tree(path: str) -> None:
    """Remove a folder with all it holds, also where the task took its own permissions away. Nothing there is fine."""
    try:
        os.chmod(path, 0o700)
        entries = list(os.scandir(path))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            remove_file(entry.path)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return


def remove_file(path: str) -> bool:
    """Remove a file; return whether it was there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True
