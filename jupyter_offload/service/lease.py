"""Who owns the jobs of one data folder: exactly one process at a time.

Two things together decide. A file lock, which the kernel takes back the moment its holder dies, decides between processes of one
machine and, on a network file system whose locks work (NFS with lockd, NFSv4), between machines. A heartbeat counter in ``lease.json``
guards against file systems on which a lock of another machine is not seen: whoever gets the lock after a holder of another host watches
that counter first, and if it goes on, the holder lives. No clocks are compared, so that five minutes of skew do not matter: the counter
is watched with the watcher's own monotonic clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jupyter_offload.service.folders import Folders, private_folder, write_private

__all__ = ["BEAT_SECONDS", "Holder", "Lease"]

BEAT_SECONDS = 2.0
WATCH_SECONDS = 5 * BEAT_SECONDS
"""How long a counter of another host must stand still before its holder counts as dead."""


@dataclass(frozen=True)
class Holder:
    """Who holds the lease, and how to reach it."""

    nonce: str
    host: str
    pid: int
    url: str
    token: str
    version: str
    counter: int = 0


class Lease:
    """The lease on one data folder, from one process' point of view."""

    def __init__(self, folders: Folders, *, host: str | None = None, watch_seconds: float = WATCH_SECONDS) -> None:
        self._lock_path = folders.root / "service.lock"
        self._path = folders.root / "lease.json"
        self._host = host or socket.gethostname()
        self._watch_seconds = watch_seconds
        self._descriptor: int | None = None
        self._mine: Holder | None = None
        private_folder(folders.root)

    def holder(self) -> Holder | None:
        """Return what the last holder wrote, None when there is none or it ended in order."""
        return _read(self._path)

    async def acquire(self) -> bool:
        """Try to become the holder; return whether it worked. May watch another host's counter for ten seconds."""
        if not self._lock():
            return False
        before = self.holder()
        if before is not None and before.host != self._host and await self._lives(before):
            self._unlock()
            return False
        return True

    async def _lives(self, before: Holder) -> bool:
        """Whether a holder on another host goes on counting although we got the lock."""
        waited = 0.0
        while waited < self._watch_seconds:
            await asyncio.sleep(BEAT_SECONDS / 4)
            waited += BEAT_SECONDS / 4
            now = self.holder()
            if now is None:
                return False
            if (now.nonce, now.counter) != (before.nonce, before.counter):
                return True
        return False

    def _lock(self) -> bool:
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        if not _same_file(descriptor, self._lock_path):  # it was deleted and made anew in between
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def _unlock(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return self._descriptor is not None

    def publish(self, url: str, token: str, version: str) -> None:
        """Tell where the holder listens; to be called once after `acquire`."""
        self._mine = Holder(secrets.token_hex(8), self._host, os.getpid(), url, token, version)
        self._write(self._mine)

    def beat(self) -> bool:
        """Count on; return whether the lease is still ours (the lock file or the lease may have been deleted or taken over)."""
        if self._mine is None or self._descriptor is None:
            return False
        current = self.holder()
        ours = current is None or current.nonce == self._mine.nonce
        if not ours or not _same_file(self._descriptor, self._lock_path):
            return False
        self._mine = replace(self._mine, counter=self._mine.counter + 1)
        self._write(self._mine)
        return True

    def _write(self, holder: Holder) -> None:
        write_private(self._path, json.dumps(asdict(holder)).encode(), durable=False)

    def release(self) -> None:
        """Give it up in order: the next one need not watch any counter."""
        current = self.holder()
        if self._mine is not None and current is not None and current.nonce == self._mine.nonce:
            self._path.unlink(missing_ok=True)
        self._mine = None
        self._unlock()


def _read(path: Path) -> Holder | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    return None


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_ino, here.st_dev) == (there.st_ino, there.st_dev)
