"""Where the service keeps things: one root, everything in it readable by its owner alone.

::

    <root>/                   0700   OFFLOAD_DATA_DIR, else `<Jupyter data folder>/offload`
      jobs.sqlite             0600   the store: a cache that can be deleted
      service.lock, lease.json       who owns the jobs now
      service.log             0600
      incoming/                      submissions that are being received
      sites/<name>/                  what a site's helpers keep
      jobs/<id>/              0700   a job: `job.json`, inputs until it ends, `task-<index>/` with what came back
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir

__all__ = ["Folders", "folder_bytes", "private_folder", "write_private"]


LEFTOVER_SECONDS = 86400.0


def private_folder(path: Path) -> Path:
    """Make the folder (mode 0700) with its parents, or set the mode of the one that exists; return it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)
    return path


def write_private(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file of mode 0600 so that readers see the old or the new content; ``durable``: also after a power cut."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder, in bytes (0 when it does not exist)."""
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(here) / name).lstat().st_size
            except FileNotFoundError:  # noqa: PERF203
                continue
    return total


class Folders:
    """The paths below one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Folders:
        """Return the folders below ``OFFLOAD_DATA_DIR``, else below the Jupyter data folder."""
        named = environ.get("OFFLOAD_DATA_DIR")
        return cls(Path(named).expanduser().absolute() if named else Path(jupyter_data_dir()).absolute() / "offload")

    def make(self) -> None:
        """Make what is missing, with private modes."""
        for folder in (self.root, self.incoming, self.jobs, self.sites):
            private_folder(folder)

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.root / "jobs.sqlite"

    @property
    def incoming(self) -> Path:
        """Where submissions are received; what is left there after a crash is nobody's."""
        return self.root / "incoming"

    @property
    def jobs(self) -> Path:
        """The parent of all job folders."""
        return self.root / "jobs"

    @property
    def sites(self) -> Path:
        """What the helpers of sites keep, a folder each."""
        return self.root / "sites"

    @property
    def log(self) -> Path:
        """The log of a headless service."""
        return self.root / "service.log"

    def job(self, job_id: str) -> Path:
        """Return a job's folder."""
        return self.jobs / job_id

    def task(self, job_id: str, index: int) -> Path:
        """Return where a task's results land."""
        return self.jobs / job_id / f"task-{index}"

    def new_incoming(self) -> Path:
        """Return the path of a submission that is about to be received."""
        return self.incoming / f"{secrets.token_hex(8)}.bundle"

    def remove_leftovers(self, now: float) -> None:
        """Remove what processes that were killed left in ``incoming``: what nobody has written to for a day.

        Younger files may be on their way to any process on this home.
        """
        for path in self.incoming.iterdir():
            try:
                if now - path.stat().st_mtime < LEFTOVER_SECONDS:
                    continue
            except FileNotFoundError:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def remove_job(self, job_id: str) -> None:
        """Remove a job's folder with all that is in it."""
        shutil.rmtree(self.job(job_id), ignore_errors=True)
