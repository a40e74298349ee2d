"""The REST API, verb by verb: read the parameters, ask the service, write its answer. ``rest-api.yml`` is the contract."""

from __future__ import annotations

import asyncio
import json
import logging
import mimetypes
import os
import platform
from collections.abc import AsyncIterator
from pathlib import Path

from tornado import iostream

from jupyter_offload import __version__
from jupyter_offload.errors import UsageError
from jupyter_offload.job import Request, State
from jupyter_offload.service.doctor import failed_check
from jupyter_offload.service.rest import wire
from jupyter_offload.service.rest.base import Logic
from jupyter_offload.service.service import Check, JobList

__all__ = [
    "CancelLogic",
    "CleanLogic",
    "DoctorLogic",
    "DryRunLogic",
    "FileLogic",
    "FilesLogic",
    "HealthLogic",
    "JobLogic",
    "JobsLogic",
    "LogsLogic",
    "ResultLogic",
    "SitesLogic",
    "TranslateLogic",
]

_CHUNK = 1 << 18
_log = logging.getLogger("jupyter_offload.rest")


class HealthLogic(Logic):
    """``/health``."""

    async def get(self) -> None:
        """Say who answers."""
        self.answer(
            {
                "version": __version__,
                "owner": self.owner,
                "forwarded_to": self.api.forwarded_to(),
                "pid": os.getpid(),
                "python": platform.python_version(),
            }
        )


class JobsLogic(Logic):
    """``/jobs``."""

    async def get(self) -> None:
        """List what changed after a revision; wait for it."""
        state = self.get_query_argument("state", "")
        if state and state not in set(State):
            raise UsageError(f"there is no state {state!r}", hint=f"The states are: {', '.join(State)}.")
        limit = self.whole("limit", least=1)
        listing = await self.service.jobs(
            self.owner, since=self.number("since", 0), wait_seconds=self.wait_seconds(), limit=None if state else limit
        )
        if state:
            chosen = [job for job in listing.jobs if job.state.value == state]
            listing = JobList(listing.revision, tuple(chosen[:limit]), listing.deleted)
        self.answer(wire.from_jobs(listing))


class JobLogic(Logic):
    """``/jobs/{id}`` but for PUT."""

    async def get(self, job_id: str) -> None:
        """Show one job."""
        self.answer((await self.service.job(self.owner, job_id)).to_json())

    async def delete(self, job_id: str) -> None:
        """Forget an ended job."""
        await self.service.delete(self.owner, job_id)
        self.set_status(204)
        await self.finish()


class CancelLogic(Logic):
    """``/jobs/{id}/cancel``."""

    async def post(self, job_id: str) -> None:
        """Ask for a job's end."""
        reason = self.body().get("reason", "")
        if not isinstance(reason, str):
            raise UsageError("reason is not text", hint='Send {"reason": "…"} or nothing.')
        self.answer((await self.service.cancel(self.owner, job_id, reason[:1000])).to_json())


class Sending(Logic):
    """Sends files."""

    async def send(self, path: Path, content_type: str) -> None:
        """Write a file in pieces; a caller that goes away ends it."""
        self.set_header("Content-Type", content_type)
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        with self.api.traffic.transfer():
            file = await asyncio.to_thread(path.open, "rb")
            try:
                self.set_header("Content-Length", str(os.fstat(file.fileno()).st_size))
                while chunk := await asyncio.to_thread(file.read, _CHUNK):
                    self.write(chunk)
                    await self.flush()
                await self.finish()
            except iostream.StreamClosedError:
                return  # whoever asked has gone
            finally:
                file.close()


class ResultLogic(Sending):
    """``/jobs/{id}/result``."""

    async def get(self, job_id: str) -> None:
        """Send the result bundle."""
        path, key = await self.service.result(self.owner, job_id, self.number("task", 0))
        self.set_header("Offload-Key", key)
        await self.send(path, "application/octet-stream")


class FilesLogic(Logic):
    """``/jobs/{id}/files``."""

    async def get(self, job_id: str) -> None:
        """List the files that came back."""
        entries = await self.service.files(self.owner, job_id, self.number("task", 0))
        self.answer([wire.from_file(entry) for entry in entries])


