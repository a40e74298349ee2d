"""The service of a process that may not be alone on its home: it owns the jobs when it holds the lease, else it forwards to who does.

Handlers cannot tell. When the holder dies, this one takes over within a few seconds, and calls that it could not answer are made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from jupyter_offload import __version__
from jupyter_offload.errors import ServiceUnreachable
from jupyter_offload.job import Job, Request
from jupyter_offload.service.connection import Connection
from jupyter_offload.service.folders import Folders
from jupyter_offload.service.lease import BEAT_SECONDS, Lease
from jupyter_offload.service.local import Local
from jupyter_offload.service.pause import stop
from jupyter_offload.service.remote import Remote
from jupyter_offload.service.service import Accepted, Check, Cleaned, JobList, OffloadService, Preview, SiteView
from jupyter_offload.sites.base import FileEntry, LogChunk

__all__ = ["Shared"]

_T = TypeVar("_T")

TRY_SECONDS = 1.0
TAKE_OVER_SECONDS = 20.0
"""How long a call waits for somebody to own the jobs."""


class Shared:
    """`OffloadService` behind a lease.

    ``make`` opens a `Local` once the lease is held, and again when ``settings`` returns something else than before.
    """

    def __init__(
        self,
        folders: Folders,
        lease: Lease,
        make: Callable[[], Awaitable[Local]],
        *,
        published: Path | None,
        settings: Callable[[], object] = lambda: None,
        log: logging.Logger,
    ) -> None:
        self._settings = settings
        self._opened_with: object = None
        self._folders = folders
        self._lease = lease
        self._make = make
        self._mine = Connection("", "", 0, "")
        self._published = published
        self._log = log
        self._service: OffloadService | None = None
        self._local: Local | None = None
        self._remote: Remote | None = None
        self._changed = asyncio.Event()
        self._ending = False
        self._loop: asyncio.Task[None] | None = None

    def listens(self, mine: Connection) -> None:
        """Tell where this process listens; to be called before `open`."""
        self._mine = mine

    async def open(self, *, forward: bool = True) -> bool:
        """Own or forward from now on; return whether it owns. ``forward=False``: when it does not own, do nothing at all."""
        owns = await self._lease.acquire()
        if owns:
            await self._own()
        elif not forward:
            return False
        else:
            await self._forward()
        self._loop = asyncio.create_task(self._keep())
        return owns

    async def _own(self) -> None:
        self._lease.publish(self._mine.url, self._mine.token, __version__)
        try:
            await self._open_local()
        except BaseException:
            self._lease.release()
            raise
        self._publish()

    async def _open_local(self) -> None:
        self._opened_with = await asyncio.to_thread(self._settings)
        self._local = await self._make()
        await self._switch(self._local)

    async def _close_local(self) -> None:
        local, self._local = self._local, None
        await self._switch(None)
        if local is not None:
            await local.close()

    def _publish(self) -> None:
        """Keep the file that kernels without an inherited path look at."""
        if self._published is not None and Connection.read(self._published) != self._mine:
            self._mine.write(self._published)

    async def _forward(self) -> None:
        holder = self._lease.holder()
        if holder is None or (self._remote is not None and self._remote.url == holder.url):
            return
        self._log.info("jobs are owned by process %d on %s: forwarding to %s", holder.pid, holder.host, holder.url)
        remote = Remote(holder.url, holder.token, self._folders.incoming / f"remote-{secrets.token_hex(4)}")
        await self._switch(remote)
        self._remote = remote

    async def _switch(self, service: OffloadService | None) -> None:
        old, self._remote = self._remote, None
        self._service = service
        self._changed.set()
        self._changed = asyncio.Event()
        if old is not None:
            await old.close()

    async def _keep(self) -> None:
        """Beat while it owns, try to own while it does not."""
        while True:
            await asyncio.sleep(BEAT_SECONDS if self._local is not None else TRY_SECONDS)
            try:
                await self._turn()
            except Exception:
                self._log.exception("the lease")

    async def _turn(self) -> None:
        if self._local is None:
            if self._lease.held:
                await self._open_local()  # it could not be opened the last time
            elif await self._lease.acquire():
                self._log.info("the owner of the jobs is gone: taking over")
                await self._own()
            else:
                await self._forward()
        elif not await asyncio.to_thread(self._lease.beat):
            self._log.warning("the lease is lost: stepping down")
            await self._close_local()
            self._lease.release()
        else:
            self._publish()
            if await asyncio.to_thread(self._settings) != self._opened_with:
                self._log.info("the configuration changed: opening anew")
                await self._close_local()
                await self._open_local()

    @property
    def forwarded_to(self) -> str | None:
        """The address of the owner when it is another process."""
        return self._remote.url if self._remote is not None else None

    @property
    def local(self) -> Local | None:
        """The service that owns the jobs, when it is this process."""
        return self._local

    async def _current(self) -> OffloadService:
        changed = self._changed
        if self._service is None and not self._ending:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), TAKE_OVER_SECONDS)
        if self._service is None:
            raise ServiceUnreachable(
                "no process owns the jobs just now", hint="Try again in a few seconds; `%offload doctor` tells more."
            )
        return self._service

    async def _call(self, ask: Callable[[OffloadService], Awaitable[_T]]) -> _T:
        """Ask whoever owns the jobs; once more when the owner went away and another took over. Every call may be repeated."""
        service = await self._current()
        changed = self._changed
        try:
            return await ask(service)
        except ServiceUnreachable:
            if self._ending:
                raise
            if self._service is service and self._local is None:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(changed.wait(), TAKE_OVER_SECONDS)
            successor = await self._current()
            if successor is service:
                raise
        return await ask(successor)

    # -- OffloadService --------------------------------------------------------------------------------------------------------------

    async def submit(
        self, owner: str, job_id: str, bundle: Path, *, again: bool = False, reuse: bool = False
    ) -> Accepted:
        """Take or forward a submission."""
        return await self._call(lambda service: service.submit(owner, job_id, bundle, again=again, reuse=reuse))

    async def jobs(self, owner: str, *, since: int = 0, wait_seconds: float = 0, limit: int | None = None) -> JobList:
        """List jobs changed after ``since``."""
        return await self._call(lambda s: s.jobs(owner, since=since, wait_seconds=wait_seconds, limit=limit))

    async def job(self, owner: str, job_id: str) -> Job:
        """Return one job."""
        return await self._call(lambda service: service.job(owner, job_id))

    async def cancel(self, owner: str, job_id: str, reason: str = "") -> Job:
        """Ask for its end."""
        return await self._call(lambda service: service.cancel(owner, job_id, reason))

    async def delete(self, owner: str, job_id: str) -> None:
        """Forget an ended job."""
        await self._call(lambda service: service.delete(owner, job_id))

    async def result(self, owner: str, job_id: str, task: int = 0) -> tuple[Path, str]:
        """Return the path of the result bundle and the key."""
        return await self._call(lambda service: service.result(owner, job_id, task))

    async def files(self, owner: str, job_id: str, task: int = 0) -> Sequence[FileEntry]:
        """List the files that came back."""
        return await self._call(lambda service: service.files(owner, job_id, task))

    async def file(self, owner: str, job_id: str, path: str, task: int = 0) -> Path:
        """Return where one of them lies."""
        return await self._call(lambda service: service.file(owner, job_id, path, task))

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
        return await self._call(
            lambda service: service.logs(
                owner, job_id, task=task, container=container, stream=stream,
                offset=offset, limit=limit, wait_seconds=wait_seconds,
            )
        )  # fmt: skip

    async def dry_run(self, owner: str, request: Request) -> Preview:
        """Show manifest and script."""
        return await self._call(lambda service: service.dry_run(owner, request))

    async def translate(self, owner: str, manifest: str, site: str | None = None) -> Preview:
        """Show the script that a Pod manifest would become."""
        return await self._call(lambda service: service.translate(owner, manifest, site))

    async def sites(self, owner: str) -> Sequence[SiteView]:
        """List the sites with their health."""
        return await self._call(lambda service: service.sites(owner))

    async def doctor(self, owner: str, site: str | None = None) -> AsyncIterator[Check]:
        """Check each link of the chain."""
        service = await self._current()
        async for check in service.doctor(owner, site):
            yield check

    async def clean(
        self,
        owner: str,
        *,
        older_than_seconds: float | None = None,
        max_bytes: int | None = None,
        dry_run: bool = False,
    ) -> Cleaned:
        """Remove ended jobs by age and size."""
        return await self._call(
            lambda s: s.clean(owner, older_than_seconds=older_than_seconds, max_bytes=max_bytes, dry_run=dry_run)
        )

    async def close(self) -> None:
        """Stop owning or forwarding. Jobs go on. Whoever waits is told at once, and finds the next service."""
        self._ending = True
        if self._loop is not None:
            await stop([self._loop])
        if self._local is not None and self._published is not None:
            self._mine.remove(self._published)
        await self._close_local()
        self._lease.release()
