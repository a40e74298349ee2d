"""Keeps the jobs of all sites going: one submitter, watcher, finisher and canceller per site, and the distribution of records to them.

There is one code path for a start and a restart: `Manager.open` reads what is on disk and hands every live record to the worker that
its phase names.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from jupyter_offload.errors import JobCancelled, SiteError
from jupyter_offload.job import State
from jupyter_offload.service.adopt import sweep
from jupyter_offload.service.cancel import Canceller
from jupyter_offload.service.finish import Finisher
from jupyter_offload.service.intake import Intake
from jupyter_offload.service.ledger import Ledger
from jupyter_offload.service.pause import Backoff, stop
from jupyter_offload.service.record import Phase, Record, end_tasks, move
from jupyter_offload.service.siteview import SiteBook, Visit
from jupyter_offload.service.submit import Submitter
from jupyter_offload.service.watch import Watcher

__all__ = ["Manager"]

TIDY_SECONDS = 1800.0
"""How often a site is asked for what nobody waits for (a submission that broke off and turned up late)."""


@dataclass(frozen=True)
class _Workers:
    submitter: Submitter
    watcher: Watcher
    finisher: Finisher
    canceller: Canceller


class Manager:
    """The workers of all sites. Of one event loop."""

    def __init__(
        self,
        ledger: Ledger,
        book: SiteBook,
        intake: Intake,
        *,
        wall: Callable[[], float],
        rng: random.Random,
        log: logging.Logger,
    ) -> None:
        self._ledger = ledger
        self._book = book
        self._intake = intake
        self._wall = wall
        self._rng = rng
        self._log = log
        self._workers = {visit.name: self._make(visit) for visit in book}
        self._tasks: list[asyncio.Task[None]] = []

    def _make(self, visit: Visit) -> _Workers:
        ledger, book, wall, log = self._ledger, self._book, self._wall, self._log

        def woken() -> None:
            workers = self._workers[visit.name]
            workers.watcher.wake()
            workers.canceller.wake()

        finisher = Finisher(
            visit, book, ledger, check=self._intake.check, clear=self._intake.clear, lost=woken, backoff=self._backoff(), wall=wall, log=log
        )  # fmt: skip
        watcher = Watcher(visit, book, ledger, ended=finisher.add, backoff=self._backoff(), wall=wall, log=log)
        submitter = Submitter(
            visit, book, ledger, self._intake.build, started=woken, clear=self._intake.clear, backoff=self._backoff(), wall=wall, log=log
        )  # fmt: skip
        canceller = Canceller(visit, book, ledger, asked=watcher.wake, backoff=self._backoff(), log=log)
        return _Workers(submitter, watcher, finisher, canceller)

    def _backoff(self) -> Backoff:
        return Backoff(self._rng)

    async def open(self) -> None:
        """Take up the work that is on disk and begin."""
        for record in list(self._ledger.live.values()):
            self._take_up(record)
        for name, workers in self._workers.items():
            visit = self._book.visit(name)
            loops = (workers.submitter.run(), workers.watcher.run(), workers.finisher.run(), workers.canceller.run())
            self._tasks += [asyncio.create_task(loop) for loop in loops]
            self._tasks.append(asyncio.create_task(self._tidy(visit, workers)))

    def _take_up(self, record: Record) -> None:
        workers = self._workers.get(record.job.site)
        if workers is None:
            self._log.warning("job %s waits: its site %s is not there (any more)", record.id, record.job.site)
            return
        if record.phase in (Phase.ACCEPTED, Phase.HANDED):
            workers.submitter.add([record.id], doubtful=True)
            return
        ended = {task.index for task in record.job.tasks if task.state is State.FINISHING}
        workers.finisher.add([handle for handle in record.handles if handle.index in ended])
        over = {task.index for task in record.job.tasks if task.state.terminal and task.state is not State.LOST}
        if record.phase is not Phase.CLOSED:
            workers.finisher.forget([handle for handle in record.handles if handle.index in over])
        workers.watcher.wake()
        workers.canceller.wake()

    async def _tidy(self, visit: Visit, workers: _Workers) -> None:
        """Ask the site now and then what it still has, and remove what nobody waits for."""
        while True:
            try:
                await self._book.info(visit)
                await sweep(visit, self._ledger, busy=workers.submitter.is_doubtful, log=self._log)
            except SiteError as error:
                self._log.info("site %s was not tidied: %s", visit.name, error.message)
            except Exception:
                self._log.exception("tidying %s", visit.name)
            await asyncio.sleep(TIDY_SECONDS)

    # -- what the service asks for ---------------------------------------------------------------------------------------------------

    def submit(self, record: Record) -> None:
        """Hand a new job over, soon."""
        self._workers[record.job.site].submitter.add([record.id])

    async def cancel(self, record: Record, reason: str) -> Record:
        """Ask for a job's end; return its record. One that has ended stays as it is.

        Raises what is wrong with a site that could not be set up, when the job may run there.
        """
        if record.job.state.terminal and record.job.state is not State.LOST:
            return record
        workers = self._workers.get(record.job.site)
        if record.phase is not Phase.ACCEPTED:
            self._book.check_built(record.job.site)  # it may run there: without the site nobody could end it
        nothing_there = record.phase is Phase.ACCEPTED and not (workers and workers.submitter.is_doubtful(record.id))
        if workers is None or nothing_there or record.job.state is State.LOST:
            (record,) = await self._ledger.change([record.id], lambda old: self._cancelled(old, reason)) or [record]
            await self._intake.clear(record)
            if workers is not None:
                workers.finisher.forget(record.handles)
            return record
        (record,) = await self._ledger.change([record.id], lambda old: _cancelling(old, reason)) or [record]
        workers.canceller.wake()
        workers.watcher.wake()
        return record

    def _cancelled(self, record: Record, reason: str) -> Record:
        error = JobCancelled(reason, hint="Run the cell again when you want it.", job_id=record.id)
        ended = end_tasks(record, State.CANCELLED, self._wall(), reason=error.message, error=error.to_json())
        return replace(ended, cancel=reason, phase=Phase.CLOSED)

    async def close(self) -> None:
        """Stop. Jobs go on."""
        await stop(self._tasks)


def _cancelling(record: Record, reason: str) -> Record:
    tasks = tuple(
        task if task.state in (State.FINISHING,) or task.state.terminal else move(task, State.CANCELLING, reason=reason)
        for task in record.job.tasks
    )
    return replace(record.with_job(tasks=tasks), cancel=record.cancel or reason)
