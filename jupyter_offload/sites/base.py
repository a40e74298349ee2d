"""The site seam: a named place that runs Work. It knows nothing of cells; what is below it (a batch system, a cluster) stays hidden.

All calls are async, take many, and have JSON-serialisable arguments and results. Submission is exactly-once in three steps, as for
a batch: `Site.submit` hands over *not yet runnable*, the caller records the handles, `Site.start` makes them runnable; `Site.find`
shows what is there after a doubt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from jupyter_offload.job import State
from jupyter_offload.pod import Work

__all__ = [
    "Capabilities",
    "FileEntry",
    "Found",
    "Gpu",
    "Image",
    "Limits",
    "LogChunk",
    "Outcome",
    "Site",
    "SiteHandle",
    "SiteInfo",
    "TaskStatus",
]


@dataclass(frozen=True)
class SiteHandle:
    """One task as the site knows it. Data only: kept in the store and used by a later process."""

    job_id: str
    index: int
    attempt: str
    id: str
    """Opaque to callers."""
    folder: str
    """The job's folder on the service's machine."""


@dataclass(frozen=True)
class TaskStatus:
    """What the site says of one task now."""

    handle: SiteHandle
    state: State
    """``finishing`` means: ended, and `Site.fetch` can bring its result."""
    reason: str = ""
    hint: str = ""
    error: Mapping[str, Any] | None = None
    attempts: int = 0
    exit_code: int | None = None
    host: str | None = None
    started: float | None = None
    finished: float | None = None


@dataclass(frozen=True)
class FileEntry:
    """A file that came back: its path relative to the working directory, and its size."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class Outcome:
    """A finished task with its files in ``<folder>/task-<index>/``: ``files/…``, ``logs/…``, ``status.json``.

    ``state`` is ``succeeded``, ``failed`` or ``cancelled``; ``error`` is the typed reason of a failure.
    """

    handle: SiteHandle
    state: State
    reason: str = ""
    hint: str = ""
    error: Mapping[str, Any] | None = None
    exit_code: int | None = None
    files: tuple[FileEntry, ...] = ()
    started: float | None = None
    finished: float | None = None
    host: str | None = None
    notes: tuple[str, ...] = ()
    """What the user should know of the files, such as a pattern that matched nothing."""


@dataclass(frozen=True)
class LogChunk:
    """A piece of one container's stream. ``offset`` counts the stream's raw bytes; ``end`` means nothing follows."""

    data: bytes
    offset: int
    end: bool = False


@dataclass(frozen=True)
class Found:
    """A task that `Site.find` found, and whether it was already made runnable."""

    status: TaskStatus
    runnable: bool


@dataclass(frozen=True)
class Image:
    """An image that the site offers under a name."""

    name: str
    ref: str
    python: str | None = None


@dataclass(frozen=True)
class Gpu:
    """A GPU model of the site."""

    model: str
    total: int
    free: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Limits:
    """The most that one task may ask for, in bytes and seconds; ``None``: no limit known."""

    cpus: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    gpus: int | None = None
    time_seconds: int | None = None
    queue_seconds: int = 14 * 86400
    """Longest queueing time: with the time limit it makes the end of a job's life."""
    input_bytes: int = 2_000_000_000
    result_bytes: int = 2_000_000_000


@dataclass(frozen=True)
class Capabilities:
    """What the site can do, declared and not guessed."""

    logs: Literal["live", "delayed", "at_end"] = "at_end"
    exec: bool = False
    files: bool = True
    gpus: bool = False
    arrays: bool = True
    containers: bool | None = None
    """Whether it runs container images (``None``: not known before a job looks)."""


@dataclass(frozen=True)
class SiteInfo:
    """The site as clients show it."""

    name: str
    kind: str
    """``direct`` or ``kubernetes``."""
    batch: str = ""
    capabilities: Capabilities = Capabilities()
    images: tuple[Image, ...] = ()
    """The first one is the default; empty: the site's own Python runs the work."""
    limits: Limits = Limits()
    gpus: tuple[Gpu, ...] = ()
    cpus_total: int | None = None
    cpus_free: int | None = None
    python: str | None = None
    """``major.minor`` of the site's own Python (host runtime) where known."""
    version: str = ""
    identity: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """One link of the chain that the doctor looked at. ``ok`` is None where the link does not exist at this site."""

    name: str
    ok: bool | None
    detail: str
    hint: str = ""
    seconds: float = 0.0


@runtime_checkable
class Site(Protocol):
    """Runs Work.

    Any method may raise a `SiteError`, which never says anything about a job; `submit` also raises `UsageError`
    (a field that cannot be honoured, a policy, a limit) before anything left this process.
    """

    @property
    def name(self) -> str:
        """The name in sites.yaml."""
        ...

    async def submit(self, works: Sequence[Work], folders: Sequence[str], attempt: str) -> list[list[SiteHandle]]:
        """Hand over each work, with its job folder (0700) on this machine, not yet runnable."""
        ...

    async def start(self, handles: Sequence[SiteHandle]) -> None:
        """Make them runnable. Safe to repeat."""
        ...

    async def look(self, handles: Sequence[SiteHandle]) -> list[TaskStatus]:
        """Return one status per handle by one look for all."""
        ...

    def watch(self, active: Callable[[], Sequence[SiteHandle]]) -> AsyncIterator[list[TaskStatus]]:
        """Yield the statuses of ``active()`` whenever they may have changed; by default a loop over `look` (`sites.watch.poll`)."""
        ...

    async def find(self, job_ids: Sequence[str]) -> list[Found]:
        """Return every task of these jobs that the site knows, of any attempt (no ids: all of this service's)."""
        ...

    async def logs(
        self, handle: SiteHandle, container: str, stream: str, offset: int, limit: int = 1 << 20
    ) -> LogChunk:
        """Return new bytes of one stream from ``offset``; empty when there is nothing new yet."""
        ...

    async def cancel(self, handles: Sequence[SiteHandle], reason: str) -> None:
        """Ask for their end. Safe to repeat."""
        ...

    async def fetch(self, handles: Sequence[SiteHandle]) -> list[Outcome]:
        """Bring the results of ended tasks. Safe to repeat until `remove`."""
        ...

    async def remove(self, handles: Sequence[SiteHandle]) -> None:
        """Forget them at the site: their results are in the job folder. Safe to repeat."""
        ...

    async def describe(self) -> SiteInfo:
        """Return capabilities, resources, limits and images."""
        ...

    def checks(self) -> AsyncIterator[Check]:
        """Look at each link of the chain to this site in turn, from configuration to what the worker nodes have; never raises."""
        ...

    def preview(self, work: Work) -> str:
        """Return the job script that this work would become, submitting nothing."""
        ...

    async def close(self) -> None:
        """End helpers of this process. Jobs go on."""
        ...
