"""The extension inside a real Jupyter server, over the real local site."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from pathlib import Path

import pytest
import pytest_asyncio
import tornado
from jupyter_server.auth import Authorizer
from jupyter_server.auth.identity import IdentityProvider, User
from parts.jupyter_server import JupyterServer
from parts.submissions import bundle, command

from jupyter_offload.job import new_id
from jupyter_offload.server.events import SCHEMA
from jupyter_offload.server.handlers import HANDLERS
from jupyter_offload.service.connection import Connection

API = ("offload", "api", "v1")


@pytest_asyncio.fixture
async def server(tmp_path, monkeypatch):
    for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
        monkeypatch.setenv(f"JUPYTER_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("OFFLOAD_DATA_DIR", str(tmp_path / "offload"))
    for name in ("OFFLOAD_CONFIG", "OFFLOAD_CONNECTION", "JUPYTERHUB_USER"):
        monkeypatch.delenv(name, raising=False)
    part = JupyterServer(tmp_path)
    await part.start()
    yield part
    await part.close()


@pytest_asyncio.fixture
async def extension(server):
    (found,) = server.app.extension_manager.extension_apps["jupyter_offload.server"]
    while found._opening is None or not found._opening.done():
        await asyncio.sleep(0.01)
    return found


@pytest.fixture
def jp_serverapp(server):
    return server.app


@pytest.fixture
def jp_fetch(server):
    return server.fetch


@pytest.fixture
def jp_ws_fetch(server):
    return server.socket


async def put(jp_fetch, tmp_path, request, **params):
    path = bundle(tmp_path, request)
    return await jp_fetch(*API, "jobs", request.id, method="PUT", body=path.read_bytes(), params=params)


async def ended(jp_fetch, job_id):
    since = 0
    while True:
        answer = await jp_fetch(*API, "jobs", params={"since": since, "wait": 5})
        listing = json.loads(answer.body)
        since = listing["revision"]
        for job in listing["jobs"]:
            if job["id"] == job_id and job["state"] in ("succeeded", "failed", "cancelled", "lost"):
                return job


async def refused(answer) -> tuple[int, dict]:
    with pytest.raises(tornado.httpclient.HTTPClientError) as caught:
        await answer
    return caught.value.code, json.loads(caught.value.response.body)


async def test_a_job_from_put_to_files(extension, jp_fetch, tmp_path):
    request = command("sh", "-c", "echo hello; echo 42 > 'a b.txt'", fetch=("*.txt",))
    answer = await put(jp_fetch, tmp_path, request)
    assert answer.code == 201
    assert json.loads(answer.body)["twin"] is False
    assert (await put(jp_fetch, tmp_path, request)).code == 200  # the same again
    job = await ended(jp_fetch, request.id)
    assert job["state"] == "succeeded", job
    logs = await jp_fetch(*API, "jobs", request.id, "logs")
    assert (logs.body, logs.headers["Offload-End"], logs.headers["Content-Type"]) == (
        b"hello\n",
        "true",
        "application/octet-stream",
    )
    files = await jp_fetch(*API, "jobs", request.id, "files")
    assert json.loads(files.body) == [{"path": "a b.txt", "size": 3}]
    one = await jp_fetch(*API, "jobs", request.id, "files", "a%20b.txt")
    assert one.body == b"42\n"
    assert one.headers["Content-Disposition"] == "attachment"
    code, error = await refused(jp_fetch(*API, "jobs", request.id, "result"))
    assert (code, error["error"]) == (404, "ResultUnavailable")
    assert (await jp_fetch(*API, "jobs", request.id, method="DELETE")).code == 204
    code, error = await refused(jp_fetch(*API, "jobs", request.id))
    assert (code, error["error"]) == (404, "UnknownName")
    assert error["hint"]


async def test_kernels_inherit_the_connection_and_see_the_same_jobs(extension, jp_fetch, tmp_path):
    path = Path(os.environ["OFFLOAD_CONNECTION"])
    assert path.stat().st_mode & 0o777 == 0o600
    connection = Connection.read(path)
    request = command("true")
    await put(jp_fetch, tmp_path, request)
    client = tornado.httpclient.AsyncHTTPClient(force_instance=True)
    answer = await client.fetch(
        f"{connection.url}/jobs/{request.id}", headers={"Authorization": f"token {connection.token}"}
    )
    assert json.loads(answer.body)["id"] == request.id
    for headers in ({}, {"Authorization": "token x"}, {"Authorization": f"Bearer {connection.token}"}):
        for tail in ("/health", "/nothing", f"/jobs/{request.id}/logs/stream"):
            answer = await client.fetch(connection.url + tail, headers=headers, raise_error=False)
            assert answer.code == 403
    await extension.stop_extension()
    assert not path.exists()
    assert "OFFLOAD_CONNECTION" not in os.environ


def every_verb():
    for pattern, handler in HANDLERS:
        path = re.sub(r"\([^)]*\)", "x", pattern)
        for cls in handler.__mro__:
            if cls.__module__ == "jupyter_offload.server.handlers":
                for verb in {"get", "put", "post", "delete"} & set(vars(cls)):
                    yield verb.upper(), path


VERBS = sorted(set(every_verb()))


def test_there_are_verbs_to_refuse():
    assert len(VERBS) == 16


async def _code(server, verb, path, headers):
    body = b"{}" if verb in ("PUT", "POST") else None
    try:
        answer = await server.get(
            server.base.rstrip("/") + path,
            method=verb,
            body=body,
            headers=headers,
            raise_error=False,
            follow_redirects=False,
        )
    except tornado.httpclient.HTTPClientError as error:
        return error.code
    return answer.code


async def test_every_verb_refuses_strangers(extension, server):
    codes = {(verb, path): await _code(server, verb, path, {}) for verb, path in VERBS}
    assert set(codes.values()) == {403}, codes


class Nobody(Authorizer):
    asked: list = []  # noqa: RUF012

    def is_authorized(self, handler, user, action, resource):
        self.asked.append((handler.request.method, action, resource))
        return resource != "offload"


async def test_every_verb_refuses_the_unauthorized(extension, jp_serverapp, server):
    jp_serverapp.web_app.settings["authorizer"] = Nobody(parent=jp_serverapp)
    codes = {(verb, path): await _code(server, verb, path, server.auth) for verb, path in VERBS}
    assert set(codes.values()) == {403}, codes
    assert {action for method, action, _ in Nobody.asked if method in ("PUT", "POST", "DELETE")} <= {"write", "execute"}


class People(IdentityProvider):
    def get_user(self, handler):
        name = handler.request.headers.get("X-Person")
        return User(username=name) if name else None

    def should_check_origin(self, handler):
        return False


async def test_people_see_their_own_jobs_alone(extension, jp_serverapp, server, tmp_path):
    jp_serverapp.web_app.settings["identity_provider"] = People(parent=jp_serverapp)
    request = command("true")
    url = server.base.rstrip("/") + f"/offload/api/v1/jobs/{request.id}"
    body = bundle(tmp_path, request).read_bytes()
    ann, bob = {"X-Person": "ann"}, {"X-Person": "bob"}
    jp_serverapp.web_app.settings["disable_check_xsrf"] = True
    assert (await server.get(url, method="PUT", body=body, headers=ann)).code == 201
    assert (await server.get(url, headers=ann)).code == 200
    assert (await server.get(url, headers=bob, raise_error=False)).code == 404
    assert (await server.get(url, method="PUT", body=body, headers=bob, raise_error=False)).code == 409
    health = await server.get(server.base.rstrip("/") + "/offload/api/v1/health", headers=ann)
    assert json.loads(health.body)["owner"] == "ann"


async def test_paths_do_not_escape(extension, jp_fetch, tmp_path):
    request = command("sh", "-c", "echo 1 > out; ln -s /etc/passwd link", fetch=("out", "link"))
    await put(jp_fetch, tmp_path, request)
    await ended(jp_fetch, request.id)
    for path in ("..%2F..%2Fjob.json", "..%2fjob.json", "%2Fetc%2Fpasswd", "link", ".offload%2Fresult", "out%00"):
        code, _ = await refused(jp_fetch(*API, "jobs", request.id, "files", path))
        assert code in (400, 404)
    for job in ("..", "%2e%2e", "..%2F..%2Fx"):
        code, _ = await refused(jp_fetch(*API, "jobs", job, "files"))
        assert code in (400, 404)


async def test_a_large_upload_goes_to_disk_and_a_too_large_one_is_refused_early(extension, jp_fetch, tmp_path):
    extension._assembled.api.largest_upload_bytes = 5_000_000
    code, error = await refused(jp_fetch(*API, "jobs", new_id(), method="PUT", body=b"x" * 6_000_000))
    assert (code, error["error"]) == (422, "LimitExceeded")
    assert list((tmp_path / "offload" / "incoming").iterdir()) == []
    code, error = await refused(jp_fetch(*API, "jobs", new_id(), method="PUT", body=b"x" * 4_000_000))
    assert (code, error["error"]) == (400, "UsageError")
    assert list((tmp_path / "offload" / "incoming").iterdir()) == []
    assert extension.current_activity() is False


async def test_only_a_transfer_keeps_the_server_alive(extension, jp_fetch, tmp_path, jp_serverapp):
    before = jp_serverapp.web_app.settings.get("api_last_activity")
    request = command("sleep", "60")
    await put(jp_fetch, tmp_path, request)
    assert extension.current_activity() is False
    with extension._assembled.api.traffic.transfer():
        assert extension.current_activity() is True
    await jp_fetch(*API, "jobs")
    assert jp_serverapp.web_app.settings.get("api_last_activity") == before
    await jp_fetch(*API, "jobs", request.id, "cancel", method="POST", body="{}")
    assert (await ended(jp_fetch, request.id))["state"] == "cancelled"


async def test_changes_are_events(extension, jp_fetch, tmp_path, jp_serverapp):
    seen = []

    async def listener(logger, schema_id, data):
        seen.append(data)

    jp_serverapp.event_logger.add_listener(schema_id=SCHEMA, listener=listener)
    request = command("true")
    await put(jp_fetch, tmp_path, request)
    await ended(jp_fetch, request.id)
    await jp_fetch(*API, "jobs", request.id, method="DELETE")
    for _ in range(500):
        if any(event["change"] == "deleted" for event in seen):
            break
        await asyncio.sleep(0.01)
    mine = [event for event in seen if event["job"] == request.id]
    assert mine[-1]["change"] == "deleted"
    assert "succeeded" in [event.get("state") for event in mine]
    assert [event["revision"] for event in mine] == sorted(event["revision"] for event in mine)
    assert set().union(*(set(event) for event in mine)) <= {"revision", "job", "change", "state"}


async def messages(socket):
    received = []
    while (text := await asyncio.wait_for(socket.read_message(), 20)) is not None:
        received.append(json.loads(text))
    socket.close()
    return received


async def test_the_socket_resumes_by_offset_and_ends(extension, jp_fetch, jp_ws_fetch, tmp_path):
    request = command("sh", "-c", "echo one; sleep 0.5; echo two; echo three >&2")
    await put(jp_fetch, tmp_path, request)
    socket = await jp_ws_fetch(*API, "jobs", request.id, "logs", "stream")
    received = await messages(socket)
    text = {
        stream: b"".join(base64.b64decode(m["data"]) for m in received if m["stream"] == stream)
        for stream in ("stdout", "stderr")
    }
    assert text == {"stdout": b"one\ntwo\n", "stderr": b"three\n"}
    assert sum(m["end"] for m in received) == 2
    socket = await jp_ws_fetch(
        *API, "jobs", request.id, "logs", "stream", params={"offset_stdout": 4, "offset_stderr": 6}
    )
    received = await messages(socket)
    assert [(m["stream"], m["offset"], base64.b64decode(m["data"])) for m in received if m["data"]] == [
        ("stdout", 4, b"two\n")
    ]


async def test_the_socket_tells_what_is_wrong(extension, jp_ws_fetch):
    received = await messages(await jp_ws_fetch(*API, "jobs", "nothing", "logs", "stream"))
    assert received[0]["error"] == "UnknownName"


async def test_bad_parameters_are_named(extension, jp_fetch, tmp_path):
    for params in ({"since": "x"}, {"wait": "-1"}, {"wait": "nan"}, {"state": "good"}, {"limit": "0"}):
        code, error = await refused(jp_fetch(*API, "jobs", params=params))
        assert (code, error["error"]) == (400, "UsageError"), params
        assert next(iter(params.values())) in error["message"]
    for body in ("[", "[]", '{"request": 1}', '{"request": {}}'):
        code, error = await refused(jp_fetch(*API, "dry-run", method="POST", body=body))
        assert (code, error["error"]) == (400, "UsageError"), body


async def test_a_dry_run_shows_manifest_and_script_and_submits_nothing(extension, jp_fetch):
    request = command("echo", "$HOME", name="look")
    answer = await jp_fetch(*API, "dry-run", method="POST", body=json.dumps({"request": request.to_json()}))
    shown = json.loads(answer.body)
    assert shown["site"] == "local"
    assert "kind: Pod" in shown["manifest"]
    assert shown["script"].startswith("#!")
    assert json.loads((await jp_fetch(*API, "jobs")).body)["jobs"] == []
    translated = await jp_fetch(*API, "translate", method="POST", body=json.dumps({"manifest": shown["manifest"]}))
    assert json.loads(translated.body)["script"].startswith("#!")
    code, error = await refused(jp_fetch(*API, "translate", method="POST", body=json.dumps({"manifest": "kind: Job"})))
    assert (code, error["error"]) == (422, "ManifestError")
