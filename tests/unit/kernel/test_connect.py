from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from jupyter_offload.errors import ServiceUnreachable, Unauthorized, UnknownName
from jupyter_offload.kernel import connect
from jupyter_offload.kernel.client import Client
from jupyter_offload.kernel.connect import Connection, candidates


def test_the_servers_file_comes_first(tmp_path: Path) -> None:
    named, runtime = tmp_path / "a.json", tmp_path / "run"
    environ = {"OFFLOAD_CONNECTION": str(named), "JUPYTER_RUNTIME_DIR": str(runtime)}
    assert candidates(environ) == [named, runtime / "jupyter-offload" / "service.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 1}', '{"url": "u", "token": "t", "pid": "x"}'])
def test_a_file_that_is_none_of_ours_is_no_connection(tmp_path: Path, text: str) -> None:
    path = tmp_path / "service.json"
    path.write_text(text)
    assert Connection.read(path) is None


def test_a_token_never_shows() -> None:
    assert "s3cr3t" not in repr(Connection("http://x", "s3cr3t", 1))


def test_a_service_that_cannot_start_is_told_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no module named tornado' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(ServiceUnreachable, match="no module named tornado"):
        connect.start_headless({"JUPYTER_RUNTIME_DIR": str(tmp_path)}, answers=lambda _: False, seconds=5)


class Faulty(HTTPServer):
    """A service that misbehaves as it is told: a real one cannot be made to."""

    plan: list[str]
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Faulty

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer()

    do_DELETE = do_GET

    def answer(self) -> None:
        if self.path.endswith("/health"):
            self.reply(200, {"version": "x"})
            return
        self.server.asked.append(f"{self.command} {self.path}")
        step = self.server.plan.pop(0)
        if step == "drop":
            self.close_connection = True
            self.connection.close()
        elif step == "refuse":
            self.reply(
                403, {"error": "Unauthorized", "message": "wrong token", "hint": "h", "job_id": None, "details": {}}
            )
        elif step == "unknown":
            self.reply(
                404, {"error": "UnknownName", "message": "no job 'x'", "hint": "list", "job_id": None, "details": {}}
            )
        else:
            self.reply(200, {"sites": [], "removed": [], "bytes": 0})

    def reply(self, status: int, data: object) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[tuple[Faulty, Client]]:
    server = Faulty(("127.0.0.1", 0), Handler)
    server.plan, server.asked = [], []
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    path = tmp_path / "jupyter-offload" / "service.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"url": f"http://127.0.0.1:{server.server_port}/api", "token": "t", "pid": 1}))
    yield server, Client({"JUPYTER_RUNTIME_DIR": str(tmp_path)}, start=False)
    server.shutdown()
    server.server_close()
    thread.join()


def test_reading_is_repeated_after_the_connection_broke(faulty: tuple[Faulty, Client]) -> None:
    server, client = faulty
    server.plan = ["drop", "drop", "ok"]
    assert client.sites() == []
    assert len(server.asked) == 3


def test_what_is_not_safe_is_sent_once(faulty: tuple[Faulty, Client]) -> None:
    server, client = faulty
    server.plan = ["drop", "ok"]
    with pytest.raises(ServiceUnreachable):
        client.clean()
    assert len(server.asked) == 1


def test_a_new_token_is_looked_for_once(faulty: tuple[Faulty, Client]) -> None:
    server, client = faulty
    server.plan = ["refuse", "ok"]
    assert client.sites() == []
    server.plan = ["refuse", "refuse"]
    with pytest.raises(Unauthorized):
        client.sites()


def test_errors_keep_their_type_and_hint(faulty: tuple[Faulty, Client]) -> None:
    server, client = faulty
    server.plan = ["unknown"]
    with pytest.raises(UnknownName) as caught:
        client.delete("a/b c")
    assert caught.value.hint == "list"
    assert server.asked == ["DELETE /api/jobs/a%2Fb%20c"]


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnreachable, match="no service runs"):
        Client({"JUPYTER_RUNTIME_DIR": str(tmp_path)}, start=False).sites()
