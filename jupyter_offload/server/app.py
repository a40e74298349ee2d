"""Configures the extension: starts the service with its loopback listener, tells kernels where it is, ends it with the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir
from jupyter_server.extension.application import ExtensionApp
from traitlets import Int, Unicode

from jupyter_offload.server.events import Announcer
from jupyter_offload.server.handlers import HANDLERS
from jupyter_offload.service.assemble import Assembled, assemble
from jupyter_offload.service.connection import CONNECTION_VARIABLE
from jupyter_offload.service.rest.api import LARGEST_UPLOAD_BYTES

__all__ = ["OffloadApp"]


class OffloadApp(ExtensionApp):
    """The extension. Jobs never keep the server alive; only a transfer that is under way does."""

    name = "jupyter_offload"
    load_other_extensions = True

    listen_address = Unicode(
        "127.0.0.1",
        help="Where the kernels' listener binds. Another server on the same home but another machine can forward to this one only "
        "when it listens on an address that the other machine reaches.",
    ).tag(config=True)
    largest_upload_bytes = Int(LARGEST_UPLOAD_BYTES, help="No submission may be larger, in bytes.").tag(config=True)

    _assembled: Assembled | None = None
    _announcer: Announcer | None = None
    _opening: asyncio.Task[bool] | None = None

    def initialize_settings(self) -> None:
        """Let kernels that start from now on inherit where the service will be."""
        self._inherited = os.environ.get(CONNECTION_VARIABLE)
        self._file = Path(jupyter_runtime_dir()) / "jupyter-offload" / f"server-{os.getpid()}.json"
        os.environ[CONNECTION_VARIABLE] = str(self._file)

    def initialize_handlers(self) -> None:
        """Add the routes."""
        self.handlers.extend(HANDLERS)

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """Start the service, once the server's loop runs."""
        environ = {key: value for key, value in os.environ.items() if key != CONNECTION_VARIABLE}
        assembled = assemble(environ, self.log, address=self.listen_address)
        assembled.api.largest_upload_bytes = self.largest_upload_bytes
        self._assembled = assembled
        self._announcer = Announcer(assembled.shared, serverapp.event_logger, self.log)
        serverapp.web_app.settings.update(offload=assembled.api, offload_announcer=self._announcer)
        assembled.connection.write(self._file)
        # finding out who owns the jobs may take seconds when another machine did: calls wait for it, the server does not
        self._opening = asyncio.create_task(assembled.shared.open())
        self._opening.add_done_callback(self._opened)

    def _opened(self, opening: asyncio.Task[bool]) -> None:
        if opening.cancelled():
            return
        error = opening.exception()
        if error is not None:
            self.log.error("jupyter_offload: the service could not start: %s", error)
        elif self._announcer is not None and self._assembled is not None:
            self._announcer.follow(self._assembled.api.owner)

    def current_activity(self) -> bool | None:
        """Keep the server from being culled while a bundle or a file is on its way."""
        return self._assembled is not None and self._assembled.api.traffic.transfers > 0

    async def stop_extension(self) -> None:
        """End the service. Jobs go on."""
        if self._opening is not None:
            self._opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._opening
        if self._announcer is not None:
            await self._announcer.close()
        if self._assembled is not None:
            self._assembled.connection.remove(self._file)
            await self._assembled.close()
            self._assembled = None
        if self._inherited is None:
            os.environ.pop(CONNECTION_VARIABLE, None)
        else:
            os.environ[CONNECTION_VARIABLE] = self._inherited
