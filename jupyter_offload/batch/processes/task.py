"""One start of one task, as its supervisor sees it: its paths, its record of who runs it, its private folder."""

# Plain os calls: pathlib takes longer to import than a task to start.
# ruff: noqa: PTH102, PTH103, PTH112, PTH116, PTH123, PTH208

from __future__ import annotations

import os
import time

from . import procfs
from .spool import Entry, Record, Spool, read_record, remove_file, remove_tree, write_record

__all__ = ["MARKER", "Task"]

MARKER = "OFFLOAD_LOCAL_TASK"
"""The environment variable that marks every process of a task, by `Entry.task`."""

_COPY_BYTES = 16 << 20


class Task:
    """A task of a spool. ``attempts`` counts this start."""

    def __init__(self, spool: Spool, entry: Entry, boot: str, submission: Record) -> None:
        self.spool = spool
        self.entry = entry
        self.boot = boot
        self.submission = submission
        self.folder = spool.folder(entry.group, entry.index)
        self.work = f"{self.folder}/work"
        again = read_record(self.state("again"))
        self.attempts = int(again["attempts"]) + 1 if again else 1
        self.run_record: Record = {}

    @classmethod
    def open(cls, spool: Spool, entry: Entry, boot: str) -> Task | None:
        """Return the task of an entry; None, and no entry any more, when its submission was removed."""
        submission = read_record(f"{spool.group(entry.group)}/submission")
        if submission is None:
            remove_file(f"{spool.running}/{entry.name}")
            return None
        return cls(spool, entry, boot, submission)

    def state(self, what: str) -> str:
        """Return the path of a record: see `Spool.state`."""
        return self.spool.state(self.entry.group, self.entry.index, what)

    @property
    def expired(self) -> bool:
        """Whether the end of the submission's life has come."""
        expires = self.submission["expires"]
        return bool(expires) and time.time() >= float(expires)

    def write_run(self) -> None:
        """Record who runs it, before it runs. A task that must not run twice has that even after a power failure."""
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
        write_record(self.state("run"), self.run_record, durable=self.submission["rerun"] == "no")
        remove_file(self.state("false"))

    def prepare(self) -> None:
        """Make the private folder anew, with copies of script and inputs (large ones by hard link), and TMPDIR."""
        remove_tree(self.folder)
        os.makedirs(self.work, mode=0o700)
        tmp = self.run_record["tmp"]
        os.mkdir(tmp, mode=0o700)
        group = self.spool.group(self.entry.group)
        for source in (f"{group}/inputs", f"{group}/inputs-{self.entry.index}"):
            if os.path.isdir(source):
                for name in os.listdir(source):
                    _copy(f"{source}/{name}", f"{self.work}/{name}")


def _copy(source: str, target: str) -> None:
    """Copy a file 0600 so that the task may change it; link a large one, which a task is expected to read only."""
    if os.stat(source).st_size > _COPY_BYTES:
        os.link(source, target)
        return
    with open(source, "rb") as old, open(target, "xb") as new:
        while block := old.read(1 << 20):
            new.write(block)
