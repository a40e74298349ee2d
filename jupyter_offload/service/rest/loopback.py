"""The loopback listener: the REST API on 127.0.0.1 for this user's own kernels, with a random token."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
from typing import Any

from tornado import httpserver, netutil, web

from jupyter_offload.errors import Unauthorized, UnknownName
from jupyter_offload.service.rest.api import Api
from jupyter_offload.service.rest.base import Logic
from jupyter_offload.service.rest.routes import PREFIX, ROUTES
from jupyter_offload.service.rest.stream import LogStreamLogic
from jupyter_offload.service.rest.upload import UploadLogic

__all__ = ["Loopback"]

CLOSE_SECONDS = 1.0


class _Guarded(Logic):
    """Refuses everybody without the token, before a body is read."""

    def prepare(self) -> Any:
        """Check the token."""
        done = super().prepare()
        _check_token(self)
        if isinstance(self, UploadLogic):
            self.begin_upload()
        return done


class _GuardedStream(LogStreamLogic):
    def prepare(self) -> Any:
        """Check the token."""
        done = super().prepare()
        _check_token(self)
        return done

    def check_origin(self, origin: str) -> bool:  # noqa: ARG002
        """Refuse browsers: their pages reach the logs through the Jupyter server."""
        return False

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer without a body."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        self.set_status(error.status if isinstance(error, Unauthorized) else status_code)
        self.finish()


class _Missing(_Guarded):
    def prepare(self) -> Any:
        """Refuse strangers first, so that they do not learn which paths there are."""
        super().prepare()
        raise UnknownName(f"there is nothing at {self.request.path}", hint="rest-api.yml lists what there is.")


def _check_token(handler: web.RequestHandler) -> None:
    expected = f"token {handler.settings['token']}".encode()
    given = handler.request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
    if not hmac.compare_digest(given, expected):
        raise Unauthorized("the token is missing or wrong", hint="Read it from the connection file again.")


def _guarded(logic: type[Logic] | type[LogStreamLogic]) -> type[web.RequestHandler]:
    guard: type = _GuardedStream if issubclass(logic, LogStreamLogic) else _Guarded
    if logic is LogStreamLogic:
        return _GuardedStream
    return type("Guarded" + logic.__name__, (guard, logic), {})


class Loopback:
    """Listens on a port of its own until `close`."""

    def __init__(self, api: Api, token: str, address: str = "127.0.0.1") -> None:
        routes = [(PREFIX + pattern, _guarded(logic)) for pattern, logic in ROUTES]
        application = web.Application(
            routes,
            offload=api,
            token=token,
            default_handler_class=_Missing,
            websocket_ping_interval=30,
            log_function=_quiet,
        )
        self._server = httpserver.HTTPServer(application, max_body_size=64 << 20, chunk_size=1 << 18)
        self._sockets = netutil.bind_sockets(0, address, family=socket.AF_INET)
        self._server.add_sockets(self._sockets)
        host, port = self._sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{port}{PREFIX}"
        """Where it listens."""

    async def close(self) -> None:
        """Stop listening and end open connections; those who wait for news (long polls) are not waited for."""
        self._server.stop()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._server.close_all_connections(), CLOSE_SECONDS)


def _quiet(handler: web.RequestHandler) -> None:
    """Log no requests: errors are logged where they happen, and paths would only say what clients poll."""
