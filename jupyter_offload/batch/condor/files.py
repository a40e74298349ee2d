"""The files of a task: read while it runs, brought when it has ended.

With a spool a retrieve in the middle of the run brings what was printed so far (a few milliseconds; the file is at most a second old). It
writes the whole file anew, so reading and retrieving take turns per task, and the larger the file, the less often it is brought. With a
shared filesystem the file grows in the job folder.

A retrieve that breaks off leaves half a file. So an archive is taken for the result only after a retrieve that ended well, and whatever
else goes wrong is the site's fault, not the task's: its results wait in the spool.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jupyter_offload.batch.base import ERR, OUT, OUTPUT, Chunk, Fetched, Handle, task_folder
from jupyter_offload.batch.condor import selection, states
from jupyter_offload.batch.condor.schedd import Schedd
from jupyter_offload.errors import BatchNotFound, SiteError
from jupyter_offload.job import State

__all__ = ["Files"]

_SHORTEST_PAUSE = 0.5
_NOT_ENDED = "the job has not ended"
_UNDER_WAY = ".retrieving"
"""Lies beside an `output.tar` that may be half of one; goes when a retrieve has ended well."""
_LONGEST_PAUSE = 1.2
"""A line is to be seen within two seconds."""
_LARGE = 4_000_000
_LONGEST_PAUSE_LARGE = 10.0
_PAUSE_PER_COST = 10.0
"""At most one tenth of the time goes into bringing one task's log, as far as the longest pauses allow."""


