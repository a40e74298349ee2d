"""Hands jobs over to one site, each exactly once.

The intent is on disk before this begins (`Phase.ACCEPTED`). Then: hand over, not yet runnable → record the handles (`Phase.HANDED`) →
make runnable → `Phase.STARTED`. Whenever it is not certain what the site has (a call broke off, the service was killed), the jobs are
looked up at the site by their ids: one attempt is kept, all others are removed, and only a job of which there is nothing is handed over
anew. What queues up while a call is under way goes in the next one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from jupyter_offload.errors import (
    AuthFailed,
    BadSubmit,
    BatchNotFound,
    Denied,
    JobCancelled,
    JobError,
    JobFailed,
    OffloadError,
    SiteError,
    SiteUnreachable,
    UsageError,
)
from jupyter_offload.job import State, new_id
from jupyter_offload.pod import Work
from jupyter_offload.service.ledger import Ledger
from jupyter_offload.service.pause import Backoff, Bell
from jupyter_offload.service.record import Phase, Record, end_tasks, move
from jupyter_offload.service.siteview import SiteBook, Visit, deadline
from jupyter_offload.sites.base import Found, SiteHandle

__all__ = ["Submitter"]

GROUP = 1000
"""Jobs in one call."""
CALL_SECONDS = 600.0
FIND_SECONDS = 120.0
FINAL = (UsageError, JobError, BadSubmit, Denied, AuthFailed)
"""The site's last word on a submission: nothing of it is there, and trying again would not help."""
PASSING = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EIO, errno.ESTALE}
)
"""What this machine lacks for now: it says nothing of a job, and is waited for."""


