"""The live copy of a running task's logs: frames of the job script's standard output, one file per container and stream.

Frames carry the raw stream's offset, so that reading them again (after a restart of the service) writes the same bytes to the same
places. When a task starts again after an eviction its output begins anew, and so do the copies. What the task brings back in the end
replaces them.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from jupyter_offload.sites.base import LogChunk
from jupyter_offload.translator.frames import FrameParser, LogFrame, StatusFrame

__all__ = ["LogMirror", "log_file", "read_file"]

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_STREAMS = ("stdout", "stderr")

ReadOut = Callable[[int], Awaitable[tuple[bytes, int]]]
"""Returns new bytes of the script's standard output from an offset, and the offset where they begin (lower: the file began anew)."""


def log_file(task_folder: Path, container: str, stream: str) -> Path | None:
    """Return where a container's stream is kept, or None when the names cannot be those of a container and stream."""
    if _NAME.fullmatch(container) is None or stream not in _STREAMS:
        return None
    return task_folder / "logs" / f"{container}.{stream}"


class LogMirror:
    """The live copy for one task. Not for use by two coroutines without `refresh`, which takes turns by itself."""

    def __init__(self, task_folder: Path, read_out: ReadOut) -> None:
        self._folder = task_folder
        self._read_out = read_out
        self._parser = FrameParser()
        self._offset = 0
        self._turn = asyncio.Lock()
        self.status: Mapping[str, Any] | None = None
        """The newest ``status.json`` seen in the frames."""

    async def refresh(self) -> None:
        """Bring the copies up to date with what the script has written so far."""
        async with self._turn:
            while True:
                data, offset = await self._read_out(self._offset)
                if offset < self._offset:
                    self._parser, self._offset, self.status = FrameParser(), offset, None
                    await asyncio.to_thread(self._begin_anew)
                if not data:
                    return
                self._offset = offset + len(data)
                await asyncio.to_thread(self._write, data)

    def _begin_anew(self) -> None:
        for path in (self._folder / "logs").glob("*.std*"):
            os.truncate(path, 0)

    def _write(self, data: bytes) -> None:
        for frame in self._parser.feed(data):
            if isinstance(frame, StatusFrame):
                self.status = frame.status
            elif isinstance(frame, LogFrame):
                path = log_file(self._folder, frame.container, frame.stream)
                if path is not None:
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
                    try:
                        if frame.offset <= os.fstat(descriptor).st_size:
                            os.pwrite(descriptor, frame.data, frame.offset)
                    finally:
                        os.close(descriptor)


def read_file(path: Path | None, offset: int, limit: int, *, end: bool) -> LogChunk:
    """Return at most ``limit`` bytes of a copy from ``offset``; ``end`` says whether more can come."""
    if path is None or not path.is_file():
        return LogChunk(b"", offset, end)
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        start = min(offset, size)
        stream.seek(start)
        data = stream.read(limit)
    return LogChunk(data, start, end and start + len(data) >= size)