@dataclass
class _Tail:
    """What is remembered of a task whose log is followed."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    next: float = 0.0
    ended: bool = False
    fetches: int = 0
    """How many fetches of it are under way: nothing is brought for readers meanwhile."""


class Files:
    """Reads and fetches for one schedd."""

    def __init__(self, schedd: Schedd) -> None:
        self._schedd = schedd
        self._tails: dict[selection.Key, _Tail] = {}

    def forget(self, handles: Sequence[Handle]) -> None:
        """Drop what is remembered of these tasks."""
        for handle in handles:
            self._tails.pop(selection.key(handle), None)

    async def read(self, handle: Handle, file: str, offset: int, limit: int) -> Chunk:
        """Return a piece of ``out`` or ``err``."""
        if file not in (OUT, ERR):
            raise BatchNotFound(f"{file!r} is not a log of a task", job_id=handle.job_id, hint="Read `out` or `err`.")
        path = Path(task_folder(handle), file)
        tail = self._tails.setdefault(selection.key(handle), _Tail())
        await asyncio.sleep(0)  # a caller that reads in a loop must not keep the loop to itself
        async with tail.lock:
            chunk = _piece(path, offset, limit, end=False)
            if not chunk.data and not tail.ended and not tail.fetches and time.monotonic() >= tail.next:
                await self._refresh(handle, tail)
                chunk = _piece(path, offset, limit, end=False)
            end = tail.ended and offset + len(chunk.data) >= _length(path)
            return Chunk(chunk.data, offset, end)

    async def _refresh(self, handle: Handle, tail: _Tail) -> None:
        begun = time.monotonic()
        ads = await self._schedd.query(selection.by_handles([handle]), states.PROJECTION)
        ad = next((ad for ad in ads if selection.key_of(ad) == selection.key(handle)), None)
        ended = ad is None or ad.get("JobStatus") in (states.COMPLETED, states.REMOVED)
        if ad is not None and self._schedd.config.spool and states.starts(ad):
            await self._bring([handle], _length(Path(task_folder(handle), OUT)))
        tail.ended = ended
        longest = _LONGEST_PAUSE if _length(Path(task_folder(handle), OUT)) < _LARGE else _LONGEST_PAUSE_LARGE
        pause = _PAUSE_PER_COST * (time.monotonic() - begun)
        tail.next = time.monotonic() + min(longest, max(_SHORTEST_PAUSE, pause))

    async def fetch(self, handles: Sequence[Handle]) -> list[Fetched]:
        """Bring everything of ended tasks. Raises a `SiteError` when the files cannot be brought now."""
        tails = [self._tails.setdefault(selection.key(handle), _Tail()) for handle in handles]
        for tail in tails:
            tail.fetches += 1
        try:
            for tail in tails:
                async with tail.lock:  # a retrieve for a reader would write the archive anew under our hands
                    pass
            problems = await self._retrieve(handles)
        finally:
            for tail in tails:
                tail.fetches -= 1
        for handle, tail in zip(handles, tails, strict=True):
            tail.ended |= handle not in problems
        return [_fetched(handle, problems.get(handle, "")) for handle in handles]

    async def _retrieve(self, handles: Sequence[Handle]) -> dict[Handle, str]:
        ads = []
        for constraint in selection.exactly(handles):
            ads += await self._schedd.query(constraint, (*states.PROJECTION, "BytesSent"))
        here = {selection.key_of(ad): ad for ad in ads}
        problems: dict[Handle, str] = {}
        ended: list[Handle] = []
        size = 0
        for handle in handles:
            ad = here.get(selection.key(handle))
            if ad is None:
                problems[handle] = "the job has left the queue, and its files with it"
            elif states.status(handle, ad).state is not State.FINISHING:
                problems[handle] = _NOT_ENDED
            else:
                ended.append(handle)
                size += int(ad.get("BytesSent", 0))
        if ended and self._schedd.config.spool:
            problems.update(await self._retrieve_these(ended, size))
        return problems

    async def _retrieve_these(self, handles: Sequence[Handle], size: int) -> dict[Handle, str]:
        try:
            await self._bring(handles, size)
        except BatchNotFound as error:  # the schedd's word on a job; every other error says nothing of any job
            if len(handles) == 1:
                return {handles[0]: error.message}
            # One bad file fails the whole call: halves tell which.
            half = len(handles) // 2
            problems = await self._retrieve_these(handles[:half], size)
            problems.update(await self._retrieve_these(handles[half:], size))
            return problems
        return {}

    async def _bring(self, handles: Sequence[Handle], size: int) -> None:
        await asyncio.to_thread(_expect, handles)
        try:
            await self._schedd.retrieve(selection.ids(handles), size_bytes=size)
        except BaseException:
            _discard(handles)
            raise
        await asyncio.to_thread(_arrived, handles)


def _expect(handles: Sequence[Handle]) -> None:
    for handle in handles:
        folder = Path(task_folder(handle))
        with _site_errors(handle):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / _UNDER_WAY).touch(mode=0o600)
            (folder / OUTPUT).unlink(missing_ok=True)


def _discard(handles: Sequence[Handle]) -> None:
    for handle in handles:
        with contextlib.suppress(OSError):
            Path(task_folder(handle), OUTPUT).unlink()


def _arrived(handles: Sequence[Handle]) -> None:
    for handle in handles:
        with _site_errors(handle):
            Path(task_folder(handle), _UNDER_WAY).unlink(missing_ok=True)


@contextlib.contextmanager
def _site_errors(handle: Handle) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SiteError(
            f"the results stay at the site: {error}",
            hint="Make room with `%offload clean`, or see to the job folder's permissions.",
            job_id=handle.job_id,
        ) from error


def _fetched(handle: Handle, problem: str) -> Fetched:
    def path(name: str) -> str | None:
        place = Path(task_folder(handle), name)
        if not place.is_file() or place.is_symlink():
            return None
        place.chmod(0o600)
        return str(place)

    if problem == _NOT_ENDED:
        return Fetched(handle, problem=problem)
    output = None if Path(task_folder(handle), _UNDER_WAY).exists() else path(OUTPUT)
    if output is not None:
        problem = ""  # results in the folder outrank what the queue says
    elif not problem:
        problem = "the job left no output.tar"
    return Fetched(handle, output, path(OUT), path(ERR), problem)


def _piece(path: Path, offset: int, limit: int, *, end: bool) -> Chunk:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return Chunk(file.read(limit), offset, end)
    except FileNotFoundError:
        return Chunk(b"", offset, end)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
