"""`OffloadService` that owns the jobs itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from jupyter_offload.errors import Conflict, OffloadError, ResultUnavailable, UnknownName
from jupyter_offload.job import Job, Request, Task
from jupyter_offload.service import preview
from jupyter_offload.service.accept import Acceptor
from jupyter_offload.service.clean import DEFAULT_AGE_SECONDS, DEFAULT_BYTES, choose
from jupyter_offload.service.doctor import examine
from jupyter_offload.service.folders import Folders
from jupyter_offload.service.intake import Intake, result_path
from jupyter_offload.service.ledger import Ledger
from jupyter_offload.service.logs import Logs
from jupyter_offload.service.manager import Manager
from jupyter_offload.service.pause import stop
from jupyter_offload.service.progress import Progress
from jupyter_offload.service.record import Record
from jupyter_offload.service.service import Accepted, Check, Cleaned, JobList, Preview, SiteView
from jupyter_offload.service.siteview import SiteBook, SiteEntry, Unbuilt
from jupyter_offload.service.store.sqlite import SQLiteStore
from jupyter_offload.sites.base import FileEntry, LogChunk

__all__ = ["Local"]

TIDY_SECONDS = 6 * 3600.0


class Local:
    """Owns the jobs below one data folder. Use `Local.open`; only one process at a time may (`service.lease`)."""

    def __init__(
        self,
        folders: Folders,
        ledger: Ledger,
        book: SiteBook,
        *,
        wall: Callable[[], float],
        rng: random.Random,
        log: logging.Logger,
    ) -> None:
        self._folders = folders
        self._ledger = ledger
        self._book = book
        self._wall = wall
        self._log = log
        self._intake = Intake(folders, book, wall=wall, log=log)
        self._acceptor = Acceptor(ledger, book, self._intake, folders, wall=wall)
        self._manager = Manager(ledger, book, self._intake, wall=wall, rng=rng, log=log)
        self._progress = Progress(ledger, book)
        self._logs = Logs(ledger, book, folders, self._progress)
        self._loops: list[asyncio.Task[None]] = []

    @classmethod
    async def open(
        cls,
        folders: Folders,
        entries: Mapping[str, SiteEntry | Unbuilt],
        default: str | None,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        log: logging.Logger | None = None,
        problem: OffloadError | None = None,
    ) -> Local:
        """Read what is on disk and take up the jobs where they are. ``problem``: why there are no sites; told to whoever needs one.

        An `Unbuilt` entry is a site that cannot be set up: the others work without it.
        """
        logger = log or logging.getLogger("jupyter_offload")
        folders.make()
        store = await asyncio.to_thread(SQLiteStore, folders.database)
        ledger = Ledger(store, folders, logger)
        await ledger.open()

        async def remember(name: str, info: str) -> None:
            """Keep what a site said of itself."""
            await ledger.run(store.note_site, name, info)

        book = SiteBook(entries, default, clock=clock, wall=wall, remember=remember, log=logger, problem=problem)
        book.recall(await ledger.run(store.site_notes))
        chance = rng or random.Random()  # noqa: S311 - jitter, not a secret
        service = cls(folders, ledger, book, wall=wall, rng=chance, log=logger)
        await asyncio.to_thread(folders.remove_leftovers, time.time())
        await service._manager.open()
        service._loops = [asyncio.create_task(service._retain()), asyncio.create_task(service._progress.run())]
        return service

    # -- OffloadService --------------------------------------------------------------------------------------------------------------

    async def submit(
        self, owner: str, job_id: str, bundle: Path, *, again: bool = False, reuse: bool = False
    ) -> Accepted:
        """Take a submission."""
        accepted = await self._acceptor.accept(owner, job_id, bundle, again=again, reuse=reuse)
        if accepted.created:
            self._manager.submit(await self._ledger.resolve(owner, accepted.job.id))
        return accepted

    async def jobs(self, owner: str, *, since: int = 0, wait_seconds: float = 0, limit: int | None = None) -> JobList:
        """List jobs changed after ``since``."""
        listing = await self._ledger.listing(owner, since, wait_seconds, limit)
        return JobList(listing.revision, tuple(record.job for record in listing.records), listing.deleted)

    async def job(self, owner: str, job_id: str) -> Job:
        """Return one job."""
        return (await self._ledger.resolve(owner, job_id)).job

    async def cancel(self, owner: str, job_id: str, reason: str = "") -> Job:
        """Ask for its end."""
        record = await self._ledger.resolve(owner, job_id)
        return (await self._manager.cancel(record, reason or "cancelled by its owner")).job

    async def delete(self, owner: str, job_id: str) -> None:
        """Forget an ended job and its files."""
        record = await self._ledger.resolve(owner, job_id)
        if not record.job.state.terminal:
            raise Conflict(f"job {record.job.name} is {record.job.state}", hint="Cancel it first.", job_id=record.id)
        await self._ledger.delete([record.id])

    async def result(self, owner: str, job_id: str, task: int = 0) -> tuple[Path, str]:
        """Return the path of the result bundle and the key."""
        record = await self._ledger.resolve(owner, job_id)
        state = _task(record, task)
        path = result_path(self._folders, record.id, task)
        if not state.state.terminal:
            raise ResultUnavailable(
                f"job {record.job.name} is {state.state}", hint="Wait for its end: `%offload wait`.", job_id=record.id
            )
        if not await asyncio.to_thread(path.is_file):
            why = f": {state.reason}" if state.reason else ""
            raise ResultUnavailable(
                f"job {record.job.name} left no result{why}",
                hint=state.hint or "Read its log: `%offload logs`.",
                job_id=record.id,
            )
        return path, record.key

    async def files(self, owner: str, job_id: str, task: int = 0) -> Sequence[FileEntry]:
        """List the files that came back."""
        record = await self._ledger.resolve(owner, job_id)
        _task(record, task)
        return await asyncio.to_thread(_list_files, self._folders.task(record.id, task) / "files")

    async def file(self, owner: str, job_id: str, path: str, task: int = 0) -> Path:
        """Return where one of them lies. Only what `files` lists can be had: no other path is ever looked at."""
        record = await self._ledger.resolve(owner, job_id)
        _task(record, task)
        root = self._folders.task(record.id, task) / "files"
        if path not in {entry.path for entry in await asyncio.to_thread(_list_files, root)}:
            raise UnknownName(
                f"job {record.job.name} brought back no file {path!r}",
                hint="`--fetch` names what comes back; `%offload show` lists what came.",
                job_id=record.id,
            )
        return root / path

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
        return await self._logs.read(owner, job_id, task, container, stream, offset, limit, wait_seconds)

    async def dry_run(self, owner: str, request: Request) -> Preview:
        """Show manifest and script."""
        return await preview.of_request(self._book, self._intake, owner, request, self._wall())

    async def translate(self, owner: str, manifest: str, site: str | None = None) -> Preview:
        """Show the script that a Pod manifest would become."""
        return await preview.of_manifest(self._book, owner, manifest, site)

    async def sites(self, owner: str) -> Sequence[SiteView]:  # noqa: ARG002 - all owners see all sites
        """List the sites with their health."""
        return await self._book.views()

    async def doctor(self, owner: str, site: str | None = None) -> AsyncIterator[Check]:
        """Check each link of the chain, the last by a tiny job."""
        checks = examine(self, self._book, self._folders, owner, site)
        async with contextlib.aclosing(checks) as stream:
            async for check in stream:
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
        return await self._clean(owner, older_than_seconds, max_bytes, dry_run=dry_run)

    async def _clean(
        self, owner: str | None, older_than_seconds: float | None, max_bytes: int | None, *, dry_run: bool
    ) -> Cleaned:
        if older_than_seconds is None and max_bytes is None:
            older_than_seconds, max_bytes = DEFAULT_AGE_SECONDS, DEFAULT_BYTES
        summaries = await self._ledger.summaries(owner)
        chosen = await asyncio.to_thread(
            choose, summaries, self._folders, self._wall(), older_than_seconds=older_than_seconds, max_bytes=max_bytes,
            busy=lambda job_id: job_id in self._ledger.live and not self._ledger.live[job_id].job.state.terminal,
        )  # fmt: skip
        if chosen and not dry_run:
            await self._ledger.delete([job_id for job_id, _ in chosen])
        return Cleaned(tuple(job_id for job_id, _ in chosen), sum(size for _, size in chosen))

    async def _retain(self) -> None:
        while True:
            try:
                cleaned = await self._clean(None, DEFAULT_AGE_SECONDS, DEFAULT_BYTES, dry_run=False)
                if cleaned.removed:
                    self._log.info("retention removed %d jobs, %d bytes", len(cleaned.removed), cleaned.freed_bytes)
            except Exception:  # one round that fails must not be the last one
                self._log.exception("retention")
            await asyncio.sleep(TIDY_SECONDS)

    # -- of this process -------------------------------------------------------------------------------------------------------------

    def active(self) -> int:
        """Return how many jobs have not ended."""
        return sum(not record.job.state.terminal for record in self._ledger.live.values())

    async def close(self) -> None:
        """Stop owning. Jobs go on."""
        await stop(self._loops)
        await self._manager.close()
        for visit in self._book:
            await visit.entry.site.close()
        await self._ledger.close()


def _task(record: Record, index: int) -> Task:
    if not 0 <= index < len(record.job.tasks):
        raise UnknownName(
            f"job {record.job.name} has no task {index}",
            hint=f"Its tasks are 0 to {len(record.job.tasks) - 1}.",
            job_id=record.id,
        )
    return record.job.tasks[index]


def _list_files(root: Path) -> list[FileEntry]:
    entries = []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.is_file() and not path.is_symlink() and relative.parts[0] != ".offload":
            entries.append(FileEntry(relative.as_posix(), path.stat().st_size))
    return entries
