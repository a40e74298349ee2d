"""Jobs and their tasks as records: data only, the same for kernel, service, REST and command line.

A record is frozen; a change makes a new one (`dataclasses.replace`). ``to_json`` and ``from_json`` are exact inverses and
are what the REST API carries. Times are seconds since the epoch (UTC) as floats, sizes are bytes, resources are the
Kubernetes quantities that the user wrote.

States of a task::

    preparing → queued → running → finishing → succeeded | failed | cancelled | lost

with ``held`` (the batch system holds it; reason and hint say why), ``cancelling`` (asked for, not yet confirmed by the site), and
running → queued after an eviction (`Task.attempts` counts the starts). ``lost`` can be taken back. A job's state is derived from its tasks.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from jupyter_offload.errors import UnknownName, UsageError

__all__ = [
    "TERMINAL",
    "Job",
    "Kind",
    "Request",
    "Resources",
    "Shipment",
    "State",
    "Task",
    "check_name",
    "derive_state",
    "new_id",
    "resolve_id",
    "short_ids",
    "transition_allowed",
]


class State(str, enum.Enum):
    """The states of a task, and of a job by derivation. Only these; a backend's own words go into ``reason``."""

    PREPARING = "preparing"
    QUEUED = "queued"
    RUNNING = "running"
    FINISHING = "finishing"
    HELD = "held"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    def __str__(self) -> str:
        return self.value

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen (though ``lost`` can be taken back)."""
        return self in TERMINAL


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.LOST})

_FORWARD: dict[State, frozenset[State]] = {
    State.PREPARING: frozenset(State) - {State.PREPARING},
    State.QUEUED: frozenset(State) - {State.PREPARING},
    State.RUNNING: frozenset(State) - {State.PREPARING},
    State.HELD: frozenset(State) - {State.PREPARING},
    State.CANCELLING: frozenset({State.FINISHING, *TERMINAL}),
    State.FINISHING: frozenset({State.CANCELLING, *TERMINAL}),
    State.LOST: frozenset(State) - {State.PREPARING},
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


def transition_allowed(old: State, new: State) -> bool:
    """Return whether a task may go from one state to the other (staying is always allowed)."""
    return new is old or new in _FORWARD[old]


class Kind(str, enum.Enum):
    """What the user sent."""

    CELL = "cell"
    FUNCTION = "function"
    COMMAND = "command"
    NOTEBOOK = "notebook"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Resources:
    """What a task may use. ``None`` means: the site's default."""

    cpus: str | None = None
    """Cores, a Kubernetes quantity (``"2"``, ``"500m"``)."""
    memory: str | None = None
    """Memory, a Kubernetes quantity (``"1Gi"``)."""
    disk: str | None = None
    """Scratch space, a Kubernetes quantity."""
    gpus: int = 0
    gpu_model: str | None = None
    time_seconds: int | None = None
    """Longest run time of one attempt."""


@dataclass(frozen=True)
class Shipment:
    """One thing that travels with the job, as the card and the dry run show it."""

    name: str
    what: str
    """``value``, ``function``, ``module``, ``file`` or ``secret``."""
    kind: str
    """The Python type, ``source`` or the like."""
    size_bytes: int


@dataclass(frozen=True)
class Request:
    """What the user asked for. Travels in the plain header of the bundle; holds no value and no secret."""

    id: str
    name: str
    kind: Kind
    site: str | None = None
    """A site's name, or ``None`` for the default one."""
    image: str | None = None
    """A name from the site's list, an image reference, or ``None`` for the site's default."""
    resources: Resources = Resources()
    command: tuple[str, ...] = ()
    """For `Kind.COMMAND`: the program and its arguments, never given to a shell."""
    env: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    fetch: tuple[str, ...] = ()
    """Glob patterns, relative to the working directory, of the files that come back."""
    secrets: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    python: str = ""
    """``major.minor`` of the kernel's Python."""
    needs_equal_python: bool = False
    """Whether something travels by cloudpickle, so that the remote Python must be of the same minor."""
    rerun: bool = True
    """Whether an evicted task may start again from the beginning."""
    fingerprint: str | None = None
    """Digest of notebook, cell, source and inputs: equal fingerprints are twins."""
    source: str = ""
    """The user's own source, for display (at most 20,000 characters)."""
    origin: str | None = None
    """The notebook's path or ``<cell id>``, for display."""
    ships: tuple[Shipment, ...] = ()
    created: float = 0.0
    tasks: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the request as plain data."""
        return dict(_plain(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Request:
        """Rebuild a request; unknown keys are refused with `UsageError`."""
        values = _known(cls, data)
        values["kind"] = Kind(values["kind"])
        values["resources"] = Resources(**_known(Resources, values.get("resources") or {}))
        values["ships"] = tuple(Shipment(**_known(Shipment, item)) for item in values.get("ships") or ())
        for key in ("command", "inputs", "outputs", "fetch", "secrets", "pip"):
            values[key] = tuple(values.get(key) or ())
        values["env"] = dict(values.get("env") or {})
        return cls(**values)


@dataclass(frozen=True)
class Task:
    """One of a job's N tasks."""

    index: int
    state: State = State.PREPARING
    reason: str = ""
    """Plain words for the present state; a backend's own words where there are no better ones."""
    hint: str = ""
    attempts: int = 0
    """How often it started running."""
    exit_code: int | None = None
    host: str | None = None
    queued: float | None = None
    started: float | None = None
    finished: float | None = None
    progress: Mapping[str, Any] | None = None
    """``{"done": 3, "total": 12, "label": "cell 3 of 12"}`` when the runner reports it."""
    error: Mapping[str, Any] | None = None
    """The error of a failed task, as `OffloadError.to_json` writes it."""


