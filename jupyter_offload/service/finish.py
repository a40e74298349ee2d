"""Brings the results of ended tasks home: fetch → check → state, and only then the site may forget them.

Every step can be repeated: a service that is killed in between fetches again what it has not recorded, and asks the site again to
forget what it has. Results that are in the job folder outrank whatever the site says later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from jupyter_offload.errors import BatchNotFound, JobCancelled, OffloadError, SiteError
from jupyter_offload.job import State, Task
from jupyter_offload.service.ledger import Ledger
from jupyter_offload.service.pause import Backoff, Bell
from jupyter_offload.service.record import Phase, Record, move
from jupyter_offload.service.siteview import SiteBook, Visit, deadline
from jupyter_offload.sites.base import Outcome, SiteHandle

__all__ = ["Checked", "Finisher"]

GROUP = 50
"""Tasks in one call: a large result must not keep many small ones waiting."""
FETCH_SECONDS = 3600.0
REMOVE_SECONDS = 300.0
_LIMITS = frozenset({"TimeExceeded", "MemoryExceeded", "DiskExceeded"})
LOST_SECONDS = 60.0
"""When a site that said of a task first that it ended and then that there is no such task is asked again."""


class Checked:
    """What looking at a task's files said: the size of the result, and the error that it carries or is."""

    def __init__(self, result_bytes: int | None = None, error: OffloadError | None = None) -> None:
        self.result_bytes = result_bytes
        self.error = error


class Finisher:
    """The ends of one site's tasks. ``check`` looks at the files that came back, ``clear`` removes a job's inputs.

    ``lost`` is called when a lost task is to be looked at again.
    """

    def __init__(
        self,
        visit: Visit,
        book: SiteBook,
        ledger: Ledger,
        *,
        check: Callable[[Record, Outcome], Awaitable[Checked]],
        clear: Callable[[Record], Awaitable[None]],
        lost: Callable[[], None],
        backoff: Backoff,
        wall: Callable[[], float],
        log: logging.Logger,
    ) -> None:
        self._visit = visit
        self._book = book
        self._ledger = ledger
        self._check = check
        self._clear = clear
        self._lost = lost
        self._backoff = backoff
        self._wall = wall
        self._log = log
        self._fetch: dict[tuple[str, int], SiteHandle] = {}
        self._forget: dict[tuple[str, int, str], SiteHandle] = {}
        self._bell = Bell()

    def add(self, handles: Sequence[SiteHandle]) -> None:
        """Queue ended tasks."""
        for handle in handles:
            self._fetch[handle.job_id, handle.index] = handle
        self._bell.ring()

    def forget(self, handles: Sequence[SiteHandle]) -> None:
        """Queue tasks whose results are here, so that the site forgets them."""
        for handle in handles:
            self._forget[handle.job_id, handle.index, handle.attempt] = handle
        self._bell.ring()

    async def run(self) -> None:
        """Finish for ever."""
        while True:
            await self._bell.wait()
            while self._fetch or self._forget:
                try:
                    await self._round()
                    self._backoff.worked()
                except SiteError as error:  # noqa: PERF203
                    self._book.went_stale(self._visit, error)
                    await asyncio.sleep(self._backoff.failed())
                except Exception:
                    self._log.exception("fetching from %s", self._visit.name)
                    await asyncio.sleep(self._backoff.failed())

    async def _round(self) -> None:
        group = [handle for handle in list(self._fetch.values())[:GROUP] if self._wanted(handle)]
        for key in list(self._fetch)[:GROUP]:
            if self._fetch[key] not in group:
                del self._fetch[key]
        if group:
            await self._bring(group)
        forget = dict(list(self._forget.items())[:1000])
        if forget:
            call_remove = self._visit.entry.site.remove(list(forget.values()))
            await deadline(self._visit.name, "remove", call_remove, REMOVE_SECONDS)
            for forgotten in forget:
                self._forget.pop(forgotten, None)
            await self._ledger.change(
                {forgotten[0] for forgotten in forget}, partial(_forgotten, pending=frozenset(self._forget))
            )

    async def _bring(self, group: Sequence[SiteHandle]) -> None:
        """Fetch a group; what cannot be fetched must not keep the others waiting."""
        try:
            call = self._visit.entry.site.fetch(group)
            outcomes = await deadline(self._visit.name, "fetch", call, FETCH_SECONDS)
            await asyncio.gather(*(self._take(outcome) for outcome in outcomes))
        except Exception as error:
            away = isinstance(error, SiteError) and not isinstance(error, BatchNotFound)
            if away or (len(group) == 1 and not isinstance(error, BatchNotFound)):
                for handle in group:  # the others first, the next time
                    self._fetch[handle.job_id, handle.index] = self._fetch.pop((handle.job_id, handle.index))
                raise
            if len(group) > 1:
                for handle in group:
                    await self._bring([handle])
                return
            await self._lose(group[0], error)
        for handle in group:
            self._fetch.pop((handle.job_id, handle.index), None)

    async def _lose(self, handle: SiteHandle, error: Exception) -> None:
        """The site says that it has no trace of an ended task whose results are not here."""

        def lost(record: Record) -> Record:
            tasks = tuple(
                move(task, State.LOST, reason=str(getattr(error, "message", error)), hint="Run it again.")
                if task.index == handle.index
                else task
                for task in record.job.tasks
            )
            done = all(task.state.terminal for task in tasks)
            changed = record.with_job(tasks=tasks, finished=self._wall() if done else None)
            return replace(changed, phase=Phase.CLOSED) if done else changed

        await self._ledger.change([handle.job_id], lost)
        asyncio.get_running_loop().call_later(LOST_SECONDS, self._lost)

    def _wanted(self, handle: SiteHandle) -> bool:
        record = self._ledger.live.get(handle.job_id)
        return record is not None and handle in record.handles and not _task(record, handle.index).state.terminal

    async def _take(self, outcome: Outcome) -> None:
        record = self._ledger.live.get(outcome.handle.job_id)
        if record is None:
            return
        checked = await self._check(record, outcome)
        (record,) = await self._ledger.change(
            [record.id], partial(_finish, outcome=outcome, checked=checked, now=self._wall())
        ) or [record]
        if all(task.state.terminal for task in record.job.tasks):
            await self._clear(record)
        self.forget([outcome.handle])


