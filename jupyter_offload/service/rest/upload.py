"""PUT of a submission: streamed to a private file as it arrives, so that its size does not matter to memory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import IO, Any

from tornado import web

from jupyter_offload.errors import LimitExceeded, UsageError
from jupyter_offload.quantity import show_bytes
from jupyter_offload.service.rest import wire
from jupyter_offload.service.rest.handlers import JobLogic

__all__ = ["UploadLogic"]

_ID = re.compile(r"[0-9a-f]{32}")


@web.stream_request_body
class UploadLogic(JobLogic):
    """``/jobs/{id}``. A class that is mixed in before it must have refused strangers in ``prepare``, before the body arrives."""

    _file: IO[bytes] | None = None
    _path: Path | None = None
    _received = 0

    def begin_upload(self) -> None:
        """Open the file, once it is known that the caller may write. Raises `UsageError`."""
        if self.request.method != "PUT":
            return
        if _ID.fullmatch(self.path_args[0]) is None:
            raise UsageError(
                f"{self.path_args[0]!r} is not a job id", hint="A submission needs a new UUID, 32 hexadecimal digits."
            )
        limit = self.api.largest_upload_bytes
        connection: Any = self.request.connection
        connection.set_max_body_size(limit)
        length = self.request.headers.get("Content-Length", "0")
        if length.isdigit() and int(length) > limit:
            raise LimitExceeded(
                f"the job would ship {show_bytes(int(length))}, this service takes {show_bytes(limit)}",
                hint="Ship less with -i, or let the job read its data where it runs.",
            )
        self._path = self.api.new_upload()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self.api.traffic.transfers += 1

    def data_received(self, chunk: bytes) -> None:
        """Write what arrives; the operating system's cache takes it, so that the loop does not wait for the disk."""
        if self._file is not None:
            self._received += len(chunk)
            self._file.write(chunk)

    async def put(self, job_id: str) -> None:
        """Take the submission."""
        again, reuse = self.flag("again"), self.flag("reuse")
        path = self._path
        if self._file is None or path is None:
            raise UsageError("there is no body", hint="Send the bundle as the request's body.")
        self._close()
        self._path = None
        accepted = await self.service.submit(self.owner, job_id, path, again=again, reuse=reuse)
        self.answer(wire.from_accepted(accepted), 201 if accepted.created else 200)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self.api.traffic.transfers -= 1

    def on_finish(self) -> None:
        """Remove what was received in vain."""
        self._drop()
        super().on_finish()

    def on_connection_close(self) -> None:
        """Remove what was received when the caller went away in the middle."""
        self._drop()
        super().on_connection_close()

    def _drop(self) -> None:
        self._close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
