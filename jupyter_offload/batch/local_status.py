"""One look at what is on disk, and what it says about tasks.

A look lists folders; it opens the files of a task only where the names do not say enough, and keeps what is final, so that
a thousand tasks cost a few milliseconds.
"""

# Plain os calls: a thousand tasks are looked at in one poll.
# ruff: noqa: PTH208

from __future__ import annotations

import os
from collections.abc import Sequence

from jupyter_offload.batch.base import Handle, Status
from jupyter_offload.batch.processes.spool import Entry, Record, Spool, read_record
from jupyter_offload.job import State

__all__ = ["Look", "take_look", "task_id"]

_HINTS = {
    "MemoryExceeded": "Ask for more, such as --memory 4GiB, or work on the data in pieces.",
    "DiskExceeded": "Ask for more, such as --disk 10GiB, or write less.",
    "TimeExceeded": "Ask for more, such as --time 2h.",
    "evicted": "Send it again; when it happens again, ask for more memory: the machine may have run out of it.",
    "failed": "Check free space and permissions of the local site's folder.",
}


def task_id(handle: Handle) -> str:
    """Return the task's id on disk, which is its handle's ``id`` too."""
    return f"{handle.job_id}~{handle.attempt}~{handle.index}"


class Look:
    """What was on disk at one moment. ``queue`` and ``running`` are the entries by task id, in order of start."""

    def __init__(
        self,
        spool: Spool,
        queue: Sequence[Entry],
        running: Sequence[Entry],
        groups: dict[str, frozenset[str]],
        ended: dict[str, Status],
        boot_id: str,
        slots: int,
    ) -> None:
        self.queue = {entry.task: entry for entry in queue}
        self.running = {entry.task: entry for entry in running}
        self._places = {entry.task: place for place, entry in enumerate(queue)}
        self._spool = spool
        self._names = groups
        self._ended = ended
        self._boot_id = boot_id
        self._slots = slots
        self._submissions: dict[str, Record] = {}

    @property
    def last_sequence(self) -> int:
        """The highest number in the queue, 0 when it is empty."""
        return max((int(entry.name.partition("~")[0]) for entry in self.queue.values()), default=0)

    def needs_pass(self, slots: int, now: float) -> bool:
        """Return whether something could start or must be put right."""
        used = 0
        for entry in self.running.values():
            if not self._spool.supervised(entry.group, entry.index):
                return True
            used += min(entry.cpus, slots)
        first = next(iter(self.queue.values()), None)
        if first is not None and used + min(first.cpus, slots) <= slots:
            return True
        return any(int(name.partition("~")[0]) <= now for name in os.listdir(self._spool.expires))

    def submission(self, group: str) -> Record:
        """Return what was submitted; empty when it is not there."""
        if group not in self._submissions:
            known = read_record(f"{self._spool.group(group)}/submission") if group in self._names else None
            self._submissions[group] = known or {}
        return self._submissions[group]

    def handles(self, group: str) -> list[Handle]:
        """Return the handles of all tasks of a submission."""
        record = self.submission(group)
        return [
            Handle(f"{group}~{index}", record["job_id"], index, record["attempt"], record["folder"])
            for index in range(int(record.get("tasks", "0")))
        ]

    def attempts(self, handle: Handle) -> int:
        """Return how often a task that does not run now had started."""
        again = self._read(handle, "again")
        return int(again["attempts"]) if again else 0

    def status(self, handle: Handle) -> Status:
        """Return the state of a task."""
        task = task_id(handle)
        known = self._ended.get(task)
        group = f"{handle.job_id}~{handle.attempt}"
        names = self._names.get(group, frozenset())
        here = task == handle.id and 0 <= handle.index < int(self.submission(group).get("tasks", "0"))
        if not here or f"{handle.index}.gone" in names:
            return Status(handle, State.LOST, reason="the local site has no trace of it")
        if known is not None and known.handle == handle:
            return known
        if f"{handle.index}.end" in names:
            end = self._read(handle, "end")
            if end is not None:
                self._ended[task] = _ended_status(handle, end)
                return self._ended[task]
        if task in self.running:
            return self._running_status(handle, self.running[task], cancelled=f"{handle.index}.cancel" in names)
        if task in self.queue:
            again = self._read(handle, "again") if f"{handle.index}.again" in names else None
            return self._queued_status(handle, self.queue[task], again)
        return Status(handle, State.PREPARING)

    def _read(self, handle: Handle, what: str) -> Record | None:
        return read_record(self._spool.state(f"{handle.job_id}~{handle.attempt}", handle.index, what))

    def _running_status(self, handle: Handle, entry: Entry, *, cancelled: bool) -> Status:
        run = self._read(handle, "run")
        if run is None:
            return Status(handle, State.QUEUED, reason="it is being started", attempts=self.attempts(handle))
        reason = self._crowding(entry)
        if run["boot"] != self._boot_id:
            reason = "the machine restarted while it ran"
        elif "recovered" in run or not self._spool.supervised(entry.group, entry.index):
            reason = "its supervisor vanished; what it left running is being ended"
        return Status(
            handle,
            State.CANCELLING if cancelled else State.RUNNING,
            reason=reason,
            attempts=int(run["attempts"]),
            host=run["host"],
            started=float(run["started"]),
        )

    def _queued_status(self, handle: Handle, entry: Entry, again: Record | None) -> Status:
        before = self._places[entry.task]
        words = [again["reason"]] if again else []
        if before:
            words.append(f"{before} {'task is' if before == 1 else 'tasks are'} before it in the queue")
        if entry.cpus > self._slots:
            words.append(self._crowding(entry))
        return Status(handle, State.QUEUED, reason="; ".join(words), attempts=int(again["attempts"]) if again else 0)

    def _crowding(self, entry: Entry) -> str:
        if entry.cpus <= self._slots:
            return ""
        return f"it asks for {entry.cpus} cores and this site has {self._slots}: it runs alone"