def _task(record: Record, index: int) -> Task:
    return next(task for task in record.job.tasks if task.index == index)


def _finish(record: Record, outcome: Outcome, checked: Checked, now: float) -> Record:
    """Return the record with the task ended as its outcome and its result say."""
    own = checked.error
    if own is not None and (outcome.error or {}).get("error") in _LIMITS:
        own = None  # the limit explains why the runner was ended, whatever it says of its end
    error = own.to_json() if own is not None else outcome.error
    reason = own.message if own is not None else outcome.reason
    hint = own.hint if own is not None else outcome.hint
    state = State.FAILED if outcome.state is State.SUCCEEDED and checked.error is not None else outcome.state
    if record.cancel is not None and state is not State.SUCCEEDED:
        said = JobCancelled(record.cancel or "cancelled", hint="Run the cell again when you want it.", job_id=record.id)
        state, reason, hint, error = State.CANCELLED, said.message, said.hint, said.to_json()
    ended = partial(
        move,
        state=state,
        reason=reason,
        hint=hint,
        error=error if state is not State.SUCCEEDED else None,
        exit_code=outcome.exit_code,
        finished=outcome.finished or now,
        progress=None,
    )
    tasks = tuple(
        _timed(ended(task), outcome) if task.index == outcome.handle.index else task for task in record.job.tasks
    )
    done = all(task.state.terminal for task in tasks)
    files = tuple(dict.fromkeys((*record.job.files, *(file.path for file in outcome.files))))
    size = (record.job.result_bytes or 0) + checked.result_bytes if checked.result_bytes is not None else None
    changed = record.with_job(
        tasks=tasks,
        files=files,
        notes=tuple(dict.fromkeys((*record.job.notes, *outcome.notes))),
        result_bytes=size if size is not None else record.job.result_bytes,
        finished=(record.job.finished or now) if done else None,
    )
    return replace(changed, phase=Phase.FETCHED) if done else changed


def _timed(task: Task, outcome: Outcome) -> Task:
    return replace(task, started=outcome.started or task.started, host=outcome.host or task.host)


def _forgotten(record: Record, pending: frozenset[tuple[str, int, str]]) -> Record:
    if record.phase is not Phase.FETCHED or any((h.job_id, h.index, h.attempt) in pending for h in record.handles):
        return record
    return replace(record, phase=Phase.CLOSED)
