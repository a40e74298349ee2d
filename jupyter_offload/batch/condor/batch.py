"""`CondorBatch`: scripts as HTCondor jobs, for a schedd that is spooled to, one that shares a filesystem with us, and an HTCondor-CE.

One path for all: `submit` makes held jobs (after spooling, where there is a spool) that nothing but `start` releases; `poll` is one query
for all; files come by the spool, or lie in the job folder already. Nothing is kept in this process that another could not find again by
the stamps on the jobs.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TypeVar

from jupyter_offload.batch.base import BatchInfo, Chunk, Fetched, Found, Handle, Status, Submission
from jupyter_offload.batch.condor import selection, states
from jupyter_offload.batch.condor.checks import Check, checks
from jupyter_offload.batch.condor.coalesce import Coalescer
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.batch.condor.files import Files
from jupyter_offload.batch.condor.resources import describe
from jupyter_offload.batch.condor.schedd import Schedd
from jupyter_offload.batch.condor.submitting import Submitter
from jupyter_offload.batch.condor.workers import Workers
from jupyter_offload.errors import SiteError
from jupyter_offload.job import State

__all__ = ["CondorBatch"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_FEW = 1000
_ARRIVAL_SECONDS = 60.0


class CondorBatch:
    """A `Batch` of one schedd (see `jupyter_offload.batch.base.Batch` for the promises)."""

    def __init__(self, config: CondorConfig, *, environ: Mapping[str, str] | None = None) -> None:
        self.config = config
        self.workers = Workers(config, environ)
        self.schedd = Schedd(config, self.workers)
        self._files = Files(self.schedd)
        self._submitter = Submitter(self.schedd)
        self._sweeps: Coalescer[tuple[Handle, ...], list[Status]] = Coalescer(self._sweep)
        self._arriving_since: dict[selection.Key, float] = {}
        self._started: set[selection.Key] = set()
        """What this process started: a schedd that is killed forgets its last seconds."""
        self._gone_since: dict[selection.Key, float | None] = {}
        """For each task that was seen: since when it is missing (monotonic seconds)."""

    async def submit(self, submissions: Sequence[Submission]) -> list[list[Handle]]:
        """Submit the tasks as held jobs, and spool their files; callers that come together share the schedd's transactions."""
        return await self._submitter.submit(submissions)

    async def start(self, handles: Sequence[Handle]) -> None:
        """Release what `submit` made, in any process and at any later time."""
        await self._submitter.start(handles)
        self._started.update(map(selection.key, handles))

    async def poll(self, handles: Sequence[Handle]) -> list[Status]:
        """One query for all who poll at the same time; the history only for what is not in the queue."""
        return await self._sweeps(tuple(handles)) if handles else []

    async def read(self, handle: Handle, file: str, offset: int, limit: int = 1 << 20) -> Chunk:
        """Read ``out`` or ``err``: from the job folder, after a retrieve from the spool where the file has to be brought first."""
        return await self._files.read(handle, file, offset, limit)

    async def cancel(self, handles: Sequence[Handle], reason: str) -> None:
        """Remove jobs from the queue, running or not."""
        # What has ended by itself stays: its results may still be fetched.
        await self._remove(handles, reason, "JobStatus =!= 4")

    async def fetch(self, handles: Sequence[Handle]) -> list[Fetched]:
        """Retrieve the files of ended jobs, all in one call where nothing goes wrong."""
        return await self._files.fetch(handles)

    async def remove(self, handles: Sequence[Handle]) -> None:
        """Remove jobs whose results are safe; by itself a job leaves the queue only much later."""
        await self._remove(handles, "its results are fetched")
        self._files.forget(handles)
        for handle in handles:
            self._gone_since.pop(selection.key(handle), None)
            self._started.discard(selection.key(handle))
            self._arriving_since.pop(selection.key(handle), None)

    async def find(self, job_ids: Sequence[str]) -> list[Found]:
        """Look in the queue and in the history by the stamps."""
        constraint = selection.by_jobs(job_ids)
        ads = await self.schedd.query(constraint, states.PROJECTION)
        name = (await self.schedd.locate()).get("Name", self.schedd.name)
        old = await self.schedd.history(constraint, states.PROJECTION, selection.HISTORY_LIMIT) if job_ids else []
        here = {(ad["ClusterId"], ad["ProcId"]) for ad in ads}
        gone = [ad for ad in old if (ad["ClusterId"], ad["ProcId"]) not in here]
        asked = set(job_ids)  # of very many ids the constraint says less
        found = []
        for number, (ad, history) in enumerate([*((ad, False) for ad in ads), *((ad, True) for ad in gone)]):
            if number % 500 == 499:
                await asyncio.sleep(0)
            if not asked or ad.get("OffloadJob") in asked:
                found.append(states.found(ad, name, skew=self.schedd.skew, history=history, spool=self.config.spool))
        return found

    async def describe(self) -> BatchInfo:
        """Ask the collector for the worker nodes."""
        return await describe(self.schedd)

    def checks(self) -> AsyncIterator[Check]:
        """Yield the links of the chain to this schedd, for `doctor`."""
        return checks(self.schedd)

    async def close(self) -> None:
        """End the workers."""
        await self._sweeps.close()
        await self._submitter.close()
        await self.workers.close()

    async def _remove(self, handles: Sequence[Handle], reason: str, only: str = "true") -> None:
        for constraint in selection.exactly(handles):
            await self.schedd.act("Remove", f"({constraint}) && {only}", reason)

    async def _sweep(self, callers: Sequence[tuple[Handle, ...]]) -> list[list[Status] | Exception]:
        count = sum(map(len, callers))
        wanted = await _bulk(count, _by_key, callers)
        seen: dict[selection.Key, Status] = {}
        stuck: list[states.Ad] = []
        forgotten: list[Handle] = []

        def note(ad: states.Ad) -> None:
            self._note(seen, wanted, ad, history=False)
            if ad.get("JobStatus") == states.HELD:
                stuck.append(ad)
                if selection.key_of(ad) in self._started and states.forgotten(ad, time.time() + self.schedd.skew):
                    forgotten.append(wanted[selection.key_of(ad)])

        if wanted:
            constraint = await _bulk(count, selection.by_handles, list(wanted.values()))
            await self.schedd.look(constraint, states.PROJECTION, note)
            await self._release_again(stuck)
            await self._start_again(forgotten)
        if len(seen) < len(wanted):
            missing = await _bulk(count, lambda: [handle for key, handle in wanted.items() if key not in seen])
            for part in await _bulk(count, selection.slices, missing):
                # Exactly these: the history answers with so many and no more, and others would take their places.
                constraint = await _bulk(len(part), selection.by_handles, part)
                for ad in await self.schedd.history(constraint, states.PROJECTION, len(part)):
                    self._note(seen, wanted, ad, history=True)
        return await _bulk(count, self._answers, callers, seen)

    def _note(
        self,
        seen: dict[selection.Key, Status],
        wanted: Mapping[selection.Key, Handle],
        ad: states.Ad,
        *,
        history: bool,
    ) -> None:
        key = selection.key_of(ad)
        handle = wanted.get(key)
        if handle is not None:
            skew = self.schedd.skew
            seen[key] = states.status(handle, ad, skew=skew, history=history, spool=self.config.spool)
            if states.arriving(ad):
                self._fail_stuck(seen, key)
            else:
                self._arriving_since.pop(key, None)

    def _fail_stuck(self, seen: dict[selection.Key, Status], key: selection.Key) -> None:
        # Who has a handle has sent the files, and the schedd needs some seconds to say so. One that was killed in between never will:
        # such a job cannot be released by anybody.
        since = self._arriving_since.setdefault(key, time.monotonic())
        if time.monotonic() - since >= _ARRIVAL_SECONDS:
            seen[key] = dataclasses.replace(
                seen[key],
                state=State.FAILED,
                reason="the schedd was restarted while it took over the job's files; it never ran and never will",
                hint="Submit it again.",
                error="JobFailed",
            )

    def _answers(
        self, callers: Sequence[tuple[Handle, ...]], seen: Mapping[selection.Key, Status]
    ) -> list[list[Status] | Exception]:
        answers: list[list[Status] | Exception] = []
        for caller in callers:
            mine = []
            for handle in caller:
                key = selection.key(handle)
                status = seen.get(key)
                if status is not None:
                    self._gone_since[key] = None
                mine.append(self._absent(key, handle) if status is None else status)
            answers.append(mine)
        return answers

    def _absent(self, key: selection.Key, handle: Handle) -> Status:
        # What was there a moment ago may be on its way from the queue to the history; what was never seen is lost at once.
        if key in self._gone_since:
            since = self._gone_since[key] or time.monotonic()
            self._gone_since[key] = since
            if time.monotonic() - since < self.config.lost_after_seconds:
                return Status(handle, State.QUEUED, reason="not in the queue at the moment; looking again")
        return Status(
            handle,
            State.LOST,
            reason="neither in the queue nor in the history of the schedd",
            hint="It may have left the history; submit it again when it does not come back.",
            error="JobLost",
        )

    async def _start_again(self, handles: Sequence[Handle]) -> None:
        if handles:
            try:
                await self._submitter.start(handles)
            except SiteError as error:
                _log.warning("%d jobs could not be started again: %s", len(handles), error.message)

    async def _release_again(self, ads: Sequence[states.Ad]) -> None:
        now = time.time() + self.schedd.skew
        again = [ad for ad in ads if states.releasable(ad, now)]
        for count in {int(ad.get("OffloadReleases", 0)) for ad in again}:
            jobs = [f"{ad['ClusterId']}.{ad['ProcId']}" for ad in again if int(ad.get("OffloadReleases", 0)) == count]
            try:
                # Counted first: whatever breaks off, it is never released more often than counted.
                await self.schedd.edit(jobs, "OffloadReleases", count + 1)
                await self.schedd.act("Release", jobs, "released again after a passing fault")
            except SiteError as error:
                _log.warning("jobs %s could not be released: %s", jobs, error.message)


async def _bulk(count: int, work: Callable[..., _T], *arguments: object) -> _T:
    # Pure computing over very many jobs goes to a thread, which shares the interpreter with the event loop in slices of milliseconds.
    return work(*arguments) if count <= _FEW else await asyncio.to_thread(work, *arguments)


def _by_key(callers: Sequence[tuple[Handle, ...]]) -> dict[selection.Key, Handle]:
    return {selection.key(handle): handle for caller in callers for handle in selection.known(caller)}
