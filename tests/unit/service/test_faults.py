"""One faulty part: what of it is told to whom, and that all others go on."""

from __future__ import annotations

import importlib.util
import json
import logging

import pytest
from parts.memory_site import MemorySite
from parts.submissions import command
from tornado.httpclient import AsyncHTTPClient

from jupyter_offload.errors import CapabilityMissing, SiteUnreachable
from jupyter_offload.job import State
from jupyter_offload.service import local
from jupyter_offload.service.assemble import entries
from jupyter_offload.service.folders import Folders
from jupyter_offload.service.local import Local
from jupyter_offload.service.rest.api import Api
from jupyter_offload.service.rest.loopback import Loopback
from jupyter_offload.service.siteview import SiteEntry, Unbuilt
from jupyter_offload.sites import build
from jupyter_offload.sites.base import Check
from jupyter_offload.sites.schema import SitesConfig

POOL = {"batch": {"type": "condor", "collector": "cm.example.org", "schedd": "submit.example.org"}}
MISSING = CapabilityMissing("site pool needs HTCondor's Python bindings", hint="Install them.")


def two_sites(tmp_path):
    folders = Folders(tmp_path / "two")
    folders.make()
    config = SitesConfig(default="pool", sites={"pool": POOL, "here": {"batch": {"type": "local"}}})
    return entries(config, folders, logging.getLogger("test"))


def test_a_site_without_its_extra_takes_no_other_site_away(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "htcondor2" else find(name))
    found = two_sites(tmp_path)
    assert list(found) == ["pool", "here"]
    assert isinstance(found["pool"], Unbuilt)
    assert "pip install" in found["pool"].error.hint
    assert isinstance(found["here"], SiteEntry)


def test_a_site_that_fails_in_a_way_of_its_own_takes_no_other_site_away(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("libclassad.so: cannot open shared object file")

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(build, "CondorBatch", broken)
    found = two_sites(tmp_path)
    assert "libclassad.so" in found["pool"].error.message
    assert isinstance(found["here"], SiteEntry)


async def test_a_site_that_cannot_be_set_up_says_so_to_whoever_asks_for_it(bench):
    await bench.service.close()
    bench.service = await Local.open(bench.folders, {"pool": Unbuilt(MISSING), "mem": SiteEntry(bench.site)}, "pool")
    pool, mem = await bench.service.sites("ann")
    assert (pool.name, pool.default, pool.state, pool.error["message"]) == ("pool", True, "error", MISSING.message)
    assert pool.error["hint"] == "Install them."
    assert mem.state == "ok"
    for site in ("pool", None):
        with pytest.raises(CapabilityMissing, match="Python bindings"):
            await bench.submit(command("true", site=site))
    assert list(bench.folders.jobs.iterdir()) == []
    checks = [check async for check in bench.service.doctor("ann", "pool")]
    assert (checks[-1].ok, checks[-1].detail, checks[-1].hint) == (False, MISSING.message, "Install them.")
    request = command("true", site="mem")
    await bench.submit(request)
    await bench.until(request.id, State.QUEUED)


async def test_jobs_of_a_site_that_cannot_be_set_up_now_stay_as_they_are(bench):
    request = command("true")
    await bench.submit(request)
    await bench.until(request.id, State.QUEUED)
    await bench.service.close()
    bench.service = await Local.open(bench.folders, {"mem": Unbuilt(MISSING)}, "mem")
    with pytest.raises(CapabilityMissing):  # it may run there, and nobody could end it
        await bench.service.cancel("ann", request.id)
    assert (await bench.service.job("ann", request.id)).state is State.QUEUED
    await bench.restart()
    bench.site.finish(request.id)
    assert (await bench.until(request.id)).state is State.SUCCEEDED


# -- the doctor ----------------------------------------------------------------------------------------------------------------------


class Faulty(MemorySite):
    error: Exception = RuntimeError("a fault of ours")

    async def checks(self):
        yield Check("memory", ok=True, detail="there is some")
        raise self.error


@pytest.mark.parametrize(
    ("error", "words", "hint"),
    [
        (RuntimeError("a fault of ours"), "a fault of ours", "See the service's log."),
        (SiteUnreachable("no route to host", hint="Plug it in."), "no route to host", "Plug it in."),
    ],
)
async def test_checks_that_break_off_are_a_broken_link(bench, error, words, hint):
    bench.site = Faulty()
    bench.site.error = error
    await bench.restart()
    checks = [check async for check in bench.service.doctor("ann")]
    assert [(check.name, check.ok) for check in checks[1:]] == [
        ("memory", True),
        ("checks of site mem", False),
        ("round trip", None),
    ]
    assert words in checks[2].detail
    assert checks[2].hint == hint


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_a_doctor_that_breaks_off_does_not_end_well_for_its_caller(bench, tmp_path, accept):
    async def doctor(owner, site):
        yield Check("memory", ok=True, detail=f"{owner}, {site}")
        raise RuntimeError("a fault of ours")

    bench.service.doctor = doctor
    loopback = Loopback(Api(bench.service, "ann", lambda: tmp_path / "upload"), "secret")
    try:
        answer = await AsyncHTTPClient().fetch(
            f"{loopback.url}/doctor",
            method="POST",
            body="{}",
            headers={"Authorization": "token secret", "Accept": accept},
        )
    finally:
        await loopback.close()
    said = answer.body.decode()
    checks = json.loads(said)["checks"] if accept.endswith("/json") else [json.loads(x) for x in said.splitlines()]
    assert [check["ok"] for check in checks] == [True, False]
    assert checks[1]["name"] == "doctor"
    assert "a fault of ours" in checks[1]["detail"]
    assert checks[1]["hint"]


# -- retention -----------------------------------------------------------------------------------------------------------------------


async def test_retention_goes_on_after_a_round_that_failed(bench, monkeypatch, caplog):
    rounds = []

    def choose(*_, **__):
        rounds.append(None)
        raise RuntimeError("a database that nobody can read")

    monkeypatch.setattr(local, "TIDY_SECONDS", 0.01)
    monkeypatch.setattr(local, "choose", choose)
    await bench.restart()
    request = command("true")
    await bench.submit(request)
    await bench.until(request.id, State.QUEUED)
    bench.site.finish(request.id)
    await bench.until(request.id)
    while len(rounds) < 2:
        assert not bench.service._loops[0].done()
        await bench.when(request.id, lambda _: True)
    assert "a database that nobody can read" in caplog.text
