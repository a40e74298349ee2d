"""The doctor: the service's own links, the site's links, and at last the round trip of a tiny job."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator

from jupyter_offload.errors import OffloadError
from jupyter_offload.job import Job, Kind, Request, Resources, State, new_id
from jupyter_offload.payload.bundle import BundleWriter
from jupyter_offload.quantity import show_bytes, show_duration
from jupyter_offload.service.folders import Folders
from jupyter_offload.service.service import Check, OffloadService
from jupyter_offload.service.siteview import SiteBook

__all__ = ["examine", "failed_check"]

ROUND_TRIP_SECONDS = 120.0
LITTLE_DISK_BYTES = 1_000_000_000
_WORD = "offload-doctor"
_log = logging.getLogger("jupyter_offload")


async def examine(
    service: OffloadService, book: SiteBook, folders: Folders, owner: str, site: str | None
) -> AsyncGenerator[Check, None]:
    """Yield one check after the other; a broken link ends the chain, because what is behind it cannot be looked at."""
    yield await asyncio.to_thread(_disk, folders)
    try:
        visit = book.visit(site)
    except OffloadError as error:
        yield Check("site", ok=False, detail=error.message, hint=error.hint)
        return
    broken = False
    try:
        async for check in visit.entry.site.checks():
            yield check
            broken = broken or (check.ok is False and check.name != "containers")
    except Exception as error:
        _log.exception("the checks of site %s", visit.name)
        yield failed_check(f"checks of site {visit.name}", error)
        broken = True
    if broken:
        yield Check("round trip", ok=None, detail="not tried: a link before it is broken")
        return
    yield await _round_trip(service, folders, owner, visit.name)


def failed_check(name: str, error: Exception) -> Check:
    """Return the check that says that the checking itself broke off."""
    if isinstance(error, OffloadError):
        return Check(name, ok=False, detail=error.message, hint=error.hint)
    return Check(name, ok=False, detail=f"broke off: {error!r}", hint="See the service's log.")


def _disk(folders: Folders) -> Check:
    begun = time.monotonic()
    space = os.statvfs(folders.root)
    free = space.f_bavail * space.f_frsize
    mode = folders.root.stat().st_mode & 0o777
    detail = f"{folders.root}: {show_bytes(free)} free, mode {mode:04o}"
    seconds = time.monotonic() - begun
    if mode & 0o077:
        return Check(
            "job folders",
            ok=False,
            detail=detail,
            hint=f"Others can read it: chmod 700 {folders.root}",
            seconds=seconds,
        )
    if free < LITTLE_DISK_BYTES:
        return Check("job folders", ok=False, detail=detail, hint="Make room: `%offload clean`.", seconds=seconds)
    return Check("job folders", ok=True, detail=detail, seconds=seconds)


async def _round_trip(service: OffloadService, folders: Folders, owner: str, site: str) -> Check:
    begun = time.monotonic()
    job_id = new_id()
    request = Request(
        job_id, "doctor", Kind.COMMAND, site, resources=Resources(cpus="1", time_seconds=60), command=("echo", _WORD)
    )
    path = folders.new_incoming()
    await asyncio.to_thread(BundleWriter(path, request=request).close)
    try:
        await service.submit(owner, job_id, path, again=True)
        job = await _wait(service, owner, job_id, begun + ROUND_TRIP_SECONDS)
        seconds = time.monotonic() - begun
        if not job.state.terminal:
            await service.cancel(owner, job_id, "the doctor has waited long enough")
            where = f"{job.state}{': ' + job.reason if job.reason else ''}"
            return Check(
                "round trip", ok=None, detail=f"after {show_duration(seconds)} a tiny job is {where}", seconds=seconds,
                hint=job.hint or "A busy site may take longer; look at `%offload` later.",
            )  # fmt: skip
        said = (await service.logs(owner, job_id)).data.decode(errors="replace").strip()
        await service.delete(owner, job_id)
    except OffloadError as error:
        return Check("round trip", ok=False, detail=error.message, hint=error.hint, seconds=time.monotonic() - begun)
    if job.state is State.SUCCEEDED and said == _WORD:
        return Check(
            "round trip", ok=True, detail=f"a tiny job came back after {show_duration(seconds)}", seconds=seconds
        )
    reason = job.reason or f"its log says {said!r}"
    return Check("round trip", ok=False, detail=f"a tiny job {job.state}: {reason}", hint=job.hint, seconds=seconds)


async def _wait(service: OffloadService, owner: str, job_id: str, until: float) -> Job:
    revision = 0
    while True:
        job = await service.job(owner, job_id)
        left = until - time.monotonic()
        if job.state.terminal or left <= 0:
            return job
        revision = (await service.jobs(owner, since=max(revision, job.revision), wait_seconds=min(left, 5.0))).revision
