"""Following a job while it runs: its log and rich outputs, shown in the order in which they come, and never twice.

A job's standard output holds text and, between it, records of the runner: a line that begins with the character RS (0x1e) and is JSON,
after RFC 7464. Text is shown as soon as it comes; a record becomes the output it stands for.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from jupyter_offload.errors import OffloadError
from jupyter_offload.job import Kind

if TYPE_CHECKING:
    from jupyter_offload.kernel.future import Job

__all__ = ["Events", "Sink", "follow", "replay"]

_RS = b"\x1e"
_LONGEST_RECORD = 4 << 20
_WAIT_SECONDS = 0.5


class Sink(Protocol):
    """Where outputs are shown."""

    def text(self, stream: str, text: str) -> None:
        """Show printed text of ``stdout`` or ``stderr``."""
        ...

    def output(self, output: Mapping[str, Any]) -> None:
        """Show an nbformat output that is no stream."""
        ...


class Events:
    """Splits a stream into text and records, in any chunking; what is no sound record is text."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> Iterator[str | dict[str, Any]]:
        """Take bytes; yield what is complete."""
        self._buffer += data
        while self._buffer:
            start = self._buffer.find(_RS)
            if start != 0:
                plain = bytes(self._buffer if start < 0 else self._buffer[:start])
                del self._buffer[: len(plain)]
                if text := self._decoder.decode(plain):
                    yield text
                continue
            end = self._buffer.find(b"\n")
            if end < 0 and len(self._buffer) < _LONGEST_RECORD:
                return
            line = bytes(self._buffer[: end + 1] if end >= 0 else self._buffer)
            del self._buffer[: len(line)]
            record = _record(line)
            if record is not None:
                yield record
            elif text := self._decoder.decode(line):
                yield text

    def end(self) -> Iterator[str | dict[str, Any]]:
        """Yield what is left when nothing more comes."""
        rest = self._decoder.decode(bytes(self._buffer), final=True)
        self._buffer.clear()
        if rest:
            yield rest


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line[1:])
    except ValueError:
        return None
    return found if isinstance(found, dict) and "offload" in found else None


class _Stream:
    def __init__(self, name: str) -> None:
        self.name = name
        self.offset = 0
        self.ended = False
        self.events = Events()


def follow(job: Job, sink: Sink, *, rich: bool = True) -> None:
    """Show what the job prints and displays until it has ended, with nothing left out and nothing twice.

    Where the site shows no logs while a job runs, everything is shown at the end. Outputs too large for the log come from the result.
    ``rich=False`` shows text alone. Errors of the job itself are the caller's to raise.
    """
    if job.record.logs == "at_end" and not job.done():
        job.wait()
        if job.record.request.kind is not Kind.COMMAND and rich and _replayed(job, sink):
            return
    streams = [_Stream("stdout"), _Stream("stderr")]
    shown = 0

    def show(stream: _Stream, event: str | dict[str, Any]) -> None:
        nonlocal shown
        if isinstance(event, str):
            sink.text(stream.name, event)
        elif event["offload"] == "display" and rich:
            shown += 1
            output = event.get("output") or _nth_rich(job, shown - 1)
            if output and output.get("output_type") != "error":
                sink.output(output)

    while not all(stream.ended for stream in streams):
        for stream in streams:
            if not stream.ended:
                _read(job, stream, show, wait=stream.name == "stdout" or streams[0].ended)
    job.wait()


def _read(job: Job, stream: _Stream, show: Callable[[_Stream, str | dict[str, Any]], None], *, wait: bool) -> None:
    client = job._session.client  # noqa: SLF001
    ended = job.state.terminal
    piece = client.logs(
        job.id, stream.name, offset=stream.offset, wait_seconds=_WAIT_SECONDS if wait and not ended else 0
    )
    data = piece.data[max(0, stream.offset - piece.offset) :]
    stream.offset = max(stream.offset, piece.offset + len(piece.data))
    for event in stream.events.feed(data):
        show(stream, event)
    if piece.end or (ended and not piece.data):
        stream.ended = True
        for event in stream.events.end():
            show(stream, event)


def _nth_rich(job: Job, index: int) -> Mapping[str, Any] | None:
    try:
        rich = [output for output in job.outputs if output.get("output_type") != "stream"]
    except OffloadError:
        return None
    return rich[index] if index < len(rich) else None


def _replayed(job: Job, sink: Sink) -> bool:
    try:
        replay(job, sink)
    except OffloadError:
        return False
    return True


def replay(job: Job, sink: Sink) -> None:
    """Show all outputs of an ended job in the order in which they were made, but for its error. Raises `ResultUnavailable`."""
    for output in job.outputs:
        kind = output.get("output_type")
        if kind == "stream":
            text = output.get("text", "")
            sink.text(str(output.get("name", "stdout")), text if isinstance(text, str) else "".join(text))
        elif kind != "error":
            sink.output(output)
