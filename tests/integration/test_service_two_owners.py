"""Two services on one home: one owns the jobs, the other forwards to it and takes over when it dies."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
import pytest_asyncio
import tornado
from parts.jupyter_server import JupyterServer
from parts.service import Service
from parts.submissions import KEY, bundle, cell, command

API = ("offload", "api", "v1")


@pytest.fixture
def owner(tmp_path):
    part = Service(tmp_path / "owner")
    part.start()
    yield part
    part.close()


@pytest_asyncio.fixture
async def second(tmp_path, owner, monkeypatch):
    for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
        monkeypatch.setenv(f"JUPYTER_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("OFFLOAD_DATA_DIR", str(owner.data))
    monkeypatch.delenv("OFFLOAD_CONNECTION", raising=False)
    part = JupyterServer(tmp_path)
    await part.start()
    yield part
    await part.close()


async def get(server, *parts, **params):
    return json.loads((await server.fetch(*API, *parts, params=params)).body)


async def put(server, tmp_path, request, source=""):
    body = bundle(tmp_path, request, source).read_bytes()
    return await server.fetch(*API, "jobs", request.id, method="PUT", body=body)


async def ended(server, job_id):
    while (job := await get(server, "jobs", job_id))["state"] not in ("succeeded", "failed", "cancelled", "lost"):
        await asyncio.sleep(0.05)
    return job


async def test_the_second_forwards_everything_and_says_so(owner, second, tmp_path):
    health = await get(second, "health")
    assert health["forwarded_to"] == owner.connection()["url"]
    request = cell(outputs=("x",), fetch=("*.txt",))
    answer = await put(second, tmp_path, request, "print('hi')\nx = 6 * 7\nopen('a.txt', 'w').write('A' * 3_000_000)\n")
    assert answer.code == 201
    job = await ended(second, request.id)
    assert job["state"] == "succeeded", job
    assert owner.job(request.id).id == request.id
    result = await second.fetch(*API, "jobs", request.id, "result")
    assert result.headers["Offload-Key"] == KEY
    assert result.body.startswith(b"offload-bundle 1\n")
    assert result.body.endswith(b"42")
    assert (await second.fetch(*API, "jobs", request.id, "files", "a.txt")).body == b"A" * 3_000_000
    assert (await second.fetch(*API, "jobs", request.id, "logs")).body.startswith(b"hi\n")
    assert [site["name"] for site in await get(second, "sites")] == ["local"]
    checks = json.loads((await second.fetch(*API, "doctor", method="POST", body="{}")).body)["checks"]
    assert checks[-1]["name"] == "round trip"
    assert checks[-1]["ok"] is True
    shown = await second.fetch(*API, "dry-run", method="POST", body=json.dumps({"request": command("true").to_json()}))
    assert json.loads(shown.body)["site"] == "local"
    cleaned = await second.fetch(*API, "clean", method="POST", body=json.dumps({"older_than_seconds": 0}))
    assert request.id in json.loads(cleaned.body)["removed"]
    for parts in (("jobs", "nothing"), ("jobs", "nothing", "result")):
        with pytest.raises(tornado.httpclient.HTTPClientError) as caught:
            await second.fetch(*API, *parts)
        error = json.loads(caught.value.response.body)
        assert (caught.value.code, error["error"]) == (404, "UnknownName")


async def test_when_the_first_dies_the_second_takes_over_within_15_seconds(owner, second, tmp_path):
    request = command("sh", "-c", "sleep 1; echo done")
    await put(second, tmp_path, request)
    await asyncio.to_thread(owner.kill)
    begun = time.monotonic()
    job = await ended(second, request.id)  # the calls in between wait for the new owner instead of failing
    assert job["state"] == "succeeded"
    assert time.monotonic() - begun < 15
    assert (await get(second, "health"))["forwarded_to"] is None
    # and a third process that starts now finds the second
    process = owner.launch()
    await asyncio.to_thread(owner.wait_until, lambda: process.poll() is not None)
    assert process.returncode == 0
    assert (await asyncio.to_thread(owner.ask, "GET", f"/jobs/{request.id}/logs"))[1] == b"done\n"
