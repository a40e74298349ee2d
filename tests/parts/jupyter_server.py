"""A real Jupyter server in the test's own event loop, with this project's extension; on a port of its own."""

from __future__ import annotations

import logging
import urllib.parse
from pathlib import Path
from typing import Any

from jupyter_server.serverapp import ServerApp
from tornado import httpclient, httpserver, httputil, netutil, websocket
from traitlets.config import Config

BASE = "/a%40b/"
TOKEN = "a-token-of-the-test"


class JupyterServer:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.base = BASE
        self.auth = {"Authorization": f"token {TOKEN}"}
        self._client = httpclient.AsyncHTTPClient(force_instance=True)

    async def start(self) -> ServerApp:
        ServerApp.clear_instance()
        (self.root / "notebooks").mkdir()
        config = Config({"ServerApp": {"jpserver_extensions": {"jupyter_offload.server": True}}})
        config.NotebookNotary.db_file = ":memory:"
        config.IdentityProvider.token = TOKEN
        self.app = ServerApp.instance(
            log_level="INFO", port=0, open_browser=False, base_url=BASE, allow_root=True,
            root_dir=str(self.root / "notebooks"), config=config,
        )  # fmt: skip
        self.app.init_signal = lambda: None
        self.app.initialize(argv=[], new_httpserver=False)
        self.app.log.handlers = [
            handler for handler in self.app.log.handlers if not isinstance(handler, logging.StreamHandler)
        ]
        self.app.start_app()
        await self.app._post_start()
        sockets = netutil.bind_sockets(0, "127.0.0.1")
        self.http = httpserver.HTTPServer(self.app.web_app)
        self.http.add_sockets(sockets)
        self.origin = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        return self.app

    async def close(self) -> None:
        self._client.close()
        self.http.stop()
        await self.http.close_all_connections()
        await self.app._cleanup()
        ServerApp.clear_instance()

    async def get(self, path: str, **options: Any) -> httpclient.HTTPResponse:
        """Ask for a path below the server's origin, as nobody."""
        return await self._client.fetch(self.origin + path, request_timeout=30, **options)

    def url(self, parts: tuple[str, ...], params: dict[str, Any] | None) -> str:
        return self.origin + BASE + "/".join(parts) + ("?" + urllib.parse.urlencode(params) if params else "")

    async def fetch(self, *parts: str, params: dict[str, Any] | None = None, **options: Any) -> httpclient.HTTPResponse:
        """Ask as the server's user."""
        return await self._client.fetch(self.url(parts, params), headers=self.auth, request_timeout=30, **options)

    async def socket(self, *parts: str, params: dict[str, Any] | None = None) -> websocket.WebSocketClientConnection:
        url = self.url(parts, params).replace("http", "ws", 1)
        return await websocket.websocket_connect(httpclient.HTTPRequest(url, headers=httputil.HTTPHeaders(self.auth)))