class Submitter:
    """The submissions to one site."""

    def __init__(
        self,
        visit: Visit,
        book: SiteBook,
        ledger: Ledger,
        build: Callable[[Record], Awaitable[tuple[Record, Work, str]]],
        *,
        started: Callable[[], None],
        clear: Callable[[Record], Awaitable[None]],
        backoff: Backoff,
        wall: Callable[[], float],
        log: logging.Logger,
    ) -> None:
        self._visit = visit
        self._book = book
        self._ledger = ledger
        self._build = build
        self._started = started
        self._clear = clear
        self._backoff = backoff
        self._wall = wall
        self._log = log
        self._queue: dict[str, None] = {}
        self._doubtful: set[str] = set()
        self._bell = Bell()
        self.in_flight: frozenset[str] = frozenset()
        """Jobs of which a call is under way."""

    def add(self, job_ids: Sequence[str], *, doubtful: bool = False) -> None:
        """Queue jobs. ``doubtful``: the site may already have something of them."""
        self._queue.update(dict.fromkeys(job_ids))
        if doubtful:
            self._doubtful.update(job_ids)
        self._bell.ring()

    def is_doubtful(self, job_id: str) -> bool:
        """Whether the site may have something of this job that is not recorded."""
        return job_id in self._doubtful or job_id in self.in_flight

    async def run(self) -> None:
        """Submit for ever."""
        while True:
            await self._bell.wait()
            while self._queue:
                group = list(self._queue)[:GROUP]
                self.in_flight = frozenset(group)
                for job_id in group:
                    del self._queue[job_id]
                try:
                    await self._submit(group)
                    self._backoff.worked()
                    self._book.answered(self._visit)
                except SiteError as error:
                    await self._postpone(group, error)
                except Exception as error:
                    # a fault of ours must not stop the other jobs; what was handed over is looked up when it is tried again
                    self._log.exception("submitting to %s", self._visit.name)
                    await self._postpone(
                        group, SiteUnreachable(f"internal error: {error!r}", hint="See the service's log.")
                    )
                finally:
                    self.in_flight = frozenset()

    # -- one group -------------------------------------------------------------------------------------------------------------------

    async def _submit(self, group: Sequence[str]) -> None:
        doubtful = [job_id for job_id in group if job_id in self._doubtful]
        if doubtful:
            await self._settle(doubtful)
        fresh = [record for record in self._records(group, Phase.ACCEPTED) if not record.job.state.terminal]
        cancelled = [record.id for record in fresh if record.cancel is not None]
        await self._end(cancelled, self._cancelled)
        await self._hand_over([record.id for record in fresh if record.cancel is None])
        await self._start([record.id for record in self._records(group, Phase.HANDED)])

    def _records(self, group: Sequence[str], phase: Phase) -> list[Record]:
        records = (self._ledger.live.get(job_id) for job_id in group)
        return [record for record in records if record is not None and record.phase is phase]

    async def _hand_over(self, group: Sequence[str]) -> None:
        ready: list[tuple[Work, str]] = []
        for job_id in group:
            try:
                record, work, folder = await self._build(self._ledger.live[job_id])
            except FINAL as error:
                await self._fail(job_id, error)
                continue
            except SiteError:
                raise
            except Exception as error:
                if _passing(error):
                    raise
                await self._spoiled(job_id, error)  # one damaged job folder must not keep the others waiting
                continue
            self._ledger.change_soon([job_id], partial(_resolved, resolved=record))
            ready.append((work, folder))
        if not ready:
            return
        ids = [work.job_id for work, _ in ready]
        self._doubtful.update(ids)
        try:
            handles = await deadline(
                self._visit.name,
                "submit",
                self._visit.entry.site.submit([work for work, _ in ready], [folder for _, folder in ready], new_id()),
                CALL_SECONDS,
            )
        except FINAL as error:
            self._doubtful.difference_update(ids)
            if len(ids) == 1:
                await self._fail(ids[0], error)
                return
            for job_id in ids:  # one of them spoils the others: each for itself
                await self._hand_over([job_id])
            return
        except SiteError:
            raise
        except Exception as error:
            if _passing(error):
                raise
            await self._settle(ids)  # whether the site has something of them by now
            left = [record.id for record in self._records(ids, Phase.ACCEPTED)]
            if len(ids) == 1 and left:
                await self._spoiled(ids[0], error)
                return
            for job_id in left:
                await self._hand_over([job_id])
            return
        by_job = dict(zip(ids, handles, strict=True))
        await self._ledger.change(
            ids, lambda record: replace(record, phase=Phase.HANDED, handles=tuple(by_job[record.id]))
        )
        self._doubtful.difference_update(ids)

    async def _start(self, group: Sequence[str]) -> None:
        records = self._records(group, Phase.HANDED)
        unwanted = [record for record in records if record.cancel is not None]
        if unwanted:
            await self._remove([handle for record in unwanted for handle in record.handles])
            await self._end([record.id for record in unwanted], self._cancelled)
        wanted = [record for record in records if record.cancel is None]
        if not wanted:
            return
        handles = [handle for record in wanted for handle in record.handles]
        try:
            await deadline(self._visit.name, "start", self._visit.entry.site.start(handles), CALL_SECONDS)
        except BatchNotFound:
            if len(wanted) > 1:
                for record in wanted:
                    await self._start([record.id])
                return
            # the site has no trace of it any more: the watcher will say so
        now = self._wall()
        await self._ledger.change([record.id for record in wanted], partial(_started, now=now))
        self._started()

    # -- doubt -----------------------------------------------------------------------------------------------------------------------

    async def _settle(self, group: Sequence[str]) -> None:
        """Look up what the site has of these jobs; keep one attempt of each and remove the others."""
        found = await deadline(self._visit.name, "find", self._visit.entry.site.find(list(group)), FIND_SECONDS)
        attempts: dict[str, dict[str, list[Found]]] = defaultdict(lambda: defaultdict(list))
        for item in found:
            attempts[item.status.handle.job_id][item.status.handle.attempt].append(item)
        surplus: list[SiteHandle] = []
        kept: dict[str, tuple[SiteHandle, ...]] = {}
        for job_id in group:
            record = self._ledger.live.get(job_id)
            if record is None:
                continue
            best = _best(record, attempts[job_id])
            for attempt, items in attempts[job_id].items():
                if attempt != best:
                    surplus += [item.status.handle for item in items]
            if best is not None:
                handles = sorted(
                    (item.status.handle for item in attempts[job_id][best]), key=lambda handle: handle.index
                )
                kept[job_id] = tuple(handles)
        if surplus:
            self._log.warning("site %s: %d surplus tasks are removed", self._visit.name, len(surplus))
            await self._remove(surplus)
        await self._ledger.change(kept, lambda record: _adopted(record, kept[record.id]))
        self._doubtful.difference_update(group)

    async def _remove(self, handles: Sequence[SiteHandle]) -> None:
        await deadline(self._visit.name, "remove", self._visit.entry.site.remove(handles), CALL_SECONDS)

    # -- outcomes --------------------------------------------------------------------------------------------------------------------

    def _cancelled(self, record: Record) -> Record:
        error = JobCancelled(
            record.cancel or "cancelled", hint="Run the cell again when you want it.", job_id=record.id
        )
        ended = end_tasks(record, State.CANCELLED, self._wall(), reason=error.message, error=error.to_json())
        return replace(ended, phase=Phase.CLOSED)

    async def _fail(self, job_id: str, error: OffloadError) -> None:
        error.job_id = error.job_id or job_id

        def failed(record: Record) -> Record:
            ended = end_tasks(
                record, State.FAILED, self._wall(), reason=error.message, hint=error.hint, error=error.to_json()
            )
            return replace(ended, phase=Phase.CLOSED)

        await self._end([job_id], failed)

    async def _spoiled(self, job_id: str, error: Exception) -> None:
        """What the job folder holds cannot be made into a submission, and trying again would not help."""
        self._log.error("job %s cannot be submitted", job_id, exc_info=error)
        said = JobFailed(
            f"its submission in the job folder is damaged: {error!r}",
            hint="Submit it again; the service's log says more.",
        )
        await self._fail(job_id, said)

    async def _end(self, job_ids: Sequence[str], change: Callable[[Record], Record]) -> None:
        for record in await self._ledger.change(job_ids, change):
            await self._clear(record)

    async def _postpone(self, group: Sequence[str], error: SiteError) -> None:
        """Say why they wait, give up those at the end of their life, pause, and queue the others again."""
        now = self._wall()
        waiting = [*self._records(group, Phase.ACCEPTED), *self._records(group, Phase.HANDED)]
        over = [record for record in waiting if record.expires is not None and record.expires < now]
        for record in over:
            await self._fail(record.id, type(error)(f"could not be submitted before its end of life: {error.message}"))
        self._book.went_stale(self._visit, error)
        pause = self._backoff.failed()
        ids = [record.id for record in waiting if record not in over]
        reason = f"waiting for site {self._visit.name}: {error.message}"
        await self._ledger.change(ids, partial(_waits, reason=reason, hint=error.hint))
        await asyncio.sleep(pause)
        self.add(ids)


