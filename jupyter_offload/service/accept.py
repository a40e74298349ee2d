"""Accepts submissions: once per id, twins recognised, what cannot run refused before anything is sent."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from jupyter_offload.errors import CapabilityMissing, Conflict, ServiceError, SiteError
from jupyter_offload.job import Job, State, Task
from jupyter_offload.service.folders import Folders
from jupyter_offload.service.intake import Intake, Submission
from jupyter_offload.service.ledger import Ledger
from jupyter_offload.service.record import Record
from jupyter_offload.service.resolve import end_of_life
from jupyter_offload.service.service import Accepted
from jupyter_offload.service.siteview import SiteBook, Visit
from jupyter_offload.sites.base import SiteInfo

__all__ = ["Acceptor"]

DESCRIBE_SECONDS = 3.0
"""How long a submission waits for a site that never answered, before it is accepted without what the site would say."""


class Acceptor:
    """Turns a received bundle into a record whose intent is on disk."""

    def __init__(
        self, ledger: Ledger, book: SiteBook, intake: Intake, folders: Folders, *, wall: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._book = book
        self._intake = intake
        self._folders = folders
        self._wall = wall
        self._accepting: dict[str, asyncio.Lock] = {}

    async def accept(self, owner: str, job_id: str, bundle: Path, *, again: bool, reuse: bool) -> Accepted:
        """Take over ``bundle`` (it is gone afterwards). Raises `UsageError`, `PythonMismatch`, `Conflict` or `ServiceError`."""
        lock = self._accepting.setdefault(job_id, asyncio.Lock())
        try:
            async with lock:
                submission = await self._intake.read(bundle, job_id)
                known = await self._known(owner, submission)
                if known is not None:
                    return known
                found = None if again else await self._twin(owner, submission, reuse=reuse)
                if found is not None:
                    return Accepted(found.job, twin=True, created=False)
                return await self._create(owner, submission, again=again)
        finally:
            bundle.unlink(missing_ok=True)  # noqa: ASYNC240
            self._accepting.pop(job_id, None)

    async def _known(self, owner: str, submission: Submission) -> Accepted | None:
        record = await self._ledger.get(None, submission.request.id)
        if record is None:
            return None
        if record.owner != owner or record.digest != submission.digest:
            raise Conflict(
                f"there is another job with the id {submission.request.id}", hint="Submit again: a new id is made."
            )
        return Accepted(record.job, twin=False, created=False)

    async def _twin(self, owner: str, submission: Submission, *, reuse: bool) -> Record | None:
        fingerprint = submission.request.fingerprint
        if not fingerprint:
            return None
        twins = await self._ledger.twins(owner, fingerprint)
        return next((twin for twin in twins if _runs(twin) or (reuse and twin.job.state is State.SUCCEEDED)), None)

    async def _create(self, owner: str, submission: Submission, *, again: bool) -> Accepted:
        visit = self._book.visit(submission.request.site)
        info = await self._info(visit)
        try:
            key = await self._intake.split(submission, info.limits if info is not None else None)
        except OSError as error:
            raise ServiceError(
                f"the job was not accepted: its folder cannot be written: {error}",
                hint=f"Look whether the disk of {self._folders.root} is full; `%offload clean` makes room. Then submit again.",
                job_id=submission.request.id,
            ) from error
        folder = self._folders.job(submission.request.id)
        try:
            record = await asyncio.to_thread(self._record, owner, submission, visit, info, key, folder)
            # two submissions of one cell at once: the second finds the first
            kept = await self._ledger.insert(record, lambda other: not again and _is_twin(record, other))
        except BaseException:
            if submission.request.id not in self._ledger.live:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        if kept.id != record.id:
            shutil.rmtree(folder, ignore_errors=True)
            return Accepted(kept.job, twin=True, created=False)
        return Accepted(kept.job, twin=False, created=True)

    async def _info(self, visit: Visit) -> SiteInfo | None:
        try:
            return await self._book.info(visit, seconds=DESCRIBE_SECONDS)
        except SiteError:
            return None  # the site is away: what it would say is asked when it is there

    def _record(
        self, owner: str, submission: Submission, visit: Visit, info: SiteInfo | None, key: str, folder: Path
    ) -> Record:
        request = submission.request
        request = replace(request, site=request.site or visit.name, created=request.created or self._wall())
        tasks = tuple(Task(index) for index in range(request.tasks))
        record = Record(Job(request, owner, visit.name, tasks=tasks), key, submission.digest)
        if info is None:
            return record
        resolved = self._intake.resolve(request, visit, info)
        if request.tasks > 1 and not info.capabilities.arrays:
            raise CapabilityMissing(f"site {visit.name} takes one task per job", hint="Choose another site.")
        expires = end_of_life(resolved.resources, info.limits, self._wall())
        record = replace(record.with_job(image=resolved.image, logs=info.capabilities.logs), expires=expires)
        # translating shows what the site would refuse, while its user still looks
        visit.entry.site.preview(self._intake.work(record.job, resolved, visit, folder, expires))
        return record


def _runs(record: Record) -> bool:
    """Whether a job is on its way to a result and nobody wants it gone."""
    state = record.job.state
    return not state.terminal and state is not State.CANCELLING and record.cancel is None


def _is_twin(record: Record, other: Record) -> bool:
    fingerprint = record.job.request.fingerprint
    return (
        bool(fingerprint)
        and other.job.request.fingerprint == fingerprint
        and other.owner == record.owner
        and _runs(other)
    )