@dataclass(frozen=True)
class Job:
    """A job as its owner sees it."""

    request: Request
    owner: str
    site: str
    image: str | None = None
    """The image reference that the site resolved, or ``None`` when the site's own Python runs it."""
    tasks: tuple[Task, ...] = (Task(0),)
    revision: int = 0
    stale_since: float | None = None
    """Since when the site could not be looked at; the states are as of then."""
    logs: str = "at_end"
    """What the site declared: ``live``, ``delayed`` or ``at_end``."""
    result_bytes: int | None = None
    """Size of the result once it is in the job folder."""
    files: tuple[str, ...] = ()
    """Names of the files that came back."""
    notes: tuple[str, ...] = ()
    """Things the user should know, such as a rerun after an eviction."""
    finished: float | None = None

    @property
    def id(self) -> str:
        """The job's UUID (32 hexadecimal digits)."""
        return self.request.id

    @property
    def name(self) -> str:
        """The job's name as the user gave it."""
        return self.request.name

    @property
    def state(self) -> State:
        """The state derived from the tasks' states."""
        return derive_state(task.state for task in self.tasks)

    @property
    def reason(self) -> str:
        """The reason of the task that decides the job's state."""
        state = self.state
        return next((task.reason for task in self.tasks if task.state is state), "")

    @property
    def hint(self) -> str:
        """The hint of the task that decides the job's state."""
        state = self.state
        return next((task.hint for task in self.tasks if task.state is state), "")

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data, with the derived ``id``, ``name``, ``state``, ``reason`` and ``hint`` for other readers."""
        data: dict[str, Any] = dict(_plain(self))
        data.update(id=self.id, name=self.name, state=self.state.value, reason=self.reason, hint=self.hint)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """Rebuild a record; unknown keys are refused with `UsageError`."""
        values = _known(
            cls, {key: value for key, value in data.items() if key not in {"id", "name", "state", "reason", "hint"}}
        )
        values["request"] = Request.from_json(values["request"])
        values["tasks"] = tuple(_task(item) for item in values["tasks"])
        for key in ("files", "notes"):
            values[key] = tuple(values.get(key) or ())
        return cls(**values)


def _task(data: Mapping[str, Any]) -> Task:
    values = _known(Task, data)
    values["state"] = State(values["state"])
    return Task(**values)


def derive_state(states: Iterable[State]) -> State:
    """Return the state of a job whose tasks have these states.

    While any task is active the job shows the most advanced activity (running before queued before preparing), except that a held task
    shows when nothing else moves; when all have ended, any failure makes the job failed, then lost, then cancelled.
    """
    present = set(states)
    order = (
        State.CANCELLING,
        State.RUNNING,
        State.FINISHING,
        State.QUEUED,
        State.PREPARING,
        State.HELD,
        State.FAILED,
        State.LOST,
        State.CANCELLED,
    )
    return next((state for state in order if state in present), State.SUCCEEDED)


_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


def check_name(name: str) -> str:
    """Return ``name`` when it is a job name (DNS label of at most 40 characters). Raises `UsageError`."""
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not a job name",
            hint="Use at most 40 lower-case letters, digits and dashes, such as --name svm-fit.",
        )
    return name


def new_id() -> str:
    """Return a new job id: a random UUID, 32 hexadecimal digits."""
    return uuid.uuid4().hex


def short_ids(jobs: Iterable[Job]) -> dict[str, str]:
    """Return for each job id its shown form: the name, a dash and the shortest unique prefix of at least four digits."""
    known = list(jobs)
    ids = sorted({job.id for job in known})
    lengths: dict[str, int] = {}
    for place, current in enumerate(ids):
        neighbours = ids[max(0, place - 1) : place] + ids[place + 1 : place + 2]
        lengths[current] = max([4, *(_common(current, other) + 1 for other in neighbours)])
    return {job.id: f"{job.name}-{job.id[: lengths[job.id]]}" for job in known}


def _common(left: str, right: str) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )


def resolve_id(text: str, jobs: Iterable[Job]) -> Job:
    """Return the one job that ``text`` means: an id, a unique prefix of one, ``name-prefix``, or a name that only one job has.

    Raises `UnknownName` when there is none or more than one.
    """
    known = list(jobs)
    name, _, prefix = text.strip().rpartition("-")
    found = [job for job in known if job.id.startswith(text.strip())]
    found = found or [job for job in known if job.name == name and prefix and job.id.startswith(prefix)]
    found = found or [job for job in known if job.name == text.strip()]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(sorted(short_ids(found).values())[:5])
        raise UnknownName(f"{text!r} could be any of {len(found)} jobs: {shown}", hint="Give one more digit of the id.")
    raise UnknownName(f"no job {text!r}", hint="`%offload` lists the jobs.")


_Record = TypeVar("_Record")


def _known(cls: type[_Record], data: Mapping[str, Any]) -> dict[str, Any]:
    names = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - names)
    if unknown:
        raise UsageError(
            f"unknown key {unknown[0]!r} in {cls.__name__}",
            hint="Client and service differ in version: restart the server.",
        )
    return dict(data)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