def _passing(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in PASSING)


def _best(record: Record, attempts: dict[str, list[Found]]) -> str | None:
    """Return the attempt to keep: the recorded one, else one that was made runnable, else any complete one."""
    recorded = {handle.attempt for handle in record.handles}

    def rank(attempt: str) -> tuple[bool, bool, int]:
        items = attempts[attempt]
        return (attempt in recorded, any(item.runnable for item in items), len({i.status.handle.index for i in items}))

    best = max(attempts, key=rank, default=None)
    if best is None:
        return None
    in_record, runnable, tasks = rank(best)
    # an attempt that was cut off while it was handed over never ran: it is removed like the surplus ones
    return best if in_record or runnable or tasks == len(record.job.tasks) else None


def _adopted(record: Record, handles: tuple[SiteHandle, ...]) -> Record:
    """Return the record with the attempt that was found and kept."""
    if record.phase not in (Phase.ACCEPTED, Phase.HANDED):
        return record
    return replace(record, phase=Phase.HANDED, handles=handles)


def _resolved(record: Record, resolved: Record) -> Record:
    return replace(record.with_job(image=resolved.job.image, logs=resolved.job.logs), expires=resolved.expires)


def _started(record: Record, now: float) -> Record:
    if record.phase is not Phase.HANDED:
        return record
    state = State.CANCELLING if record.cancel is not None else State.QUEUED
    tasks = tuple(
        move(task, state, reason="", hint="", queued=task.queued or now) if task.state is State.PREPARING else task
        for task in record.job.tasks
    )
    return replace(record.with_job(tasks=tasks, stale_since=None), phase=Phase.STARTED)


def _waits(record: Record, reason: str, hint: str) -> Record:
    tasks = tuple(
        replace(task, reason=reason, hint=hint) if task.state is State.PREPARING else task for task in record.job.tasks
    )
    return record.with_job(tasks=tasks)
