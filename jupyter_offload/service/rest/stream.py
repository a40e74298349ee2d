"""WebSocket of a container's two streams: resumes by offset, and never holds more than a few messages for a slow reader."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from typing import Any

from tornado import websocket

from jupyter_offload.errors import OffloadError, UsageError
from jupyter_offload.service.rest.api import Api

__all__ = ["LogStreamLogic"]

STREAMS = ("stdout", "stderr")
CHUNK_BYTES = 64 << 10
WAIT_SECONDS = 20.0
SLOW_SECONDS = 30.0
"""A reader that does not take a message for so long is dropped; it can come back with the offsets that it has."""


class LogStreamLogic(websocket.WebSocketHandler):
    """``/jobs/{id}/logs/stream``: messages ``{"stream", "offset", "data", "end"}``, ``data`` in base64 because it is raw bytes."""

    _readers: list[asyncio.Task[None]]

    @property
    def api(self) -> Api:
        """What the handlers of this process share."""
        api: Api = self.settings["offload"]
        return api

    @property
    def owner(self) -> str:
        """Whose jobs the caller sees."""
        return self.api.owner

    async def open(self, job_id: str) -> None:
        """Begin to send, from the offsets that the caller has."""
        self.api.traffic.begun()
        self._readers = []
        try:
            task = self._whole("task")
            offsets = {stream: self._whole(f"offset_{stream}") for stream in STREAMS}
            job = await self.api.service.job(self.owner, job_id)
        except OffloadError as error:
            await self._fail(error)
            return
        container = self.get_query_argument("container", "main")
        self._readers = [
            asyncio.create_task(self._read(job.id, task, container, stream, offset))
            for stream, offset in offsets.items()
        ]
        asyncio.get_running_loop().create_task(self._finish())

    def _whole(self, name: str) -> int:
        text = self.get_query_argument(name, "0")
        if not (text.isascii() and text.isdigit() and len(text) < 18):
            raise UsageError(f"{name}={text!r} is not a whole number", hint=f"Such as {name}=0.")
        return int(text)

    async def _read(self, job_id: str, task: int, container: str, stream: str, offset: int) -> None:
        end = False
        try:
            while not end:
                chunk = await self.api.service.logs(
                    self.owner, job_id, task=task, container=container, stream=stream,
                    offset=offset, limit=CHUNK_BYTES, wait_seconds=WAIT_SECONDS,
                )  # fmt: skip
                end = chunk.end
                if chunk.data or end:
                    offset = chunk.offset + len(chunk.data)
                    # one message is under way per stream: nothing queues up behind a slow reader
                    await asyncio.wait_for(self._send(stream, chunk.offset, chunk.data, end=end), SLOW_SECONDS)
        except OffloadError as error:
            await self._fail(error)
        except asyncio.TimeoutError:
            self.close(1013, f"too slow: resume {stream} at {offset}")
        except websocket.WebSocketClosedError:
            return

    async def _send(self, stream: str, offset: int, data: bytes, *, end: bool) -> None:
        message = {"stream": stream, "offset": offset, "data": base64.b64encode(data).decode("ascii"), "end": end}
        await self.write_message(json.dumps(message))

    async def _finish(self) -> None:
        await asyncio.gather(*self._readers, return_exceptions=True)
        self.close(1000, "end")

    async def _fail(self, error: OffloadError) -> None:
        with contextlib.suppress(websocket.WebSocketClosedError):
            await self.write_message(json.dumps(error.to_json()))
        self.close(1011 if error.status >= 500 else 1008, type(error).__name__)

    def on_message(self, message: Any) -> None:
        """Nothing is expected from the reader."""

    def on_close(self) -> None:
        """Stop reading."""
        for reader in getattr(self, "_readers", ()):
            reader.cancel()
        if hasattr(self, "_readers"):
            self.api.traffic.ended()
