"""Submission: once, whatever breaks."""

from __future__ import annotations

import asyncio

import pytest
from parts.submissions import command

from jupyter_offload.errors import AuthFailed, BadSubmit, BatchNotFound, LimitExceeded, QuotaExceeded, SiteTimeout
from jupyter_offload.job import State


async def test_a_job_goes_through(bench):
    request = command("true")
    accepted = await bench.submit(request)
    assert accepted.created
    assert not accepted.twin
    assert accepted.job.state is State.PREPARING
    await bench.until(request.id, State.QUEUED)
    bench.site.set(request.id, State.RUNNING, host="node7", attempts=1)
    running = await bench.until(request.id, State.RUNNING)
    assert running.tasks[0].host == "node7"
    bench.site.finish(request.id, files={"out.txt": b"x"})
    job = await bench.until(request.id)
    assert job.state is State.SUCCEEDED
    assert job.files == ("out.txt",)
    assert job.finished is not None
    await bench.when(request.id, lambda _: not bench.site.entries)  # forgotten at the site, after it is here
    calls = [call for call, _ in bench.site.calls]
    assert calls.index("fetch") < calls.index("remove")


def poison(error):
    """Make one job's submission fail at the site with something that no site says."""

    def install(bench, job_id):
        original = bench.site.submit

        async def submit(works, folders, attempt):
            if job_id in {work.job_id for work in works}:
                raise error
            return await original(works, folders, attempt)

        bench.site.submit = submit

    return install


def spoil(bench, job_id):
    """Write nonsense where the job folder says what the job's inputs are."""
    (bench.folders.job(job_id) / "inputs.json").write_text("{")


@pytest.mark.parametrize("damage", [spoil, poison(FileNotFoundError(2, "No such file", "bundle"))])
async def test_one_damaged_job_folder_keeps_no_other_job_waiting(bench, damage):
    bench.site.down = SiteTimeout("no answer", hint="Ask again.")
    first, bad, last = [command("true") for _ in range(3)]
    for request in (first, bad, last):
        await bench.submit(request)
    damage(bench, bad.id)
    bench.site.down = None
    for request in (first, last):
        await bench.until(request.id, State.QUEUED)
        assert len(bench.site.of(request.id)) == 1
    job = await bench.until(bad.id)
    assert job.state is State.FAILED
    assert job.tasks[0].error["error"] == "JobFailed"
    assert "its submission in the job folder is damaged" in job.reason
    assert job.hint
    assert bad.id not in bench.site.starts


async def test_a_full_disk_fails_no_job(bench, monkeypatch):
    failing = [OSError(28, "No space left on device")] * 2
    original = bench.service._intake.work

    def work(*args):
        if failing:
            raise failing.pop()
        return original(*args)

    bench.site.down = SiteTimeout("no answer", hint="Ask again.")
    request = command("true")
    await bench.submit(request)
    monkeypatch.setattr(bench.service._intake, "work", work)
    bench.site.down = None
    assert (await bench.until(request.id, State.QUEUED, State.FAILED)).state is State.QUEUED
    assert failing == []


@pytest.mark.parametrize("call", ["submit", "start"])
@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_connection_that_breaks_off_makes_no_second_job(bench, call, fault):
    bench.site.fail(call, fault, fault)
    request = command("true")
    await bench.submit(request)
    await bench.until(request.id, State.QUEUED)
    assert len(bench.site.of(request.id)) == 1
    assert bench.site.starts == [request.id]


async def test_a_site_that_is_away_is_waited_for_and_the_reason_is_shown(bench):
    await bench.service.sites("ann")
    bench.site.down = SiteTimeout("no answer within 5 s", hint="Ask again.")
    request = command("true")
    await bench.submit(request)
    job = await bench.when(request.id, lambda job: bool(job.reason))
    assert job.state is State.PREPARING
    assert job.reason == "waiting for site mem: no answer within 5 s"
    assert job.hint == "Ask again."
    bench.site.down = None
    job = await bench.until(request.id, State.QUEUED)
    assert job.reason == ""


async def test_a_site_that_never_answered_takes_jobs_too(bench):
    bench.site.down = SiteTimeout("no answer", hint="Ask again.")
    request = command("true")
    job = (await bench.submit(request)).job
    assert job.state is State.PREPARING
    bench.site.down = None
    await bench.until(request.id, State.QUEUED)


