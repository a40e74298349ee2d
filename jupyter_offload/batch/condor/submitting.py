"""Handing over and starting: group commit of submissions, batches that shrink when the schedd refuses them, and the release.

A submitted job is held. With a spool it is held while its files arrive (code 16); when they have arrived the schedd releases it *to* the
state in ``JobStatusOnRelease``, which is 5, held, again. `start` sets that to 1 (idle), which is in time when the files are still arriving
(the schedd takes a second over it), and releases what has arrived already. Without a spool the job is submitted on hold (code 15), and
released. Either way an attempt that nobody started never runs, and any process can start it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jupyter_offload.batch.base import Handle, Submission
from jupyter_offload.batch.condor import selection, states
from jupyter_offload.batch.condor.coalesce import Coalescer
from jupyter_offload.batch.condor.description import COLUMNS, Template, items, template, travel_name
from jupyter_offload.batch.condor.schedd import Schedd
from jupyter_offload.errors import BadSubmit, BatchNotFound, QuotaExceeded, SiteError

__all__ = ["Submitter"]

_UNSTARTED = "JobStatus == 5 && NumShadowStarts is undefined && (HoldReasonCode is undefined || HoldReasonCode == 15)"
_ARRIVED = "StageInFinish isnt undefined && time() - StageInFinish > 5"


@dataclass(frozen=True)
class _Prepared:
    """A submission with the description that it shares with others."""

    submission: Submission
    template: Template


class Submitter:
    """Submits and starts for one schedd."""

    def __init__(self, schedd: Schedd) -> None:
        self._schedd = schedd
        self._batch_size = schedd.config.batch_size
        self._submissions: Coalescer[tuple[_Prepared, ...], list[list[Handle]]] = Coalescer(self._submit_all)
        self._starts: Coalescer[tuple[Handle, ...], None] = Coalescer(self._start_all)

    async def submit(self, submissions: Sequence[Submission]) -> list[list[Handle]]:
        """Return the handles of each submission's tasks. Raises as `Batch.submit` says; a refused one refuses its caller's only."""
        # In threads: the checks and files of 1,000 submissions would keep the event loop for some hundred milliseconds.
        prepared = await asyncio.to_thread(self._prepare, submissions)
        return await self._submissions(prepared) if prepared else []

    def _prepare(self, submissions: Sequence[Submission]) -> tuple[_Prepared, ...]:
        prepared = tuple(_Prepared(one, template(one, self._schedd.config)) for one in submissions)
        for one in prepared:
            _prepare_folder(one.submission)
        return prepared

    async def start(self, handles: Sequence[Handle]) -> None:
        """Make them runnable."""
        if handles:
            await self._starts(tuple(handles))

    async def close(self) -> None:
        """Break off what is under way."""
        await self._submissions.close()
        await self._starts.close()

    async def _submit_all(self, callers: Sequence[tuple[_Prepared, ...]]) -> list[list[list[Handle]] | Exception]:
        groups: dict[Template, list[tuple[int, int, Submission]]] = {}
        for caller, prepared in enumerate(callers):
            for place, one in enumerate(prepared):
                groups.setdefault(one.template, []).append((caller, place, one.submission))
        handles: dict[tuple[int, int], list[Handle]] = {}
        problems: dict[int, SiteError] = {}
        for group, members in groups.items():
            await self._submit_group(group, members, handles, problems)
        answers: list[list[list[Handle]] | Exception] = []
        for caller, prepared in enumerate(callers):
            mine = [handles.get((caller, place), []) for place in range(len(prepared))]
            problem = problems.get(caller)
            if isinstance(problem, (BadSubmit, QuotaExceeded)):
                # A clear refusal of a part: take the other part back, so that the caller may mend it and send all again.
                await self._take_back([handle for part in mine for handle in part])
            answers.append(mine if problem is None else problem)
        return answers

    async def _submit_group(
        self,
        group: Template,
        members: Sequence[tuple[int, int, Submission]],
        handles: dict[tuple[int, int], list[Handle]],
        problems: dict[int, SiteError],
    ) -> None:
        batches = _split(members, self._batch_size)
        while batches:
            batch = batches.pop(0)
            try:
                made = await self._submit_batch(group, [member[2] for member in batch])
            except (BadSubmit, QuotaExceeded) as problem:
                if len(batch) > 1:
                    # The size may be what is refused, or one of the batch: halves tell.
                    half = len(batch) // 2
                    if isinstance(problem, QuotaExceeded):
                        self._batch_size = max(1, sum(one.tasks for _, _, one in batch) // 2)
                    batches[:0] = [batch[:half], batch[half:]]
                else:
                    problems.setdefault(batch[0][0], problem)
            except SiteError as problem:
                for caller, _, _ in batch:
                    problems.setdefault(caller, problem)
            else:
                for (caller, place, _), part in zip(batch, made, strict=True):
                    handles[caller, place] = part

    async def _submit_batch(self, group: Template, submissions: Sequence[Submission]) -> list[list[Handle]]:
        rows, size = await asyncio.to_thread(_rows, submissions, self._schedd.skew)
        cluster, proc = await self._schedd.submit(group.description, COLUMNS, rows, size_bytes=size)
        handles = []
        for one in submissions:
            part = [
                Handle(f"{self._schedd.name}#{cluster}.{proc + index}", one.job_id, index, one.attempt, one.folder)
                for index in range(one.tasks)
            ]
            proc += one.tasks
            handles.append(part)
        return handles

    async def _take_back(self, handles: Sequence[Handle]) -> None:
        for constraint in selection.exactly(handles):
            await self._schedd.act("Remove", constraint, "a part of the same request was refused")

    async def _start_all(self, callers: Sequence[tuple[Handle, ...]]) -> list[Exception | None]:
        handles = selection.known(list(dict.fromkeys(handle for caller in callers for handle in caller)))
        begun = 0
        for constraint in selection.exactly(handles):
            if self._schedd.config.spool:
                begun += await self._set_idle_on_release(constraint)
            answer = await self._schedd.act("Release", f"({constraint}) && {_UNSTARTED}", "started")
            begun += int(answer.get("TotalSuccess", 0))
        dead: set[Handle] = set()
        if begun < len(handles):
            await self._release_stale(handles)
            dead = await self._never_arrived(handles)
        return [_refusal(dead & set(caller)) for caller in callers]

    async def _set_idle_on_release(self, constraint: str) -> int:
        try:
            # Only where the files are on their way or there: what was submitted and not spooled is dead.
            wanted = f"({constraint}) && JobStatusOnRelease == 5 && StageInStart isnt undefined"
            return await self._schedd.edit(wanted, "JobStatusOnRelease", 1)
        except BatchNotFound:
            return 0  # all have arrived and are held again: the release that follows is for them

    async def _release_stale(self, handles: Sequence[Handle]) -> None:
        # A schedd that was killed forgets its last seconds: a job whose files have arrived is held with code 16 again, which cannot
        # be released; with 15 it can.
        for constraint in selection.exactly(handles):
            stale = f"({constraint}) && JobStatus == 5 && HoldReasonCode == 16 && {_ARRIVED}"
            try:
                await self._schedd.edit(stale, "HoldReasonCode", 15)
            except BatchNotFound:
                continue
            await self._schedd.act("Release", f"({constraint}) && {_UNSTARTED}", "started")

    async def _never_arrived(self, handles: Sequence[Handle]) -> set[Handle]:
        dead: set[Handle] = set()
        for constraint in selection.exactly(handles):
            stuck = f"({constraint}) && JobStatus == 5 && HoldReasonCode == 16 && StageInStart is undefined"
            ads = await self._schedd.query(stuck, states.PROJECTION)
            keys = {selection.key_of(ad) for ad in ads}
            dead |= {handle for handle in handles if selection.key(handle) in keys}
        return dead


def _refusal(dead: set[Handle]) -> BatchNotFound | None:
    if not dead:
        return None
    one = min(dead, key=lambda handle: handle.id)
    return BatchNotFound(
        f"the files of {one.id} never reached the schedd, so it cannot be started",
        job_id=one.job_id,
        hint="Remove it and submit it again: its submission broke off in the middle.",
    )


def _split(members: Sequence[tuple[int, int, Submission]], size: int) -> list[list[tuple[int, int, Submission]]]:
    batches: list[list[tuple[int, int, Submission]]] = []
    room = 0
    for member in members:
        tasks = member[2].tasks
        if not batches or tasks > room:
            batches.append([])
            room = size
        batches[-1].append(member)
        room -= tasks
    return batches


def _prepare_folder(submission: Submission) -> None:
    try:
        for name in {*submission.inputs, *(name for names in submission.task_inputs for name in names)}:
            travels = travel_name(name)
            if travels != name and not Path(submission.folder, travels).exists():
                Path(submission.folder, travels).hardlink_to(Path(submission.folder, name))
        for index in range(submission.tasks):
            Path(submission.folder, f"task-{index}").mkdir(mode=0o700, exist_ok=True)
        _size(submission)
    except OSError as error:
        raise BadSubmit(
            f"the job folder is not as it should be: {error}",
            job_id=submission.job_id,
            hint="An input file is missing, or the folder is not writable for this service.",
        ) from error


def _rows(submissions: Sequence[Submission], skew: float) -> tuple[list[list[str]], int]:
    return [row for one in submissions for row in items(one, skew=skew)], sum(_size(one) for one in submissions)


def _size(submission: Submission) -> int:
    folder = submission.folder
    common = sum(os.stat(f"{folder}/{name}").st_size for name in (submission.script, *submission.inputs))  # noqa: PTH116 - 10 times faster
    own = sum(os.stat(f"{folder}/{name}").st_size for names in submission.task_inputs for name in names)  # noqa: PTH116
    return common * submission.tasks + own
