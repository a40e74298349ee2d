"""The REST API as plain calls, by the standard library alone.

Every call has a deadline. A safe one (reading, and a submission, which is idempotent by its id) is repeated after the connection broke,
with the connection file read again: a service that was restarted has another port and token.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from jupyter_offload.errors import OffloadError, ServiceUnreachable, Unauthorized, from_json
from jupyter_offload.job import Job, Request
from jupyter_offload.kernel.connect import Connection, candidates, start_headless

__all__ = ["Client", "LogPiece"]

TIMEOUT_SECONDS = 30.0
_CHUNK = 1 << 18
_BROKEN = (OSError, http.client.HTTPException)
_T = TypeVar("_T")


@dataclass(frozen=True)
class LogPiece:
    """Bytes of a stream: where they begin, and whether nothing follows."""

    offset: int
    data: bytes
    end: bool


class Client:
    """Calls the service of this user; finds it, and starts it where there is none."""

    def __init__(self, environ: Mapping[str, str] | None = None, *, start: bool = True) -> None:
        self._environ: Mapping[str, str] = os.environ if environ is None else environ
        self._start = start
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    # -- the service

    def connect(self) -> Connection:
        """Return the connection to a service that answers. Raises `ServiceUnreachable`."""
        with self._lock:
            if self._connection is None:
                self._connection = self._find()
            return self._connection

    def _find(self) -> Connection:
        for path in candidates(self._environ):
            connection = Connection.read(path)
            if connection is not None and _answers(connection):
                return connection
        if not self._start:
            raise ServiceUnreachable(
                "no service runs", hint="`jupyter offload serve` starts one; so does the first submission."
            )
        return start_headless(self._environ, answers=_answers)

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            if self._connection is connection:
                self._connection = None

    # -- jobs

    def health(self) -> dict[str, Any]:
        """Return who answers."""
        return dict(self._json("GET", "/health"))

    def jobs(
        self, *, since: int = 0, wait_seconds: float = 0, state: str = "", limit: int | None = None
    ) -> tuple[int, list[Job], list[str]]:
        """Return ``(revision, jobs changed since, ids deleted since)``; waits up to ``wait_seconds`` for the first change."""
        query = {"since": since, "wait": wait_seconds, "state": state, "limit": limit}
        data = self._json("GET", "/jobs", query, timeout=wait_seconds + TIMEOUT_SECONDS)
        return int(data["revision"]), [Job.from_json(item) for item in data["jobs"]], list(data.get("deleted", ()))

    def job(self, job_id: str) -> Job:
        """Return one job, by id, unique prefix or shown name. Raises `UnknownName`."""
        return Job.from_json(self._json("GET", f"/jobs/{_word(job_id)}"))

    def submit(self, job_id: str, bundle: Path, *, again: bool = False, reuse: bool = False) -> tuple[Job, bool, bool]:
        """Send a submission; return ``(job, whether it is an earlier twin, whether it is new)``."""
        query = {"again": int(again), "reuse": int(reuse)}

        def send(connection: Connection) -> tuple[Job, bool, bool]:
            with bundle.open("rb") as body:
                size = os.fstat(body.fileno()).st_size
                headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
                path = f"/jobs/{_word(job_id)}"
                with _exchange(connection, "PUT", path, query, body, headers, timeout=300) as answer:
                    data = json.loads(answer.read())
                    return Job.from_json(data["job"]), bool(data["twin"]), answer.status == 201

        return self._repeat(send)

    def cancel(self, job_id: str, reason: str = "") -> Job:
        """Ask for a job's end."""
        return Job.from_json(self._json("POST", f"/jobs/{_word(job_id)}/cancel", body={"reason": reason}))

    def delete(self, job_id: str) -> None:
        """Forget an ended job."""
        self._json("DELETE", f"/jobs/{_word(job_id)}")

    def result(self, job_id: str, target: Path, task: int = 0) -> str:
        """Write the result bundle to ``target`` (0600); return the key that it must be signed with."""
        headers = self._download(f"/jobs/{_word(job_id)}/result", {"task": task}, target)
        return headers.get("Offload-Key", "")

    def files(self, job_id: str, task: int = 0) -> list[dict[str, Any]]:
        """Return ``{"path", "size"}`` of the files that came back."""
        data: Any = self._json("GET", f"/jobs/{_word(job_id)}/files", {"task": task})
        return list(data["files"] if isinstance(data, dict) else data)

    def file(self, job_id: str, path: str, target: Path, task: int = 0) -> None:
        """Write one of the files that came back to ``target``."""
        self._download(f"/jobs/{_word(job_id)}/files/{quote(path)}", {"task": task}, target)

    def logs(
        self,
        job_id: str,
        stream: str = "stdout",
        *,
        task: int = 0,
        container: str = "main",
        offset: int = 0,
        limit: int = 1 << 20,
        wait_seconds: float = 0,
    ) -> LogPiece:
        """Return bytes of a stream from ``offset``; waits up to ``wait_seconds`` for the first."""
        query = {
            "task": task,
            "container": container,
            "stream": stream,
            "offset": offset,
            "limit": limit,
            "wait": wait_seconds,
        }

        def read(connection: Connection) -> LogPiece:
            path = f"/jobs/{_word(job_id)}/logs"
            with _exchange(connection, "GET", path, query, timeout=wait_seconds + TIMEOUT_SECONDS) as answer:
                place = int(answer.headers.get("Offload-Offset", offset))
                return LogPiece(place, answer.read(), answer.headers.get("Offload-End") == "true")

        return self._repeat(read)

    def all_logs(self, job_id: str, stream: str = "stdout", *, task: int = 0, container: str = "main") -> bytes:
        """Return all that is there of a stream now."""
        found = bytearray()
        while True:
            piece = self.logs(job_id, stream, task=task, container=container, offset=len(found), limit=8 << 20)
            del found[piece.offset :]  # after an eviction a log begins anew
            found += piece.data
            if piece.end or not piece.data:
                return bytes(found)

    # -- the rest

    def dry_run(self, request: Request) -> dict[str, Any]:
        """Return ``{"site", "image", "manifest", "script", "notes"}`` of what a submission would be."""
        return dict(self._json("POST", "/dry-run", body={"request": request.to_json()}))

    def sites(self, *, timeout: float = TIMEOUT_SECONDS) -> list[dict[str, Any]]:
        """Return the sites with their health."""
        data: Any = self._json("GET", "/sites", timeout=timeout)
        return list(data["sites"] if isinstance(data, dict) else data)

    def doctor(self, site: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the checks of each link of the chain as they are done."""
        connection = self.connect()
        body = json.dumps({"site": site}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
        with _exchange(connection, "POST", "/doctor", {}, body, headers, timeout=300) as answer:
            while line := answer.readline():
                yield json.loads(line)

    def clean(
        self, *, older_than_seconds: float | None = None, max_bytes: int | None = None, dry_run: bool = False
    ) -> dict[str, Any]:
        """Remove ended jobs by age and size; return ``{"removed": ids, "bytes"}``."""
        body = {"older_than_seconds": older_than_seconds, "max_bytes": max_bytes, "dry_run": dry_run}
        return dict(self._json("POST", "/clean", body=body, timeout=300))

    # -- requests

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Any:
        def ask(connection: Connection) -> Any:
            data = None if body is None else json.dumps(body).encode()
            headers = {"Content-Type": "application/json"} if data is not None else {}
            with _exchange(connection, method, path, query or {}, data, headers, timeout=timeout) as answer:
                text = answer.read()
                return json.loads(text) if text else None

        return self._repeat(ask, safe=method == "GET" or path == "/dry-run" or path.endswith("/cancel"))

    def _download(self, path: str, query: Mapping[str, object], target: Path) -> dict[str, str]:
        def fetch(connection: Connection) -> dict[str, str]:
            with _exchange(connection, "GET", path, query, timeout=TIMEOUT_SECONDS) as answer:
                partial = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.partial")
                descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                try:
                    with os.fdopen(descriptor, "wb") as stream:
                        while chunk := answer.read(_CHUNK):
                            stream.write(chunk)
                        size = stream.tell()
                    expected = answer.headers.get("Content-Length")
                    if expected is not None and size != int(expected):  # read() ends quietly when the connection breaks
                        raise http.client.IncompleteRead(b"", int(expected) - size)
                    partial.replace(target)
                finally:
                    partial.unlink(missing_ok=True)
                return dict(answer.headers.items())

        return self._repeat(fetch)

    def _repeat(self, call: Callable[[Connection], _T], *, safe: bool = True) -> _T:
        attempt = 0
        while True:
            connection = self.connect()
            attempt += 1
            try:
                return call(connection)
            except Unauthorized:
                # The service was restarted and has another token: read the file again, once.
                self._forget(connection)
                if attempt > 1:
                    raise
            except TimeoutError as error:
                raise ServiceUnreachable(
                    "the service did not answer in time", hint="It may be busy: try again, or see its log."
                ) from error
            except _BROKEN as error:
                self._forget(connection)
                refused = isinstance(error, ConnectionRefusedError)  # nothing of the request has left
                if attempt > 2 or not (safe or refused):
                    raise ServiceUnreachable(
                        f"the connection to the service broke: {error}", hint="Try again; it is started when needed."
                    ) from error
                time.sleep(0.05)


def _word(text: str) -> str:
    return quote(text, safe="")


def _answers(connection: Connection) -> bool:
    try:
        with _exchange(connection, "GET", "/health", {}, timeout=5) as answer:
            answer.read()
    except (*_BROKEN, OffloadError):
        return False
    return True


@contextmanager
def _exchange(
    connection: Connection,
    method: str,
    path: str,
    query: Mapping[str, object],
    body: bytes | IO[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float,
) -> Iterator[http.client.HTTPResponse]:
    address = urlsplit(connection.url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    link = kind(address.hostname or "127.0.0.1", address.port, timeout=timeout, blocksize=_CHUNK)
    try:
        given = {key: value for key, value in query.items() if value is not None and value != ""}
        target = address.path + path + ("?" + urlencode(given) if given else "")
        link.request(method, target, body, {"Authorization": f"token {connection.token}", **(headers or {})})
        with link.getresponse() as answer:
            if answer.status >= 400:
                raise _error(answer)
            yield answer
    finally:
        link.close()


def _error(answer: http.client.HTTPResponse) -> OffloadError:
    text = answer.read()
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if isinstance(data, dict) and "error" in data:
        return from_json(data)
    return OffloadError(f"the service answered {answer.status} {answer.reason}", hint="See the service's log.")
