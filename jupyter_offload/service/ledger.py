"""The one writer of job records: live ones in memory, all of them in the store, and each also in its job folder.

A change takes effect in memory at once and is on disk when `Ledger.change` returns; changes that come while a write is under way go
together in the next one (group commit). The store's commit is what makes them durable; ``job.json`` in the job folder is written
before it at each step that a rebuild must know of, so that the store can be deleted at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from jupyter_offload.errors import OffloadError, ServiceError, ServiceUnreachable, UnknownName
from jupyter_offload.job import resolve_id
from jupyter_offload.service.folders import Folders, private_folder, write_private
from jupyter_offload.service.record import Record
from jupyter_offload.service.store.base import Listing, Store, Summary

__all__ = ["Ledger"]

_T = TypeVar("_T")


class Ledger:
    """Records in memory and on disk. Of one event loop."""

    def __init__(self, store: Store, folders: Folders, log: logging.Logger) -> None:
        self._store = store
        self._folders = folders
        self._log = log
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="offload-store")
        self._live: dict[str, Record] = {}
        self._dirty: dict[str, Record] = {}
        self._written: dict[str, object] = {}
        self._new: dict[str, asyncio.Future[None]] = {}
        """Records that nobody was told of yet, with what is done when they are on disk."""
        self._revision = store.revision()
        self._committed = self._revision
        self._writing: asyncio.Task[None] | None = None
        self._next: asyncio.Future[None] | None = None
        self._news = asyncio.Condition()
        self._closed = False

    # -- opening ---------------------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read the live records, and take into the store the job folders that it does not know (it was deleted, or is older)."""
        records = await self.run(self._store.live, None)
        self._live = {record.id: record for record in records}
        strangers = await self.run(self._strangers)
        for record in strangers:
            self._put(record)
        if strangers:
            self._log.warning("the store did not know %d job folders: taken in again", len(strangers))
            await self._flushed()

    def _strangers(self) -> list[Record]:
        known = self._store.ids(None)
        found = []
        for folder in sorted(self._folders.jobs.iterdir()):
            if folder.name in known or not folder.is_dir():
                continue
            try:
                record = Record.load((folder / "job.json").read_text(encoding="utf-8"))
            except (OSError, ValueError, KeyError, TypeError, OffloadError) as error:
                self._log.warning("%s holds no job: %s", folder, error)
                continue
            if record.id == folder.name:
                found.append(record)
        return found

    # -- reading ---------------------------------------------------------------------------------------------------------------------

    @property
    def live(self) -> Mapping[str, Record]:
        """The records with something left to do, by id."""
        return self._live

    async def run(self, function: Callable[..., _T], *args: object) -> _T:
        """Run a function of the store in its thread. Raises `ServiceUnreachable` when the ledger was closed."""
        if self._closed:
            raise ServiceUnreachable("this service was closed", hint="Try again in a moment.")
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args))

    async def get(self, owner: str | None, job_id: str) -> Record | None:
        """Return one record by its full id."""
        record = self._live.get(job_id)
        if record is not None:
            return record if owner in (None, record.owner) else None
        return await self.run(self._store.get, owner, job_id)

    async def resolve(self, owner: str, text: str) -> Record:
        """Return the record that an id, a unique prefix, ``name-prefix`` or a name means. Raises `UnknownName`."""
        record = await self.get(owner, text)
        if record is not None:
            return record
        candidates = await self.run(self._store.candidates, owner, text)
        job = resolve_id(text, [candidate.job for candidate in candidates])
        found = await self.get(owner, job.id)
        if found is None:
            raise UnknownName(f"no job {text!r}", hint="`%offload` lists the jobs.")
        return found

    async def twins(self, owner: str, fingerprint: str) -> list[Record]:
        """Return the records with this fingerprint, newest first, live ones as they are now."""
        stored = await self.run(self._store.twins, owner, fingerprint)
        return [self._live.get(record.id, record) for record in stored]

    async def deleted_ids(self) -> set[str]:
        """Return the ids of deleted jobs that are still remembered."""
        return await self.run(self._store.deleted_ids, None)

    async def summaries(self, owner: str | None) -> list[Summary]:
        """Return what retention looks at, oldest end first."""
        return await self.run(self._store.summaries, owner)

    async def listing(self, owner: str, since: int, wait_seconds: float, limit: int | None) -> Listing:
        """Return what changed after ``since``; waits up to ``wait_seconds`` for the first change of this owner's jobs."""
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while True:
            seen = self._committed
            listing = await self.run(self._store.listing, owner, since, limit)
            left = deadline - asyncio.get_running_loop().time()
            if listing.records or listing.deleted or left <= 0:
                return listing
            await self.wait_beyond(seen, left)

    async def wait_beyond(self, revision: int, seconds: float) -> None:
        """Wait until something newer than ``revision`` is on disk, or so long."""
        try:
            await asyncio.wait_for(self._beyond(revision), seconds)
        except asyncio.TimeoutError:
            return

    async def _beyond(self, revision: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: self._committed > revision or self._closed)

    @property
    def revision(self) -> int:
        """The revision that is on disk."""
        return self._committed

    # -- writing ---------------------------------------------------------------------------------------------------------------------

    async def insert(self, record: Record, unless: Callable[[Record], bool] = lambda _: False) -> Record:
        """Take in a new record; on return it is on disk. When ``unless`` is true of a live one, that one is returned instead.

        Raises `ServiceError` when the store cannot be written; then there is no such record, here, on disk, or after a restart.
        """
        kept = next((other for other in self._live.values() if unless(other)), None)
        if kept is None:
            kept = self._put(record)
            if self._next is not None:
                self._new[kept.id] = self._next
        on_disk = self._new.get(kept.id)
        if on_disk is None:
            return kept
        try:
            await asyncio.shield(on_disk)
        except OffloadError:
            raise
        except Exception as error:
            raise ServiceError(
                f"the job was not accepted: the service cannot write its store: {error}",
                hint=f"Look whether the disk of {self._folders.root} is full; `%offload clean` makes room. Then submit again.",
                job_id=record.id,
            ) from error
        return kept

    async def change(self, job_ids: Iterable[str], change: Callable[[Record], Record]) -> list[Record]:
        """Change live records (others are passed over); on return the changes are on disk. Equal outcomes write nothing."""
        changed = self.change_soon(job_ids, change)
        if changed:
            await self._flushed()
        return changed

    def change_soon(self, job_ids: Iterable[str], change: Callable[[Record], Record]) -> list[Record]:
        """Change live records at once in memory, on disk soon."""
        changed = []
        for job_id in job_ids:
            old = self._live.get(job_id)
            new = change(old) if old is not None else None
            if new is not None and new != old:
                changed.append(self._put(new))
        return changed

    async def delete(self, job_ids: Sequence[str]) -> None:
        """Forget jobs and remove their folders."""
        while self._next is not None:  # a deletion's revision must not overtake a change that is not on disk
            await self._flushed()
        self._revision += 1
        revision = self._revision
        for job_id in job_ids:
            self._live.pop(job_id, None)
            self._written.pop(job_id, None)
        await self.run(self._delete, list(job_ids), revision)
        await self._tell(revision)

    def _delete(self, job_ids: list[str], revision: int) -> None:
        # the folder first: a folder without a record would be taken in again
        for job_id in job_ids:
            self._folders.remove_job(job_id)
        self._store.delete(None, job_ids, revision)

    def _put(self, record: Record) -> Record:
        self._revision += 1
        kept = record.with_job(revision=self._revision)
        self._live[record.id] = kept
        self._dirty[record.id] = kept
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            if self._writing is None:
                self._writing = asyncio.create_task(self._write())
        return kept

    async def _flushed(self) -> None:
        if self._next is not None:
            await asyncio.shield(self._next)

    async def _write(self) -> None:
        while self._next is not None:
            done, self._next = self._next, None
            records, self._dirty = list(self._dirty.values()), {}
            revision = self._revision
            try:
                await self.run(self._save, records)
            except Exception as error:
                self._log.exception("the store cannot be written")
                withdrawn = self._withdraw(records)
                records = [record for record in records if record.id not in withdrawn]
                with contextlib.suppress(ServiceUnreachable):
                    await self.run(self._remove_traces, withdrawn)
                for record in records:
                    self._dirty.setdefault(record.id, record)
                done.set_exception(error)
                done.exception()
                continue
            for record in records:
                self._new.pop(record.id, None)
                if not record.live and self._live.get(record.id) is record:
                    del self._live[record.id]
                    self._written.pop(record.id, None)
            done.set_result(None)
            await self._tell(revision)
        self._writing = None

    def _withdraw(self, records: list[Record]) -> list[str]:
        """Forget the new ones of records that could not be saved: their submitters are told that they were not accepted."""
        ids = [record.id for record in records if self._new.pop(record.id, None) is not None]
        for job_id in ids:
            self._live.pop(job_id, None)
            self._dirty.pop(job_id, None)
            self._written.pop(job_id, None)
        return ids

    def _remove_traces(self, job_ids: list[str]) -> None:
        for job_id in job_ids:
            try:
                (self._folders.job(job_id) / "job.json").unlink(missing_ok=True)
            except OSError as error:  # noqa: PERF203
                self._log.warning("job %s was not accepted and its job.json stays: %s", job_id, error)

    def _save(self, records: list[Record]) -> None:
        for record in records:
            steps = (record.phase, record.cancel, record.job.state.terminal, record.handles, record.job.finished)
            if self._written.get(record.id) != steps:
                folder = private_folder(self._folders.job(record.id))
                write_private(folder / "job.json", json.dumps(record.to_json(), indent=1).encode(), durable=False)
                self._written[record.id] = steps
        self._store.save(None, records)

    async def _tell(self, revision: int) -> None:
        async with self._news:
            self._committed = max(self._committed, revision)
            self._news.notify_all()

    async def close(self) -> None:
        """Finish the writes that are under way and release the file."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self.run(self._store.close)
        self._closed = True
        self._thread.shutdown()
        await self._tell(self._committed)