class FileLogic(Sending):
    """``/jobs/{id}/files/{path}``."""

    async def get(self, job_id: str, path: str) -> None:
        """Send one file."""
        place = await self.service.file(self.owner, job_id, path, self.number("task", 0))
        guessed, _ = mimetypes.guess_type(path)
        self.set_header("Content-Disposition", "attachment")  # never shown as a page of this server
        await self.send(place, guessed or "application/octet-stream")


class LogsLogic(Logic):
    """``/jobs/{id}/logs``."""

    async def get(self, job_id: str) -> None:
        """Send bytes of one stream from an offset; wait for the first."""
        chunk = await self.service.logs(
            self.owner,
            job_id,
            task=self.number("task", 0),
            container=self.get_query_argument("container", "main"),
            stream=self.get_query_argument("stream", "stdout"),
            offset=self.number("offset", 0),
            limit=self.whole("limit", 1 << 20, least=1) or 1,
            wait_seconds=self.wait_seconds(),
        )
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Offload-Offset", str(chunk.offset))
        self.set_header("Offload-End", "true" if chunk.end else "false")
        await self.finish(chunk.data)


class DryRunLogic(Logic):
    """``/dry-run``."""

    async def post(self) -> None:
        """Show what a submission would be."""
        request = self.body().get("request")
        if not isinstance(request, dict):
            raise UsageError("there is no request", hint='Send {"request": {…}}.')
        try:
            asked = Request.from_json(request)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"the request cannot be read: {error!r}", hint="Client and service differ in version."
            ) from error
        self.answer(wire.from_preview(await self.service.dry_run(self.owner, asked)))


class SitesLogic(Logic):
    """``/sites``."""

    async def get(self) -> None:
        """List the sites."""
        views = await self.service.sites(self.owner)
        self.answer([wire.from_site(view) for view in views])


class DoctorLogic(Logic):
    """``/doctor``."""

    async def post(self) -> None:
        """Check each link of the chain; each check is a line of JSON as soon as it is done where the caller accepts lines."""
        site = self.body().get("site")
        if site is not None and not isinstance(site, str):
            raise UsageError("site is not a name", hint='Send {"site": "pool"} or nothing.')
        lines = "application/x-ndjson" in self.request.headers.get("Accept", "")
        checks = []
        if lines:
            self.set_header("Content-Type", "application/x-ndjson")
        async for check in _to_the_end(self.service.doctor(self.owner, site)):
            if lines:
                self.write(json.dumps(wire.from_check(check)) + "\n")
                await self.flush()
            checks.append(check)
        if lines:
            await self.finish()
            return
        self.answer({"site": site, "checks": [wire.from_check(check) for check in checks]})


async def _to_the_end(checks: AsyncIterator[Check]) -> AsyncIterator[Check]:
    """Yield the checks, and one more that says so when they break off: the status of the answer was sent long ago."""
    try:
        async for check in checks:
            yield check
    except Exception as error:
        _log.exception("the doctor broke off")
        yield failed_check("doctor", error)


class CleanLogic(Logic):
    """``/clean``."""

    async def post(self) -> None:
        """Remove ended jobs by age and size."""
        body = self.body()
        age, size = body.get("older_than_seconds"), body.get("max_bytes")
        for name, value in (("older_than_seconds", age), ("max_bytes", size)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise UsageError(f"{name} is not a number", hint=f'Such as {{"{name}": 1000000}}.')
        cleaned = await self.service.clean(
            self.owner,
            older_than_seconds=None if age is None else float(age),
            max_bytes=None if size is None else int(size),
            dry_run=body.get("dry_run") is True,
        )
        self.answer(wire.from_cleaned(cleaned))


class TranslateLogic(Logic):
    """``/translate``."""

    async def post(self) -> None:
        """Show the script that a Pod manifest would become."""
        body = self.body()
        manifest, site = body.get("manifest"), body.get("site")
        if not isinstance(manifest, str) or not (site is None or isinstance(site, str)):
            raise UsageError("there is no manifest", hint='Send {"manifest": "…YAML…", "site": "pool"}.')
        self.answer(wire.from_preview(await self.service.translate(self.owner, manifest, site)))
