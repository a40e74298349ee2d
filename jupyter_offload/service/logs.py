"""Logs: from the site while a task runs, from the job folder afterwards; both by offset, so that a reader can go on anywhere.

The job folder's files are read without the site, so that they are there when it is not.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from jupyter_offload.errors import ResultUnavailable, SiteError, UnknownName, UsageError
from jupyter_offload.service.folders import Folders
from jupyter_offload.service.ledger import Ledger
from jupyter_offload.service.progress import Progress
from jupyter_offload.service.record import Phase, Record
from jupyter_offload.service.siteview import SiteBook, deadline
from jupyter_offload.sites.base import LogChunk

__all__ = ["Logs"]

READ_SECONDS = 30.0
SHORTEST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0
LARGEST_BYTES = 8 << 20
_CONTAINER = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Logs:
    """Reads the streams of tasks."""

    def __init__(self, ledger: Ledger, book: SiteBook, folders: Folders, progress: Progress) -> None:
        self._ledger = ledger
        self._book = book
        self._folders = folders
        self._progress = progress

    async def read(
        self,
        owner: str,
        job_id: str,
        task: int,
        container: str,
        stream: str,
        offset: int,
        limit: int,
        wait_seconds: float,
    ) -> LogChunk:
        """Return bytes from ``offset``; waits up to ``wait_seconds`` for the first. ``end`` means that nothing follows."""
        if stream not in ("stdout", "stderr"):
            raise UnknownName(f"there is no stream {stream!r}", hint="The streams are stdout and stderr.")
        if _CONTAINER.fullmatch(container) is None:
            raise UnknownName(f"{container!r} is not a container's name", hint="A cell's container is called main.")
        if offset < 0 or limit < 1:
            raise UsageError("offset must be 0 or more, limit 1 or more", hint="Ask again from offset 0.")
        size = min(limit, LARGEST_BYTES)
        loop = asyncio.get_running_loop()
        deadline_at = loop.time() + wait_seconds
        pause = SHORTEST_PAUSE_SECONDS
        while True:
            record = await self._record(owner, job_id, task)
            revision = self._ledger.revision
            chunk = await self._chunk(record, task, container, stream, offset, size)
            left = deadline_at - loop.time()
            if chunk.data or chunk.end or left <= 0:
                return chunk
            await self._ledger.wait_beyond(revision, min(pause, left))
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)

    async def _record(self, owner: str, job_id: str, task: int) -> Record:
        record = await self._ledger.resolve(owner, job_id)
        if not 0 <= task < len(record.job.tasks):
            raise UnknownName(
                f"job {record.job.name} has no task {task}", hint=f"Its tasks are 0 to {len(record.job.tasks) - 1}."
            )
        return record

    async def _chunk(self, record: Record, task: int, container: str, stream: str, offset: int, limit: int) -> LogChunk:
        state = record.job.tasks[task].state
        if state.terminal:
            path = self._folders.task(record.id, task) / "logs" / f"{container}.{stream}"
            return await asyncio.to_thread(_read, path, offset, limit)
        handle = next((handle for handle in record.handles if handle.index == task), None)
        visit = self._book.known(record.job.site)
        if handle is None or visit is None or record.phase is Phase.ACCEPTED:
            return LogChunk(b"", offset)
        call = visit.entry.site.logs(handle, container, stream, offset, limit)
        try:
            chunk = await deadline(visit.name, "logs", call, READ_SECONDS)
        except SiteError:
            return LogChunk(b"", offset)  # the job's `stale_since` tells
        if (container, stream) == ("main", "stdout"):
            self._progress.seen(handle, chunk.data)
        # the site's end is not ours: the last bytes may come with the result
        return LogChunk(chunk.data, chunk.offset)


def _read(path: Path, offset: int, limit: int) -> LogChunk:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(limit)
            size = file.seek(0, 2)
    except FileNotFoundError:
        return LogChunk(b"", offset, end=True)
    except OSError as error:
        raise ResultUnavailable(f"{path.name}: {error.strerror}", hint="Is the disk there?") from error
    return LogChunk(data, offset, end=offset + len(data) >= size)
