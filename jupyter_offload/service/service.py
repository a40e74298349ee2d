"""The service seam: what handlers, command line and tests call, whether the jobs are owned here or by another process.

`OffloadService` has two implementations: `Local` (`service.local`, owns the jobs) and `Remote` (`service.remote`, forwards over
REST). Handlers cannot tell them apart. Every method takes the owner: nobody sees another one's jobs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jupyter_offload.job import Job, Request
from jupyter_offload.sites.base import Check, FileEntry, LogChunk

__all__ = ["Accepted", "Check", "Cleaned", "JobList", "OffloadService", "Preview", "SiteView"]


@dataclass(frozen=True)
class Accepted:
    """The answer to a submission: the job, and whether it is an earlier twin instead of a new one."""

    job: Job
    twin: bool
    created: bool


@dataclass(frozen=True)
class JobList:
    """Jobs changed after a revision, newest first, the ids that were deleted since, and the revision that this list is as of."""

    revision: int
    jobs: tuple[Job, ...]
    deleted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preview:
    """What a submission would be."""

    site: str
    image: str | None
    manifest: str
    """YAML."""
    script: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SiteView:
    """A site with its health, as `GET /sites` shows it (`SiteInfo` as plain data under ``info``, None when it never answered)."""

    name: str
    default: bool
    kind: str
    state: str
    """``ok``, ``stale`` or ``error``."""
    stale_since: float | None = None
    error: Mapping[str, Any] | None = None
    info: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Cleaned:
    """What `clean` removed (or would remove)."""

    removed: tuple[str, ...]
    freed_bytes: int


class OffloadService(Protocol):
    """Owns jobs, or forwards to whoever owns them."""

    async def submit(
        self, owner: str, job_id: str, bundle: Path, *, again: bool = False, reuse: bool = False
    ) -> Accepted:
        """Take a submission: ``bundle`` is a file (0600) that the service takes over. Returns as soon as the intent is on disk."""
        ...

    async def jobs(self, owner: str, *, since: int = 0, wait_seconds: float = 0, limit: int | None = None) -> JobList:
        """List jobs changed after ``since``; waits up to ``wait_seconds`` for the first change."""
        ...

    async def job(self, owner: str, job_id: str) -> Job:
        """Return one job by id, unique prefix or shown name. Raises `UnknownName`."""
        ...

    async def cancel(self, owner: str, job_id: str, reason: str = "") -> Job:
        """Ask for its end."""
        ...

    async def delete(self, owner: str, job_id: str) -> None:
        """Forget an ended job and its files. Raises `Conflict` while it is active."""
        ...

    async def result(self, owner: str, job_id: str, task: int = 0) -> tuple[Path, str]:
        """Return the path of the result bundle and the job's HMAC key. Raises `ResultUnavailable`."""
        ...

    async def files(self, owner: str, job_id: str, task: int = 0) -> Sequence[FileEntry]:
        """List the files that came back."""
        ...

    async def file(self, owner: str, job_id: str, path: str, task: int = 0) -> Path:
        """Return where the service keeps one of them."""
        ...

    async def logs(
        self,
        owner: str,
        job_id: str,
        *,
        task: int = 0,
        container: str = "main",
        stream: str = "stdout",
        offset: int = 0,
        limit: int = 1 << 20,
        wait_seconds: float = 0,
    ) -> LogChunk:
        """Return bytes of a container's stream from ``offset``; waits up to ``wait_seconds`` for the first new one."""
        ...

    async def dry_run(self, owner: str, request: Request) -> Preview:
        """Show manifest and script; submit nothing."""
        ...

    async def translate(self, owner: str, manifest: str, site: str | None = None) -> Preview:
        """Show the script that a Pod manifest would become at a site."""
        ...

    async def sites(self, owner: str) -> Sequence[SiteView]:
        """List the sites with their health."""
        ...

    def doctor(self, owner: str, site: str | None = None) -> AsyncIterator[Check]:
        """Check each link of the chain, from configuration to the round trip of a tiny job."""
        ...

    async def clean(
        self,
        owner: str,
        *,
        older_than_seconds: float | None = None,
        max_bytes: int | None = None,
        dry_run: bool = False,
    ) -> Cleaned:
        """Remove ended jobs by age and size."""
        ...

    async def close(self) -> None:
        """Stop owning. Jobs go on."""
        ...
