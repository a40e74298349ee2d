"""Follows the jobs of one site: what the site says becomes the tasks' states, and nothing else does.

One loop per site over `Site.watch`. When the site cannot be looked at, its jobs keep their states and show ``stale_since``. A task is
`lost` only because the site said that it has no trace of it, and it goes on being looked at until the end of its life, so that it can
be taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from jupyter_offload.errors import OffloadError, SiteError, SiteTimeout
from jupyter_offload.job import Job, State, Task
from jupyter_offload.service.ledger import Ledger
from jupyter_offload.service.pause import Backoff, Bell
from jupyter_offload.service.record import Phase, Record, move
from jupyter_offload.service.siteview import SiteBook, Visit
from jupyter_offload.sites.base import SiteHandle, TaskStatus

__all__ = ["Watcher"]

LOOK_SECONDS = 120.0
"""Longest time between two answers of a watch."""


class Watcher:
    """The watch on one site. ``ended`` is called with the handles of tasks whose results can be fetched."""

    def __init__(
        self,
        visit: Visit,
        book: SiteBook,
        ledger: Ledger,
        *,
        ended: Callable[[Sequence[SiteHandle]], None],
        backoff: Backoff,
        wall: Callable[[], float],
        log: logging.Logger,
    ) -> None:
        self._visit = visit
        self._book = book
        self._ledger = ledger
        self._ended = ended
        self._backoff = backoff
        self._wall = wall
        self._log = log
        self._bell = Bell()
        self._told_stale = True  # an earlier service may have

    def wake(self) -> None:
        """Tell that there is something to watch."""
        self._bell.ring()

    def active(self) -> list[SiteHandle]:
        """Return the handles of the tasks that may change: running ones, and lost ones until the end of their life."""
        now = self._wall()
        handles = []
        for record in self._ledger.live.values():
            if record.job.site == self._visit.name and record.phase in (Phase.STARTED, Phase.CLOSED):
                tasks = {task.index: task for task in record.job.tasks}
                handles += [handle for handle in record.handles if _watched(record, tasks[handle.index], now)]
        return handles

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            if not self.active():
                await self._bell.wait()
                continue
            try:
                await self._watch()
            except SiteError as error:
                await self._stale(error)
                await self._bell.wait(self._backoff.failed())
            except Exception:
                self._log.exception("watching %s", self._visit.name)
                await asyncio.sleep(self._backoff.failed())

    async def _watch(self) -> None:
        """Follow the site until nothing is left to watch."""
        statuses = self._visit.entry.site.watch(self.active)
        async with contextlib.aclosing(statuses) as stream:  # type: ignore[type-var]
            while self.active():
                try:
                    news = await asyncio.wait_for(anext(stream), LOOK_SECONDS)
                except StopAsyncIteration:
                    return
                except asyncio.TimeoutError as error:
                    raise SiteTimeout(
                        f"site {self._visit.name} did not say anything for {LOOK_SECONDS:.0f} s"
                    ) from error
                self._backoff.worked()
                await self._answered()
                self.apply(news)

    async def _answered(self) -> None:
        self._book.answered(self._visit)
        if self._told_stale:
            self._told_stale = False
            await self._ledger.change(self._mine(), lambda record: _stale_since(record, None))

    async def _stale(self, error: OffloadError) -> None:
        self._book.went_stale(self._visit, error)
        self._told_stale = True
        await self._ledger.change(self._mine(), lambda record: _stale_since(record, self._visit.stale_since))

    def _mine(self) -> list[str]:
        return [
            record.id
            for record in self._ledger.live.values()
            if record.job.site == self._visit.name and not record.job.state.terminal
        ]

    def apply(self, statuses: Iterable[TaskStatus]) -> None:
        """Take what the site says into the records, and pass on what has ended."""
        by_job: dict[str, list[TaskStatus]] = {}
        for status in statuses:
            by_job.setdefault(status.handle.job_id, []).append(status)
        for job_id, news in by_job.items():
            self._ledger.change_soon([job_id], partial(_apply, statuses=news, now=self._wall()))
        ended = [status.handle for news in by_job.values() for status in news if _fetchable(status)]
        if ended:
            self._ended(ended)


def _watched(record: Record, task: Task, now: float) -> bool:
    if task.state is State.LOST:
        return record.expires is None or now < record.expires
    return not task.state.terminal and task.state is not State.FINISHING and record.phase is Phase.STARTED


def _fetchable(status: TaskStatus) -> bool:
    """Whether there may be something to fetch: what ended by itself, and what failed or was cancelled (its logs)."""
    return status.state in (State.FINISHING, State.SUCCEEDED, State.FAILED, State.CANCELLED)


def _stale_since(record: Record, since: float | None) -> Record:
    return record if record.job.stale_since == since else record.with_job(stale_since=since)


def _apply(record: Record, statuses: Sequence[TaskStatus], now: float) -> Record:
    current = {(handle.index, handle.attempt) for handle in record.handles}
    news = {
        status.handle.index: status for status in statuses if (status.handle.index, status.handle.attempt) in current
    }
    tasks = tuple(_next(record, task, news.get(task.index), now) for task in record.job.tasks)
    job: Job = replace(record.job, tasks=tasks, notes=_notes(record.job, tasks), stale_since=None)
    if job.state is not State.LOST:
        job = replace(job, finished=None)
    elif job.finished is None:
        job = replace(job, finished=now)
    phase = record.phase
    if phase is Phase.CLOSED and not job.state.terminal:
        phase = Phase.STARTED  # a lost one turned up again
    elif phase is Phase.STARTED and job.state is State.LOST and all(task.state.terminal for task in tasks):
        phase = Phase.CLOSED
    return replace(record, job=job, phase=phase)


def _next(record: Record, task: Task, status: TaskStatus | None, now: float) -> Task:
    if status is None or (task.state.terminal and task.state is not State.LOST):
        return task
    state = State.FINISHING if _fetchable(status) else status.state
    if record.cancel is not None and state in (State.PREPARING, State.QUEUED, State.RUNNING, State.HELD):
        state = State.CANCELLING
    if state is State.PREPARING:
        state = State.QUEUED
    return move(
        task,
        state,
        reason=status.reason,
        hint=status.hint,
        attempts=max(task.attempts, status.attempts),
        exit_code=status.exit_code,
        host=status.host or task.host,
        started=status.started or task.started or (now if state is State.RUNNING else None),
        finished=status.finished if state.terminal or state is State.FINISHING else None,
    )


def _notes(job: Job, tasks: Sequence[Task]) -> tuple[str, ...]:
    """Return the job's notes with the one on reruns brought up to date."""
    kept = tuple(note for note in job.notes if not note.startswith(_RERUN))
    reruns = sum(max(0, task.attempts - 1) for task in tasks)
    if not reruns:
        return kept
    times = "once" if reruns == 1 else f"{reruns} times"
    return (*kept, f"{_RERUN}, after an eviction, {times}")


_RERUN = "ran again from the start"
