"""What is accepted, what is a twin, what is refused and what becomes of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from parts.memory_site import MemorySite, pool_info
from parts.submissions import cell, command

from jupyter_offload.errors import (
    BadQuantity,
    CapabilityMissing,
    Conflict,
    LimitExceeded,
    PythonMismatch,
    UnknownName,
    UsageError,
)
from jupyter_offload.job import Resources, State
from jupyter_offload.service.resolve import end_of_life, fill, resolve
from jupyter_offload.sites.base import Capabilities, Image, Limits, SiteInfo


async def test_the_same_id_again_is_the_same_job_and_other_content_a_conflict(bench):
    request = command("true")
    first = await bench.submit(request)
    again = await bench.submit(request)
    assert (again.created, again.twin, again.job.id) == (False, False, first.job.id)
    with pytest.raises(Conflict):
        await bench.submit(command("false", id=request.id))
    with pytest.raises(Conflict):
        await bench.submit(request, owner="bob")
    assert len(bench.site.of(request.id)) <= 1


async def test_the_same_id_many_times_at_once(bench):
    request = command("true")
    answers = await asyncio.gather(*(bench.submit(request) for _ in range(8)))
    assert [answer.created for answer in answers].count(True) == 1
    await bench.until(request.id, State.QUEUED)
    assert bench.site.starts == [request.id]


async def test_a_live_twin_is_attached_to(bench):
    first, second, third = (cell(fingerprint="same") for _ in range(3))
    await bench.submit(first)
    answer = await bench.submit(second)
    assert (answer.twin, answer.job.id) == (True, first.id)
    assert not bench.folders.job(second.id).exists()
    assert (await bench.submit(third, again=True)).created
    other = cell(fingerprint="same")
    assert (await bench.submit(other, owner="bob")).created  # nobody sees another one's twin


async def test_twins_at_once_are_one_job(bench):
    requests = [cell(fingerprint="same") for _ in range(8)]
    answers = await asyncio.gather(*(bench.submit(request) for request in requests))
    assert len({answer.job.id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    assert len(list(bench.folders.jobs.iterdir())) == 1


async def test_a_finished_twin_is_taken_with_reuse_alone(bench):
    first = command("true", fingerprint="same")
    await bench.submit(first)
    await bench.until(first.id, State.QUEUED)
    bench.site.finish(first.id)
    await bench.until(first.id)
    assert (await bench.submit(command("true", fingerprint="same"), reuse=True)).job.id == first.id
    second = await bench.submit(command("true", fingerprint="same"))
    assert second.created
    await bench.service.cancel("ann", second.job.id)  # one that is wanted gone is no twin
    assert (await bench.submit(command("true", fingerprint="same"))).job.id != second.job.id


@pytest.fixture
async def pool(bench):
    bench.site.info = pool_info(memory_bytes=32 << 30, cpus=8, gpus=0, time_seconds=86400, input_bytes=100_000)
    await bench.service._book.info(bench.service._book.visit("mem"), fresh=True)
    return bench


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (command("true", resources=Resources(memory="64GiB")), LimitExceeded, "memory: asked 64.0 GiB, the site mem allows 32.0 GiB"),
        (command("true", resources=Resources(cpus="9")), LimitExceeded, "cpus: asked 9 cores, the site mem allows 8 cores"),
        (command("true", resources=Resources(gpus=3)), LimitExceeded, "gpus: asked 3 GPUs,"),
        (command("true", resources=Resources(time_seconds=90000)), LimitExceeded, "asked 1 d 1 h, the site mem allows 1 d"),
        (command("true", resources=Resources(gpus=1)), LimitExceeded, "gpus: asked 1 GPU, the site mem allows 0 GPUs"),
        (command("true", resources=Resources(memory="many")), BadQuantity, "'many'"),
        (command("true", image="sience"), UnknownName, "no image 'sience'"),
        (command("true", site="poool"), UnknownName, "no site 'poool'"),
        (cell(image="new", needs_equal_python=True), PythonMismatch, "runs Python 3.11, image new has Python 3.13"),
        (command("true", name="Upper"), UsageError, "'Upper' is not a job name"),
        (command("true", tasks=0), UsageError, "0 tasks"),
        (command("x" * 200_000), LimitExceeded, "would ship"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_before_anything_is_sent(pool, request_, error, words):
    calls = len(pool.site.calls)
    with pytest.raises(error) as caught:
        await pool.submit(request_)
    assert words in caught.value.message
    assert caught.value.hint
    assert [call for call, _ in pool.site.calls[calls:] if call in ("submit", "start")] == []
    assert list(pool.folders.jobs.iterdir()) == []
    assert (await pool.service.jobs("ann")).jobs == ()


async def test_a_site_that_was_away_says_no_when_it_is_back(bench):
    from jupyter_offload.errors import SiteTimeout

    bench.site.down = SiteTimeout("no answer")
    request = cell(image="new", needs_equal_python=True)
    await bench.submit(request)
    bench.site.info = pool_info()
    bench.site.down = None
    job = await bench.until(request.id)
    assert job.state is State.FAILED
    assert job.tasks[0].error["error"] == "PythonMismatch"


async def test_a_bundle_that_is_none_leaves_nothing(bench, tmp_path):
    path = tmp_path / "x.bundle"
    path.write_bytes(b"offload-bundle 1\n{}\n")
    with pytest.raises(UsageError):
        await bench.service.submit("ann", "a" * 32, path)
    assert not path.exists()
    assert list(bench.folders.jobs.iterdir()) == []


def resolved(request, info, **defaults):
    return resolve(request, info, Resources(**defaults))


def test_images_by_name_by_reference_by_default_and_none():
    info = pool_info()
    assert resolved(command("true"), info).image == "docker://example.org/science:1"
    assert resolved(command("true", image="new"), info).image == "docker://example.org/new:1"
    assert resolved(command("true", image="docker://x.org/y:2"), info).image == "docker://x.org/y:2"
    assert resolved(command("true", image="host"), info).image is None
    bare = SiteInfo("mem", "direct", capabilities=Capabilities(containers=False), images=(Image("a", "b:c"),))
    assert resolved(command("true"), bare).image is None
    with pytest.raises(CapabilityMissing):
        resolved(command("true", image="docker://x.org/y:2"), bare)
    with pytest.raises(UnknownName) as caught:
        resolved(command("true", image="sciense"), info)
    assert caught.value.hint == "Did you mean 'science'?"


def test_gpus_are_refused_where_it_is_known_that_there_are_none():
    here = SiteInfo("here", "direct", batch="local")
    asking = command("true", resources=Resources(gpus=1))
    with pytest.raises(CapabilityMissing) as caught:
        resolved(asking, here)
    assert caught.value.message == "the job asks for 1 GPU and site here has none"
    assert "--gpus" in caught.value.hint
    assert resolved(command("true"), here).resources.gpus == 0
    assert resolved(asking, replace(here, capabilities=Capabilities(gpus=True))).resources.gpus == 1
    # what a pool shows may lack nodes that are away now
    assert resolved(asking, SiteInfo("pool", "direct", batch="condor")).resources.gpus == 1


def test_a_limit_of_one_is_told_in_the_singular():
    asking = command("true", resources=Resources(cpus="2"))
    with pytest.raises(LimitExceeded) as caught:
        resolved(asking, pool_info(cpus=1))
    assert caught.value.message == "cpus: asked 2 cores, the site mem allows 1 core"


def test_a_mismatch_is_fine_for_plain_data_and_where_nothing_is_declared():
    info = pool_info()
    assert resolved(cell(image="new"), info).python == "3.13"
    assert resolved(cell(image="docker://x.org/y:2", needs_equal_python=True), info).python is None
    with pytest.raises(PythonMismatch) as caught:
        resolved(cell(image="new", needs_equal_python=True), info)
    assert "--image science" in caught.value.hint


def test_defaults_are_capped_by_limits_and_asked_values_stay():
    limits = Limits(cpus=1, memory_bytes=1 << 30, time_seconds=60)
    filled = fill(Resources(), Resources(cpus="2", memory="2Gi", disk="1Gi"), limits)
    assert filled == Resources("1", str(1 << 30), "1Gi", 0, None, 60)
    assert fill(Resources(memory="512Mi", time_seconds=5), Resources(memory="2Gi"), limits).memory == "512Mi"
    assert end_of_life(Resources(time_seconds=60), Limits(queue_seconds=100), 1000.0) == 1160.0


async def test_clean_by_age_and_by_size(bench):
    requests = [command("true", created=float(place)) for place in range(1, 5)]
    for request in requests:
        await bench.submit(request)
        await bench.until(request.id, State.QUEUED)
    for request in requests[:3]:
        bench.site.finish(request.id, files={"f": b"x" * 100_000})
        await bench.until(request.id)
        bench.now += 3600.0
    dry = await bench.service.clean("ann", older_than_seconds=2.5 * 3600, dry_run=True)
    assert dry.removed == (requests[0].id,)
    assert dry.freed_bytes > 100_000
    assert len((await bench.service.jobs("ann")).jobs) == 4
    assert (await bench.service.clean("bob", older_than_seconds=0)).removed == ()
    assert (await bench.service.clean("ann", max_bytes=150_000)).removed == (requests[0].id, requests[1].id)
    assert not bench.folders.job(requests[0].id).exists()
    assert (await bench.service.clean("ann", older_than_seconds=0)).removed == (requests[2].id,)
    assert [job.id for job in (await bench.service.jobs("ann")).jobs] == [requests[3].id]  # active: it stays
    assert (await bench.service.clean("ann")).removed == ()
    with pytest.raises(UsageError):
        await bench.service.clean("ann", max_bytes=-1)


async def test_a_site_that_was_configured_away_keeps_its_jobs(bench):
    request = command("true")
    await bench.submit(request)
    await bench.until(request.id, State.QUEUED)
    await bench.service.close()
    bench.site = MemorySite("other")
    await bench.start()
    job = await bench.service.job("ann", request.id)
    assert job.state is State.QUEUED
    assert (await bench.service.cancel("ann", request.id)).state is State.CANCELLED


async def test_leftovers_go_after_a_day_and_uploads_on_their_way_stay(bench):
    import os
    import time

    old, young = bench.folders.new_incoming(), bench.folders.new_incoming()
    folder = bench.folders.incoming / "remote-1"
    folder.mkdir()
    for path in (old, young):
        path.write_bytes(b"x")
    for path in (old, folder):
        os.utime(path, (time.time() - 90_000,) * 2)
    await bench.restart()
    assert list(bench.folders.incoming.iterdir()) == [young]


def test_the_owner_is_the_hubs_user_or_the_operating_systems(monkeypatch):
    import getpass

    from jupyter_offload.service.assemble import own_name

    assert own_name({"JUPYTERHUB_USER": "ann"}) == "ann"
    assert own_name({}) == getpass.getuser()
    monkeypatch.setattr("os.getuid", lambda: 987654)
    assert own_name({}) == "987654"
