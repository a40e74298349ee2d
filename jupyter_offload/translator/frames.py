r"""Reading what a job script writes to its standard output: pieces of logs and statuses, in frames.

::

    \x1e{"c":"<container>","s":"stdout|stderr","o":<offset>,"n":<bytes>,"t":<epoch seconds>}\n<n raw bytes>\n
    \x1e{"status": {…}}\n

The stream may be cut anywhere, come in any pieces and hold garbage (a batch system's own words): what is not a frame is skipped, up to
the next header that can be read. A log frame is handed on as its bytes arrive, with the right offset for each piece.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Frame", "FrameParser", "LogFrame", "StatusFrame"]

_MARK = b"\x1e"
_HEADER_LIMIT = 1 << 20
"""A longer header is garbage."""


@dataclass(frozen=True)
class LogFrame:
    """A piece of a container's log."""

    container: str
    stream: str
    """``stdout`` or ``stderr``."""
    offset: int
    """Where ``data`` begins in the log file."""
    data: bytes
    time: float
    """When the script saw it, seconds since the epoch."""


@dataclass(frozen=True)
class StatusFrame:
    """The script's status at that moment, as in status.json."""

    status: dict[str, Any]


Frame = LogFrame | StatusFrame


class FrameParser:
    """Feed it bytes in any pieces; it gives frames as soon as they are there. Never raises on any input."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._log: LogFrame | None = None  # the log frame that we are inside of; offset and data: its next piece
        self._left = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that these further bytes complete or continue."""
        self._buffer += data
        return list(self._frames())

    def _frames(self) -> Iterator[Frame]:
        while self._buffer:
            if self._log is not None:
                yield self._piece(self._log)
                continue
            header = self._next_header()
            if header is None:
                return
            frame = self._understand(header)
            if frame is not None:
                yield frame

    def _piece(self, log: LogFrame) -> LogFrame:
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: len(piece)]
        self._left -= len(piece)
        self._log = replace(log, offset=log.offset + len(piece)) if self._left else None
        return replace(log, data=piece)

    def _next_header(self) -> bytes | None:
        """Return what stands between the next mark and the end of its line, or ``None`` when that has not arrived yet."""
        while True:
            start = self._buffer.find(_MARK)
            if start < 0:
                self._buffer.clear()
                return None
            del self._buffer[:start]
            end = self._buffer.find(b"\n", 1)
            again = self._buffer.find(_MARK, 1, end if end > 0 else len(self._buffer))
            if again > 0:  # a header holds no mark: the first one was garbage
                del self._buffer[:again]
                continue
            if end < 0:
                if len(self._buffer) > _HEADER_LIMIT:
                    self._buffer.clear()
                return None
            header = bytes(self._buffer[1:end])
            del self._buffer[: end + 1]
            return header

    def _understand(self, header: bytes) -> StatusFrame | None:
        """Return a status, or remember the log frame that begins here, or do nothing with garbage."""
        try:
            value = json.loads(header)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict):
            return None
        status = value.get("status")
        if isinstance(status, dict):
            return StatusFrame(status)
        container, stream, time = value.get("c"), value.get("s"), value.get("t")
        offset, size = _count(value.get("o")), _count(value.get("n"))
        if not isinstance(container, str) or stream not in ("stdout", "stderr") or offset is None or not size:
            return None
        if isinstance(time, int | float) and math.isfinite(time):
            self._log, self._left = LogFrame(container, stream, offset, b"", float(time)), size
        return None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else None
