"""What the service itself knows of a job beyond what its owner sees: handles, key, how far its life has come at the site."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jupyter_offload.job import Job, State, Task, transition_allowed
from jupyter_offload.sites.base import SiteHandle

__all__ = ["Phase", "Record", "end_tasks", "move"]


class Phase(str, enum.Enum):
    """How far the exactly-once steps have come. Each is on disk before the next step begins."""

    ACCEPTED = "accepted"
    """The intent is on disk. Whether the site already has something is not known after a restart: it is looked up first."""
    HANDED = "handed"
    """The handles are on disk; making them runnable can be repeated."""
    STARTED = "started"
    """The site runs it; the watcher follows."""
    FETCHED = "fetched"
    """All results are in the job folder; forgetting them at the site can be repeated."""
    CLOSED = "closed"
    """Nothing is left to do."""


@dataclass(frozen=True)
class Record:
    """A job as the service keeps it, in the store and in the job folder (``job.json``)."""

    job: Job
    key: str
    """HMAC key of the result, hexadecimal: a secret."""
    digest: str
    """SHA-256 of the bundle's header: the same id with another digest is another submission."""
    phase: Phase = Phase.ACCEPTED
    handles: tuple[SiteHandle, ...] = ()
    cancel: str | None = None
    """Why its owner wants its end, or None."""
    expires: float | None = None
    """End of its life at the site, seconds since the epoch."""

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def owner(self) -> str:
        """The job's owner."""
        return self.job.owner

    @property
    def live(self) -> bool:
        """Whether anything is left to do, or to take back (a lost job)."""
        return self.phase is not Phase.CLOSED or self.job.state is State.LOST

    def with_job(self, **changes: Any) -> Record:
        """Return the record with these fields of the job changed."""
        return replace(self, job=replace(self.job, **changes))

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return {
            "format": 1,
            "job": self.job.to_json(),
            "key": self.key,
            "digest": self.digest,
            "phase": self.phase.value,
            "handles": [dataclasses.asdict(handle) for handle in self.handles],
            "cancel": self.cancel,
            "expires": self.expires,
        }

    def dump(self) -> str:
        """Return the record as JSON text."""
        return json.dumps(self.to_json(), separators=(",", ":"))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """Rebuild a record. Raises `KeyError`, `TypeError`, `ValueError` or `UsageError` when it is none."""
        return cls(
            job=Job.from_json(data["job"]),
            key=str(data["key"]),
            digest=str(data["digest"]),
            phase=Phase(data["phase"]),
            handles=tuple(SiteHandle(**handle) for handle in data["handles"]),
            cancel=data["cancel"],
            expires=data["expires"],
        )

    @classmethod
    def load(cls, text: str) -> Record:
        """Rebuild a record from what `dump` wrote."""
        return cls.from_json(json.loads(text))


def move(task: Task, state: State, **changes: Any) -> Task:
    """Return the task in another state; where the states' order forbids it, in its own state with nothing but ``attempts`` changed."""
    if transition_allowed(task.state, state):
        return replace(task, state=state, **changes)
    return replace(task, attempts=max(task.attempts, int(changes.get("attempts", 0))))


def end_tasks(
    record: Record,
    state: State,
    now: float,
    *,
    reason: str = "",
    hint: str = "",
    error: Mapping[str, Any] | None = None,
) -> Record:
    """Return the record with every task that has not ended in ``state``."""

    def ended(task: Task) -> Task:
        if task.state.terminal and task.state is not State.LOST:
            return task
        return move(task, state, reason=reason, hint=hint, error=error, finished=task.finished or now)

    tasks = tuple(ended(task) for task in record.job.tasks)
    done = all(task.state.terminal for task in tasks)
    return record.with_job(tasks=tasks, finished=(record.job.finished or now) if done else None)


Change = Callable[[Record], Record]
