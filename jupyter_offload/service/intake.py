"""Between the bundles of the payload and the job folder: in, on to the site, back, and away.

Taking a submission apart, making Work of it, checking what came back, clearing up.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jupyter_offload.errors import OffloadError, ResultUnavailable, UsageError
from jupyter_offload.job import Job, Request, check_name
from jupyter_offload.payload.bundle import Bundle
from jupyter_offload.payload.results import read_result
from jupyter_offload.payload.work import RESULT, StagedFile, build_work, split_bundle
from jupyter_offload.pod import Work
from jupyter_offload.service.finish import Checked
from jupyter_offload.service.folders import Folders, private_folder, write_private
from jupyter_offload.service.record import Record
from jupyter_offload.service.resolve import Resolved, check_input, end_of_life, python_kind, resolve
from jupyter_offload.service.siteview import SiteBook, Visit
from jupyter_offload.sites.base import Limits, Outcome, SiteInfo

__all__ = ["Intake", "Submission", "result_path"]

LARGEST_TASKS = 100_000
_INPUTS = "inputs.json"
_CLEARED = ("bundle", "files", "secrets", _INPUTS, "submission")
"""What a job folder holds for the submission alone: secrets and the user's data, removed when the job has ended."""
_CLEARED_PATTERNS = ("inputs*.tar",)


@dataclass(frozen=True)
class Submission:
    """What the header of a received bundle says."""

    request: Request
    digest: str
    """SHA-256 of the header, which holds the checksums of all parts."""
    size_bytes: int
    bundle: Bundle


def result_path(folders: Folders, job_id: str, index: int) -> Path:
    """Return where the result bundle of a task lies, if there is one."""
    return folders.task(job_id, index) / "files" / RESULT


class Intake:
    """Reads, splits, builds, checks and clears. Its slow parts run in threads."""

    def __init__(self, folders: Folders, book: SiteBook, *, wall: Callable[[], float], log: logging.Logger) -> None:
        self._folders = folders
        self._book = book
        self._wall = wall
        self._log = log

    # -- in --------------------------------------------------------------------------------------------------------------------------

    async def read(self, path: Path, job_id: str) -> Submission:
        """Read and check the header of a received submission. Raises `UsageError`."""
        return await asyncio.to_thread(_read, path, job_id)

    async def split(self, submission: Submission, limits: Limits | None) -> str:
        """Take the submission apart into its job folder, which is made; return the result's key. Raises `UsageError`."""
        return await asyncio.to_thread(self._split, submission, limits or Limits())

    def _split(self, submission: Submission, limits: Limits) -> str:
        check_input(submission.request.site or self._book.default, submission.size_bytes, limits.input_bytes)
        folder = self._folders.job(submission.request.id)
        shutil.rmtree(folder, ignore_errors=True)  # what a service that was killed while it accepted left behind
        private_folder(folder)
        try:
            split = split_bundle(submission.bundle, folder, max_result_bytes=limits.result_bytes)
            inputs = {"files": [asdict(file) for file in split.files], "secrets": dict(split.secrets)}
            write_private(folder / _INPUTS, json.dumps(inputs).encode(), durable=False)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return split.key

    def resolve(self, request: Request, visit: Visit, info: SiteInfo) -> Resolved:
        """Return what the request becomes at the site. Raises `UsageError` or `PythonMismatch`."""
        return resolve(request, info, visit.entry.defaults)

    # -- on to the site --------------------------------------------------------------------------------------------------------------

    async def build(self, record: Record) -> tuple[Record, Work, str]:
        """Return the record with what was resolved, its Work and its folder. Raises `UsageError`, `PythonMismatch` or `SiteError`."""
        visit = self._book.visit(record.job.site)
        info = await self._book.info(visit)
        resolved = self.resolve(record.job.request, visit, info)
        expires = record.expires or end_of_life(resolved.resources, info.limits, self._wall())
        ready = replace(record.with_job(image=resolved.image, logs=info.capabilities.logs), expires=expires)
        folder = self._folders.job(record.id)
        work = await asyncio.to_thread(self.work, ready.job, resolved, visit, folder, expires)
        return ready, work, str(folder)

    def work(self, job: Job, resolved: Resolved, visit: Visit, folder: Path, expires: float | None) -> Work:
        """Build the Work of a job whose submission lies split in ``folder`` (a dry run's folder is empty)."""
        try:
            inputs = json.loads((folder / _INPUTS).read_bytes())
        except FileNotFoundError:
            inputs = {"files": [], "secrets": {}}
        return build_work(
            replace(job.request, resources=resolved.resources),
            owner=job.owner,
            folder=folder,
            image=resolved.image,
            secrets=inputs["secrets"],
            files=[StagedFile(**file) for file in inputs["files"]],
            cache=visit.entry.cache,
            expires=expires,
            defaults=visit.entry.defaults,
        )

    # -- back ------------------------------------------------------------------------------------------------------------------------

    async def check(self, record: Record, outcome: Outcome) -> Checked:
        """Check the result that came back with a task: signature and size first, its error if it has one."""
        if not python_kind(record.job.request.kind):
            return Checked()
        visit = self._book.known(record.job.site)
        limit = visit.info.limits.result_bytes if visit is not None and visit.info is not None else None
        path = result_path(self._folders, record.id, outcome.handle.index)
        return await asyncio.to_thread(_check, path, record, limit, succeeded=outcome.error is None)

    async def clear(self, record: Record) -> None:
        """Remove the inputs and secrets of a job that has ended."""
        if record.job.state.terminal:
            await asyncio.to_thread(self._clear, record.id)

    def _clear(self, job_id: str) -> None:
        folder = self._folders.job(job_id)
        paths = [folder / name for name in _CLEARED]
        paths += [path for pattern in _CLEARED_PATTERNS for path in folder.glob(pattern)]
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _read(path: Path, job_id: str) -> Submission:
    bundle = Bundle.open(path)
    request = bundle.request
    if request.id != job_id:
        raise UsageError(
            f"the bundle is of job {request.id}, not of {job_id}", hint="Client and service differ in version."
        )
    check_name(request.name)
    if not 1 <= request.tasks <= LARGEST_TASKS:
        raise UsageError(f"{request.tasks} tasks", hint=f"Ask for 1 to {LARGEST_TASKS:,} tasks.")
    header = json.dumps(bundle.header, sort_keys=True).encode()
    return Submission(request, hashlib.sha256(header).hexdigest(), path.stat().st_size, bundle)


def _check(path: Path, record: Record, limit: int | None, *, succeeded: bool) -> Checked:
    try:
        result = read_result(path, record.key, max_bytes=limit)
    except ResultUnavailable as error:
        # without a result the site's own reason says more, if it has one
        return Checked(error=_of(record, error)) if succeeded else Checked()
    except OffloadError as error:
        return Checked(error=_of(record, error))
    raised = result.error
    return Checked(path.stat().st_size, _of(record, raised) if raised is not None else None)


def _of(record: Record, error: OffloadError) -> OffloadError:
    error.job_id = record.id
    return error
