"""The batch seam: something that runs bash scripts. It knows nothing of Pods, and of the user only an owner's name.

Every call takes many, is async, and has arguments and results that are JSON-serialisable (`bytes` as base64), so that a
batch at another place is only a transport (`jupyter_offload.batch.wire`).

What a batch promises for each task of a submission:

- it runs ``bash <script> <index>`` in a private folder (mode 0700) that holds ``script`` and the task's ``inputs``, on some machine;
- standard output and error of the script become the files ``out`` and ``err``, readable with `Batch.read` while it runs where
  ``logs`` is ``live`` or ``delayed``;
- the script leaves one top-level file, ``output.tar``, and `Batch.fetch` brings ``output.tar``, ``out`` and ``err``
  into ``<folder>/task-<index>/``;
- SIGTERM is sent to the script on cancel, on a time limit and on eviction, SIGKILL to everything it started after ``grace_seconds``.

Submission is exactly-once in three steps: `Batch.submit` hands the tasks over *not yet runnable* and returns their handles; the caller
records the handles; `Batch.start` makes them runnable. When the caller dies in between, `Batch.find` shows what is there, by job id.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from jupyter_offload.job import State

__all__ = [
    "ERR",
    "OUT",
    "OUTPUT",
    "Batch",
    "BatchInfo",
    "Chunk",
    "Demand",
    "Examined",
    "Fetched",
    "Found",
    "GpuModel",
    "Handle",
    "Link",
    "LogMode",
    "Status",
    "Submission",
    "task_folder",
]

OUT = "out"
ERR = "err"
OUTPUT = "output.tar"
LogMode = Literal["live", "delayed", "at_end"]


@dataclass(frozen=True)
class Demand:
    """What one task asks of the batch system, already resolved and rounded up."""

    cpus: int = 1
    memory_bytes: int = 1 << 30
    disk_bytes: int = 1 << 30
    gpus: int = 0
    gpu_model: str | None = None
    time_seconds: int | None = None
    """Longest run time of one attempt."""


@dataclass(frozen=True)
class Submission:
    """One script and its N tasks."""

    job_id: str
    """32 hexadecimal digits; stamped on the tasks, so that `Batch.find` finds them for ever."""
    attempt: str
    """Id of this try to submit; stamped too. A later try has another one."""
    owner: str
    name: str
    """A label for people (a DNS label)."""
    folder: str
    """Absolute path of the job's folder on the caller's machine (mode 0700); holds ``script`` and ``inputs``."""
    script: str
    """File name in the folder."""
    inputs: tuple[str, ...] = ()
    """File names in the folder that every task gets."""
    task_inputs: tuple[tuple[str, ...], ...] = ()
    """Per task: further file names (empty: none for any)."""
    tasks: int = 1
    demand: Demand = Demand()
    rerun: bool = True
    """Whether an evicted task may start again."""
    grace_seconds: int = 30
    expires: float | None = None
    """Seconds since the epoch after which nothing of it may be left in the batch system."""


@dataclass(frozen=True)
class Handle:
    """One task as the batch system knows it. Data only: it can be kept in a file and used by another process."""

    id: str
    """The batch system's own id, opaque to callers."""
    job_id: str
    index: int
    attempt: str
    folder: str
    """As in the submission; results land in ``<folder>/task-<index>/``."""


@dataclass(frozen=True)
class Status:
    """What the batch system says of one task."""

    handle: Handle
    state: State
    """preparing (not yet started), queued, running, held, finishing (ended, its files can be fetched), failed (ended, and there is
    nothing to fetch), cancelled (removed), cancelling, or lost (no trace of it)."""
    reason: str = ""
    """Plain words; the batch system's own text where there are no better ones."""
    hint: str = ""
    error: str = ""
    """Name of the `JobError` that fits (``"MemoryExceeded"``), or empty."""
    attempts: int = 0
    """How often it started running."""
    exit_code: int | None = None
    signal: int | None = None
    host: str | None = None
    started: float | None = None
    finished: float | None = None


@dataclass(frozen=True)
class Chunk:
    """A piece of a file. ``offset`` is where ``data`` begins; ``end`` means the task has ended and nothing follows."""

    data: bytes
    offset: int
    end: bool = False