@pytest.mark.parametrize(
    "error", [AuthFailed("token expired"), BadSubmit("no such attribute"), LimitExceeded("64 GiB")]
)
async def test_a_refusal_fails_the_job_with_its_own_error(bench, error):
    bench.site.fail("submit", error)
    request = command("true")
    await bench.submit(request)
    job = await bench.until(request.id)
    assert job.state is State.FAILED
    assert job.tasks[0].error["error"] == type(error).__name__
    assert job.reason == error.message
    assert bench.site.entries == {}


async def test_a_quota_is_waited_for(bench):
    bench.site.fail("submit", QuotaExceeded("200 jobs at most"))
    request = command("true")
    await bench.submit(request)
    await bench.until(request.id, State.QUEUED)


async def test_what_queues_up_goes_in_one_call_and_a_refused_one_spoils_no_other(bench):
    gate = asyncio.Event()
    bench.site.fail("submit", gate)
    requests = [command("true") for _ in range(6)]
    await bench.submit(requests[0])
    await bench.site.called("submit")
    for request in requests[1:]:
        await bench.submit(request)
    # the next call, of five, is refused as a whole; then each goes for itself, the first of them is refused again
    bench.site.fail("submit", BadSubmit("one of them"), BadSubmit("this one"))
    gate.set()
    jobs = [await bench.until(request.id, State.QUEUED, State.FAILED) for request in requests]
    assert [job.state for job in jobs] == [State.QUEUED, State.FAILED, *[State.QUEUED] * 4]
    sizes = [size for call, size in bench.site.calls if call == "submit"]
    assert sizes == [1, 5, 1, 1, 1, 1, 1]
    assert sorted(bench.site.starts) == sorted(request.id for request in requests if request is not requests[1])


@pytest.mark.parametrize("call", ["submit", "start"])
@pytest.mark.parametrize("when", ["during", "after"])
async def test_a_service_that_is_killed_in_a_call_goes_on_with_the_same_job(bench, call, when):
    gate = asyncio.Event()
    if when == "during":
        bench.site.fail(call, gate)
    else:  # the deed is done, its answer never arrives
        original = getattr(bench.site, call)

        async def deaf(*arguments: object) -> object:
            await original(*arguments)
            await gate.wait()
            return None

        setattr(bench.site, call, deaf)
    request = command("true")
    await bench.submit(request)
    await bench.site.called(call)
    await asyncio.sleep(0.05)
    assert (await bench.service.job("ann", request.id)).state is State.PREPARING
    if when == "after":
        setattr(bench.site, call, original)
    await bench.restart(killed=True)
    await bench.until(request.id, State.QUEUED)
    assert len(bench.site.of(request.id)) == 1
    assert bench.site.starts == [request.id]


async def test_surplus_attempts_are_removed_and_one_is_kept(bench):
    request = command("true")
    bench.site.fail("submit", "after")
    original = bench.site.find

    async def blind(job_ids):  # the site does not list the late one yet
        if not job_ids:
            return await original(job_ids)
        bench.site.find = original
        return []

    bench.site.find = blind
    await bench.submit(request)
    await bench.until(request.id, State.QUEUED)
    assert len(bench.site.of(request.id)) == 2  # the late one turned up, not runnable
    assert bench.site.starts == [request.id]
    await bench.restart()
    await bench.when(request.id, lambda _: len(bench.site.of(request.id)) == 1)
    assert bench.site.of(request.id)[0].runnable


async def test_it_is_given_up_at_the_end_of_its_life(bench):
    await bench.service.sites("ann")
    bench.site.down = SiteTimeout("no answer", hint="Ask again.")
    request = command("true")
    await bench.submit(request)
    await bench.when(request.id, lambda job: bool(job.reason))
    bench.now = 400 * 86400.0
    job = await bench.until(request.id)
    assert job.state is State.FAILED
    assert "end of life" in job.reason


async def test_what_vanished_between_handing_over_and_starting_is_lost_and_no_other_waits(bench):
    gone, good = command("true"), command("true")
    gate = asyncio.Event()
    bench.site.fail("start", gate)
    await bench.submit(gone)
    await bench.site.called("start")
    await bench.submit(good)
    await bench.restart(killed=True)  # `gone` is handed over, `good` accepted
    original = bench.site.start

    async def start(handles):
        if any(handle.job_id == gone.id for handle in handles):
            raise BatchNotFound("no such cluster", hint="It was removed.")
        await original(handles)

    for entry in bench.site.of(gone.id):
        del bench.site.entries[entry.handle.id]
    bench.site.start = start
    assert (await bench.until(gone.id, State.LOST)).state is State.LOST
    await bench.until(good.id, State.QUEUED)
    assert good.id in bench.site.starts
