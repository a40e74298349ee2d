"""`OffloadService` that forwards to another process over REST."""

# ruff: noqa: ARG002  # the owner is whoever the token stands for

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

from tornado import httpclient, httputil
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from jupyter_offload.errors import OffloadError, ServiceUnreachable, from_json
from jupyter_offload.job import Job, Request
from jupyter_offload.service.folders import private_folder
from jupyter_offload.service.rest import wire
from jupyter_offload.service.service import Accepted, Check, Cleaned, JobList, Preview, SiteView
from jupyter_offload.sites.base import FileEntry, LogChunk

__all__ = ["Remote"]

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
TRANSFER_SECONDS = 3600.0
DOCTOR_SECONDS = 600.0
KEPT_SECONDS = 3600.0
"""How long what was brought here is kept, at least: whoever asked for it reads it at once."""
_LARGEST_BODY = 1 << 40


class Remote:
    """Forwards to the service at ``url`` (``…/offload/api/v1``). Results and files are brought into ``folder``, which it makes and removes.

    The owner is whoever the token stands for there: the argument is not sent.
    """

    def __init__(self, url: str, token: str, folder: Path) -> None:
        self.url = url
        self._token = token
        self._folder = private_folder(folder)
        self._client = SimpleAsyncHTTPClient(force_instance=True, max_clients=100, max_body_size=_LARGEST_BODY)

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        *,
        seconds: float = ANSWER_SECONDS,
        headers: Mapping[str, str] | None = None,
        producer: Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]] | None = None,
        sink: Callable[[bytes], None] | None = None,
    ) -> httpclient.HTTPResponse:
        """Send one request. Raises the typed error that the service answers, or `ServiceUnreachable`."""
        known = {key: value for key, value in (query or {}).items() if value is not None}
        payload = json.dumps(body or {}).encode() if method == "POST" else None
        request = httpclient.HTTPRequest(
            self.url + path + ("?" + urlencode(known) if known else ""),
            method=method,
            headers=httputil.HTTPHeaders({"Authorization": f"token {self._token}", **(headers or {})}),
            body=payload,
            body_producer=producer,  # type: ignore[arg-type]  # may be a coroutine function, tornado awaits it
            streaming_callback=sink,
            connect_timeout=CONNECT_SECONDS,
            request_timeout=seconds,
            follow_redirects=False,
            decompress_response=False,
        )
        try:
            response = await self._client.fetch(request, raise_error=False)
        except (OSError, httpclient.HTTPError) as error:
            raise ServiceUnreachable(
                f"the service at {self.url} does not answer: {error}", hint="It is started again by itself; try again."
            ) from error
        if response.code == 599:
            raise ServiceUnreachable(f"the service at {self.url} does not answer: {response.error}", hint="Try again.")
        if response.code >= 400:
            raise _error(response)
        return response

    async def _json(self, *arguments: Any, **options: Any) -> Any:
        return json.loads((await self._ask(*arguments, **options)).body)

    async def submit(
        self, owner: str, job_id: str, bundle: Path, *, again: bool = False, reuse: bool = False
    ) -> Accepted:
        """Forward a submission; the file is gone when it was taken."""

        async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
            """Send the file in pieces."""
            with await asyncio.to_thread(bundle.open, "rb") as file:
                while chunk := await asyncio.to_thread(file.read, 1 << 18):
                    await write(chunk)

        response = await self._ask(
            "PUT", f"/jobs/{quote(job_id, safe='')}", {"again": int(again), "reuse": int(reuse)},
            seconds=TRANSFER_SECONDS, producer=produce, headers={"Content-Length": str(bundle.stat().st_size)},  # noqa: ASYNC240
        )  # fmt: skip
        bundle.unlink(missing_ok=True)  # noqa: ASYNC240
        return wire.accepted_from(json.loads(response.body), created=response.code == 201)

    async def jobs(self, owner: str, *, since: int = 0, wait_seconds: float = 0, limit: int | None = None) -> JobList:
        """List jobs changed after ``since``."""
        query = {"since": since, "wait": wait_seconds, "limit": limit}
        return wire.jobs_from(await self._json("GET", "/jobs", query, seconds=ANSWER_SECONDS + wait_seconds))

    async def job(self, owner: str, job_id: str) -> Job:
        """Return one job."""
        return Job.from_json(await self._json("GET", _job(job_id)))

    async def cancel(self, owner: str, job_id: str, reason: str = "") -> Job:
        """Ask for its end."""
        return Job.from_json(await self._json("POST", _job(job_id) + "/cancel", body={"reason": reason}))

    async def delete(self, owner: str, job_id: str) -> None:
        """Forget an ended job."""
        await self._ask("DELETE", _job(job_id))

    async def result(self, owner: str, job_id: str, task: int = 0) -> tuple[Path, str]:
        """Bring the result bundle here; return its path and the key."""
        path, headers = await self._download(_job(job_id) + "/result", {"task": task})
        return path, str(headers["Offload-Key"])

    async def files(self, owner: str, job_id: str, task: int = 0) -> Sequence[FileEntry]:
        """List the files that came back."""
        return [wire.file_from(item) for item in await self._json("GET", _job(job_id) + "/files", {"task": task})]

    async def file(self, owner: str, job_id: str, path: str, task: int = 0) -> Path:
        """Bring one file here; return its path."""
        return (await self._download(f"{_job(job_id)}/files/{quote(path)}", {"task": task}))[0]

    async def _download(self, path: str, query: Mapping[str, object]) -> tuple[Path, httputil.HTTPHeaders]:
        await asyncio.to_thread(self._forget_old)
        name = hashlib.sha256(f"{path}?{urlencode(query)}".encode()).hexdigest()
        target = self._folder / name
        partial = self._folder / f"{name}.{os.urandom(4).hex()}"
        file: IO[bytes] = os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        begin = bytearray()

        def take(data: bytes) -> None:
            """Write what arrives."""
            if len(begin) < 1 << 16:
                begin.extend(data[: 1 << 16])  # an error's JSON arrives by the same way
            file.write(data)

        try:
            with file:
                response = await self._ask("GET", path, query, seconds=TRANSFER_SECONDS, sink=take)
        except OffloadError as error:
            partial.unlink(missing_ok=True)
            told = _told(bytes(begin))
            raise (told or error) from error
        partial.replace(target)
        return target, response.headers

    def _forget_old(self) -> None:
        for path in self._folder.iterdir():
            if time.time() - path.stat().st_mtime > KEPT_SECONDS:
                path.unlink(missing_ok=True)

    async def logs(
        self,
        owner: str,
        job_id: str,
        *,
        task: int = 0,
        container: str = "main",
        stream: str = "stdout",
        offset: int = 0,
        limit: int = 1 << 20,
        wait_seconds: float = 0,
    ) -> LogChunk:
        """Return bytes of a container's stream."""
        query = {
            "task": task, "container": container, "stream": stream, "offset": offset, "limit": limit, "wait": wait_seconds
        }  # fmt: skip
        response = await self._ask("GET", _job(job_id) + "/logs", query, seconds=ANSWER_SECONDS + wait_seconds)
        return LogChunk(
            response.body, int(response.headers["Offload-Offset"]), end=response.headers["Offload-End"] == "true"
        )

    async def dry_run(self, owner: str, request: Request) -> Preview:
        """Show manifest and script."""
        return wire.preview_from(await self._json("POST", "/dry-run", body={"request": request.to_json()}))

    async def translate(self, owner: str, manifest: str, site: str | None = None) -> Preview:
        """Show the script that a Pod manifest would become."""
        return wire.preview_from(await self._json("POST", "/translate", body={"manifest": manifest, "site": site}))

    async def sites(self, owner: str) -> Sequence[SiteView]:
        """List the sites with their health."""
        return [wire.site_from(item) for item in await self._json("GET", "/sites")]

    async def doctor(self, owner: str, site: str | None = None) -> AsyncIterator[Check]:
        """Check each link of the chain; each check comes as soon as it is done."""
        arrived: asyncio.Queue[Check | None] = asyncio.Queue()
        rest = bytearray()

        def take(data: bytes) -> None:
            """Collect whole lines."""
            rest.extend(data)
            while (end := rest.find(b"\n")) >= 0:
                line = bytes(rest[:end])
                del rest[: end + 1]
                arrived.put_nowait(wire.check_from(json.loads(line)))

        accept = {"Accept": "application/x-ndjson"}
        ask = self._ask("POST", "/doctor", body={"site": site}, seconds=DOCTOR_SECONDS, headers=accept, sink=take)
        asking = asyncio.ensure_future(ask)
        asking.add_done_callback(lambda _: arrived.put_nowait(None))
        try:
            while (check := await arrived.get()) is not None:
                yield check
            await asking
        finally:
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError, OffloadError):
                await asking

    async def clean(
        self,
        owner: str,
        *,
        older_than_seconds: float | None = None,
        max_bytes: int | None = None,
        dry_run: bool = False,
    ) -> Cleaned:
        """Remove ended jobs by age and size."""
        body = {"older_than_seconds": older_than_seconds, "max_bytes": max_bytes, "dry_run": dry_run}
        return wire.cleaned_from(await self._json("POST", "/clean", body=body))

    async def close(self) -> None:
        """Close the connections and remove what was brought."""
        self._client.close()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


def _job(job_id: str) -> str:
    return f"/jobs/{quote(job_id, safe='')}"


def _told(body: bytes) -> OffloadError | None:
    try:
        data = json.loads(body)
    except ValueError:
        return None
    return from_json(data) if isinstance(data, dict) and "error" in data else None


def _error(response: httpclient.HTTPResponse) -> OffloadError:
    told = _told(response.body or b"")
    return told or ServiceUnreachable(f"the service answered {response.code}", hint="Do the versions match?")