def take_look(
    spool: Spool, groups: Sequence[str], ended: dict[str, Status], boot_id: str, *, locked: bool = False
) -> Look:
    """Look at the queue and at some submissions.

    ``ended`` keeps final statuses between looks. ``locked``: the caller holds the queue's lock already. Raises `spool.LockTimeout`.
    """
    lock = None if locked else spool.lock(shared=True)
    try:
        queue = [Entry(name) for name in sorted(os.listdir(spool.queue))]
        running = [Entry(name) for name in sorted(os.listdir(spool.running))]
        slots = spool.slots()
    finally:
        if lock is not None:
            os.close(lock)
    # After the queue: a task that leaves `running` for good has its end written first.
    known = set(os.listdir(spool.jobs))
    names: dict[str, frozenset[str]] = {}
    for group in groups:
        if group in known and not group.startswith("."):
            try:
                names[group] = frozenset(os.listdir(f"{spool.group(group)}/state"))
            except FileNotFoundError:
                continue  # removed at this moment
    return Look(spool, queue, running, names, ended, boot_id, slots)


def _ended_status(handle: Handle, end: Record) -> Status:
    verdict, reason = end["verdict"], end["reason"]
    states = {"cancelled": State.CANCELLED, "expired": State.CANCELLED, "failed": State.FAILED}
    error = verdict if verdict.endswith("Exceeded") else ""
    if verdict in ("evicted", "failed"):
        error = "JobFailed"
    if verdict == "evicted":
        reason = f"{reason}, and it may not start again"
    return Status(
        handle,
        states.get(verdict, State.FINISHING),
        reason=reason,
        hint=_HINTS.get(verdict, ""),
        error=error,
        attempts=int(end["attempts"]),
        exit_code=int(end["exit_code"]) if end.get("exit_code") else None,
        signal=int(end["signal"]) if end.get("signal") else None,
        host=end.get("host") or None,
        started=float(end["started"]) if end.get("started") else None,
        finished=float(end["finished"]),
    )