@dataclass(frozen=True)
class Fetched:
    """What `Batch.fetch` brought for one task: absolute paths, ``None`` where the batch system had no such file."""

    handle: Handle
    output: str | None = None
    out: str | None = None
    err: str | None = None
    problem: str = ""
    """Why something is missing, in plain words."""


@dataclass(frozen=True)
class Found:
    """A task that `Batch.find` found."""

    status: Status
    runnable: bool
    """False: handed over by `Batch.submit` but never started."""


@dataclass(frozen=True)
class GpuModel:
    """A GPU model of the batch system and how many there are."""

    name: str
    total: int
    free: int
    memory_bytes: int | None = None
    capability: float | None = None


@dataclass(frozen=True)
class BatchInfo:
    """What a batch system and its worker nodes have."""

    kind: str
    logs: LogMode
    arrays: bool = True
    apptainer: bool | None = None
    """Whether the worker nodes have apptainer (``None``: not known before a job looks)."""
    cpus_total: int | None = None
    cpus_free: int | None = None
    largest_memory_bytes: int | None = None
    gpus: tuple[GpuModel, ...] = ()
    version: str = ""
    identity: str = ""
    """Who the batch system takes us for."""
    shared_filesystem: bool = False
    notes: tuple[str, ...] = field(default=())


@runtime_checkable
class Batch(Protocol):
    """Runs scripts. Every method may raise a `SiteError` (unreachable, denied …); that never says anything about a task."""

    async def submit(self, submissions: Sequence[Submission]) -> list[list[Handle]]:
        """Hand all tasks over, not yet runnable; return for each submission the handles of its tasks in order.

        Raises `BadSubmit`, `QuotaExceeded` and other `SiteError`; after an error that leaves a doubt (`SiteUnreachable`,
        `SiteTimeout`) the caller looks with `find` before it tries again with another ``attempt``.
        """
        ...

    async def start(self, handles: Sequence[Handle]) -> None:
        """Make them runnable. Safe to repeat."""
        ...

    async def poll(self, handles: Sequence[Handle]) -> list[Status]:
        """Return one status per handle, in order, by one look at the batch system."""
        ...

    async def read(self, handle: Handle, file: str, offset: int, limit: int = 1 << 20) -> Chunk:
        """Return at most ``limit`` bytes of ``out`` or ``err`` from ``offset``; empty when there is nothing new."""
        ...

    async def cancel(self, handles: Sequence[Handle], reason: str) -> None:
        """Ask for their end. Safe to repeat; `poll` tells when it is done."""
        ...

    async def fetch(self, handles: Sequence[Handle]) -> list[Fetched]:
        """Bring the files of ended tasks into ``<folder>/task-<index>/``. Safe to repeat until `remove`."""
        ...

    async def remove(self, handles: Sequence[Handle]) -> None:
        """Forget ended tasks: their results are safe. Removes unstarted or running ones too. Safe to repeat."""
        ...

    async def find(self, job_ids: Sequence[str]) -> list[Found]:
        """Return every task of these jobs, of any attempt, that the batch system or its history knows (no ids: all of ours)."""
        ...

    async def describe(self) -> BatchInfo:
        """Return what the batch system and its worker nodes have."""
        ...

    async def close(self) -> None:
        """End helpers of this process. Tasks go on."""
        ...


def task_folder(handle: Handle) -> str:
    """Return the folder where the results of this task land."""
    return f"{handle.folder}/task-{handle.index}"


class Link(Protocol):
    """One link of the chain to a batch system: ``ok`` is None where it cannot be told."""

    @property
    def name(self) -> str:
        """What was looked at."""
        ...

    @property
    def ok(self) -> bool | None:
        """Whether it holds."""
        ...

    @property
    def detail(self) -> str:
        """What was seen."""
        ...

    @property
    def hint(self) -> str:
        """What to do."""
        ...

    @property
    def seconds(self) -> float:
        """How long the look took."""
        ...


@runtime_checkable
class Examined(Protocol):
    """A batch that can look at each link of the chain to its batch system, for the doctor."""

    def checks(self) -> AsyncIterator[Link]:
        """Yield the links in order; never raises."""
        ...
