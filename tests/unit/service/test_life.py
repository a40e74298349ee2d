"""From queued to the end: watching, eviction, loss, results, cancelling, restarts."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
from dataclasses import replace

import pytest
from parts.memory_site import result_bundle
from parts.submissions import KEY, cell, command

from jupyter_offload.errors import BatchNotFound, Conflict, RemoteError, ResultUnavailable, SiteUnreachable, UnknownName
from jupyter_offload.job import State
from jupyter_offload.service import finish


async def submitted(bench, request=None, **options):
    request = request or command("true")
    await bench.submit(request, **options)
    await bench.until(request.id, State.QUEUED)
    return request


async def test_a_site_that_does_not_answer_is_stale_and_changes_nothing(bench):
    request = await submitted(bench)
    bench.site.set(request.id, State.RUNNING)
    await bench.until(request.id, State.RUNNING)
    bench.site.down = SiteUnreachable("no route to host", hint="Plug it in.")
    job = await bench.when(request.id, lambda job: job.stale_since is not None)
    assert job.state is State.RUNNING
    (view,) = await bench.service.sites("ann")
    assert view.state == "stale"
    assert view.error["message"] == "no route to host"
    bench.site.down = None
    job = await bench.when(request.id, lambda job: job.stale_since is None)
    assert job.state is State.RUNNING


async def test_an_eviction_is_told_with_its_count(bench):
    request = await submitted(bench)
    for attempts, state in ((1, State.RUNNING), (1, State.QUEUED), (2, State.RUNNING), (3, State.RUNNING)):
        bench.site.set(request.id, state, attempts=attempts)
        job = await bench.when(
            request.id, lambda job, a=attempts, s=state: job.state is s and job.tasks[0].attempts == a
        )
    assert job.notes == ("ran again from the start, after an eviction, 2 times",)


async def test_a_held_job_shows_why_and_goes_on(bench):
    request = await submitted(bench)
    bench.site.set(request.id, State.HELD, reason="more memory than asked", hint="Ask for more.")
    job = await bench.until(request.id, State.HELD)
    assert (job.reason, job.hint) == ("more memory than asked", "Ask for more.")
    bench.site.set(request.id, State.QUEUED, reason="", hint="")
    assert (await bench.until(request.id, State.QUEUED)).reason == ""


async def test_lost_is_what_the_site_says_and_can_be_taken_back(bench):
    request = await submitted(bench)
    kept = dict(bench.site.entries)
    bench.site.entries.clear()
    job = await bench.until(request.id, State.LOST)
    assert job.reason == "no trace of it"
    await bench.restart()
    bench.site.entries.update(kept)
    bench.site.set(request.id, State.RUNNING)
    await bench.until(request.id, State.RUNNING)
    bench.site.finish(request.id)
    assert (await bench.until(request.id)).state is State.SUCCEEDED


async def test_results_are_checked_before_anything_is_said_of_them(bench, tmp_path):
    good, bad, failed, missing = [await submitted(bench, cell()) for _ in range(4)]
    bundle = result_bundle(tmp_path / "r", KEY)
    error = RemoteError("ZeroDivisionError: division by zero", ename="ZeroDivisionError").to_json()
    bench.site.finish(good.id, files={".offload/result": bundle})
    bench.site.finish(bad.id, files={".offload/result": bundle.replace(b'"wall', b'"Wall')})
    raised = result_bundle(tmp_path / "e", KEY, error)
    bench.site.finish(failed.id, State.FAILED, files={".offload/result": raised})
    bench.site.finish(missing.id)
    jobs = [await bench.until(request.id) for request in (good, bad, failed, missing)]
    assert [job.state for job in jobs] == [State.SUCCEEDED, State.FAILED, State.FAILED, State.FAILED]
    assert jobs[0].result_bytes == len(bundle)
    path, key = await bench.service.result("ann", good.id)
    assert (path.read_bytes(), key) == (bundle, KEY)
    assert [job.tasks[0].error and job.tasks[0].error["error"] for job in jobs] == [
        None, "ResultTampered", "RemoteError", "ResultUnavailable"
    ]  # fmt: skip
    assert jobs[2].reason == "ZeroDivisionError: division by zero"
    with pytest.raises(ResultUnavailable):
        await bench.service.result("ann", missing.id)


async def test_inputs_and_secrets_are_gone_when_the_job_has_ended(bench):
    request = command("true", secrets=("TOKEN",))
    await bench.submit(request, secrets={"TOKEN": b"geheim"})
    await bench.until(request.id, State.QUEUED)
    folder = bench.folders.job(request.id)
    holders = [path for path in bench.folders.root.rglob("*") if path.is_file() and b"geheim" in path.read_bytes()]
    assert [path.relative_to(folder).as_posix() for path in holders] == ["secrets/TOKEN"]
    assert stat.S_IMODE(holders[0].stat().st_mode) == 0o600
    (folder / "inputs.tar").write_bytes(b"geheim")
    bench.site.finish(request.id)
    await bench.until(request.id)
    await bench.when(request.id, lambda _: not bench.site.entries)
    assert not [path for path in bench.folders.root.rglob("*") if path.is_file() and b"geheim" in path.read_bytes()]


async def test_everything_of_a_job_is_private(bench):
    request = await submitted(bench)
    bench.site.finish(request.id, files={"a": b"1"})
    await bench.until(request.id)
    await bench.when(request.id, lambda _: not bench.site.entries)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in bench.folders.root.rglob("*")}
    wrong = {path: mode for path, mode in modes.items() if path.name in ("job.json", "jobs.sqlite") and mode != 0o600}
    wrong |= {
        p: m
        for p, m in modes.items()
        if p.is_dir() and p.parent in (bench.folders.root, bench.folders.jobs) and m != 0o700
    }
    assert not wrong


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.HELD])
async def test_cancel_while_it_is_at_the_site(bench, state):
    request = await submitted(bench)
    bench.site.set(request.id, state)
    await bench.until(request.id, state)
    bench.site.fail("cancel", "before", "after")
    job = await bench.service.cancel("ann", request.id, "changed my mind")
    assert job.state is State.CANCELLING
    job = await bench.until(request.id)
    assert job.state is State.CANCELLED
    assert job.reason == "changed my mind"
    assert (await bench.service.cancel("ann", request.id)).state is State.CANCELLED  # again: as it is


async def test_cancel_before_the_site_has_it(bench):
    gate = asyncio.Event()
    bench.site.fail("submit", gate)
    first, second = command("true"), command("true")
    await bench.submit(first)
    await bench.site.called("submit")
    await bench.submit(second)
    assert (await bench.service.cancel("ann", second.id)).state is State.CANCELLED  # never sent
    assert (await bench.service.cancel("ann", first.id)).state is State.CANCELLING  # on its way
    gate.set()
    assert (await bench.until(first.id)).state is State.CANCELLED
    assert bench.site.starts == []
    assert bench.site.entries == {}


async def test_a_wish_to_cancel_survives_a_restart(bench):
    request = await submitted(bench)
    bench.site.down = SiteUnreachable("no route to host")
    await bench.service.cancel("ann", request.id)
    await bench.restart(killed=True)
    assert (await bench.service.job("ann", request.id)).state is State.CANCELLING
    bench.site.down = None
    assert (await bench.until(request.id)).state is State.CANCELLED


async def test_a_job_that_ends_before_the_wish_arrives_has_succeeded(bench):
    request = await submitted(bench)
    bench.site.down = SiteUnreachable("no route to host")
    await bench.service.cancel("ann", request.id)
    bench.site.finish(request.id)
    bench.site.down = None
    assert (await bench.until(request.id)).state is State.SUCCEEDED


async def test_culled_on_friday_started_on_monday(bench):
    request = await submitted(bench)
    await bench.service.close()
    bench.site.finish(request.id, files={"a": b"1"}, log=b"done\n")
    bench.now = 3 * 86400.0
    await bench.start()
    job = await bench.until(request.id)
    assert job.state is State.SUCCEEDED
    assert (await bench.service.logs("ann", request.id)).data == b"done\n"


@pytest.mark.parametrize("call", ["fetch", "remove"])
@pytest.mark.parametrize("fault", ["before", "after"])
async def test_results_come_home_whatever_breaks(bench, call, fault):
    request = await submitted(bench)
    bench.site.fail(call, fault)
    bench.site.finish(request.id, files={"a": b"1"})
    assert (await bench.until(request.id)).state is State.SUCCEEDED
    await bench.when(request.id, lambda _: not bench.site.entries)


async def test_a_deleted_store_is_rebuilt_from_the_job_folders(bench):
    done, running, waiting = await submitted(bench), await submitted(bench), command("true")
    bench.site.finish(done.id, files={"a": b"1"})
    await bench.until(done.id)
    await bench.when(done.id, lambda _: len(bench.site.entries) == 1)
    gate = asyncio.Event()
    bench.site.fail("submit", gate)
    await bench.submit(waiting)
    await bench.site.called("submit", 3)
    before = (await bench.service.jobs("ann")).revision
    await bench.service.close()
    bench.folders.database.unlink()
    bench.site.set(running.id, State.RUNNING)
    await bench.start()
    jobs = {job.id: job for job in (await bench.service.jobs("ann", since=before)).jobs}
    assert set(jobs) == {done.id, running.id, waiting.id}
    assert jobs[done.id].state is State.SUCCEEDED
    await bench.until(running.id, State.RUNNING)
    await bench.until(waiting.id, State.QUEUED)
    assert sorted(bench.site.starts) == sorted([done.id, running.id, waiting.id])


async def test_a_folder_that_is_no_job_is_passed_over(bench, caplog):
    (bench.folders.jobs / "x").mkdir()
    (bench.folders.jobs / "x" / "job.json").write_text("{")
    await bench.restart()
    assert (await bench.service.jobs("ann")).jobs == ()
    assert "holds no job" in caplog.text


async def test_ids_prefixes_and_names_and_nobody_elses(bench):
    first = await submitted(bench, command("true", id="aaaa" + "0" * 28, name="fit"))
    await submitted(bench, command("true", id="aaab" + "0" * 28, name="fit"))
    for text in (first.id, "aaaa", f"fit-{first.id[:4]}"):
        assert (await bench.service.job("ann", text)).id == first.id
    with pytest.raises(UnknownName, match="could be any of 2"):
        await bench.service.job("ann", "aaa")
    for text in ("%", "_", "", "bbbb", "fit-bbbb"):
        with pytest.raises(UnknownName):
            await bench.service.job("ann", text)
    with pytest.raises(UnknownName):
        await bench.service.job("bob", first.id)
    assert (await bench.service.jobs("bob")).jobs == ()


async def test_delete_only_what_has_ended_and_tell_it(bench):
    request = await submitted(bench)
    with pytest.raises(Conflict, match="is queued"):
        await bench.service.delete("ann", request.id)
    bench.site.finish(request.id)
    await bench.until(request.id)
    before = (await bench.service.jobs("ann")).revision
    waiting = asyncio.ensure_future(bench.service.jobs("ann", since=before, wait_seconds=5))
    await bench.service.delete("ann", request.id)
    listing = await waiting
    while not listing.deleted:
        listing = await bench.service.jobs("ann", since=listing.revision, wait_seconds=5)
    assert listing.deleted == (request.id,)
    assert not bench.folders.job(request.id).exists()
    with pytest.raises(UnknownName):
        await bench.service.job("ann", request.id)


async def test_job_json_tells_what_a_rebuild_needs(bench):
    request = await submitted(bench)
    data = json.loads((bench.folders.job(request.id) / "job.json").read_text())
    assert data["phase"] in ("handed", "started")
    assert data["handles"][0]["job_id"] == request.id
    shutil.rmtree(bench.folders.job(request.id) / "files", ignore_errors=True)


async def test_logs_live_and_after_the_end_by_offset(bench):
    request = await submitted(bench)
    bench.site.set(request.id, State.RUNNING)
    entry = bench.site.of(request.id)[0]
    waiting = asyncio.ensure_future(bench.service.logs("ann", request.id, wait_seconds=5))
    await asyncio.sleep(0.05)
    entry.log = b"one\n"
    chunk = await waiting
    assert (chunk.data, chunk.offset, chunk.end) == (b"one\n", 0, False)
    bench.site.finish(request.id, log=b"one\ntwo\n")
    chunk = await bench.service.logs("ann", request.id, offset=4, wait_seconds=5)
    assert chunk.data == b"two\n"
    await bench.until(request.id)
    chunk = await bench.service.logs("ann", request.id, offset=4)
    assert (chunk.data, chunk.end) == (b"two\n", True)
    assert (await bench.service.logs("ann", request.id, offset=8, wait_seconds=5)).end
    assert (await bench.service.logs("ann", request.id, stream="stderr")).end
    for wrong in ({"container": "../../job"}, {"stream": "x"}, {"task": 1}):
        with pytest.raises(UnknownName):
            await bench.service.logs("ann", request.id, **wrong)


async def test_one_that_cannot_be_fetched_keeps_no_other_waiting(bench, monkeypatch):
    monkeypatch.setattr(finish, "LOST_SECONDS", 0.1)
    good, gone, broken = [await submitted(bench) for _ in range(3)]
    original = bench.site.fetch
    mended = asyncio.Event()

    async def fetch(handles):
        for handle in handles:
            if handle.job_id == gone.id:
                raise BatchNotFound("no such task", hint="It was removed.")
            if handle.job_id == broken.id and not mended.is_set():
                raise RuntimeError("an archive that nobody can read")
        return await original(handles)

    bench.site.fetch = fetch
    for request in (gone, broken, good):
        bench.site.finish(request.id)
    assert (await bench.until(good.id)).state is State.SUCCEEDED
    job = await bench.until(gone.id)
    assert (job.state, job.reason) == (State.LOST, "no such task")
    assert (await bench.service.job("ann", broken.id)).state is State.FINISHING
    mended.set()
    assert (await bench.until(broken.id)).state is State.SUCCEEDED
    bench.site.fetch = original
    assert (await bench.until(gone.id, State.SUCCEEDED)).state is State.SUCCEEDED  # taken back: it is still there


async def test_what_the_site_notes_of_a_task_is_shown_once(bench):
    request = await submitted(bench, command("true", tasks=2))
    original = bench.site.fetch
    said = ("*.root: not fetched, nothing matches", "b.txt: not fetched, it is a link")

    async def fetch(handles):
        return [replace(outcome, notes=said[: outcome.handle.index + 1]) for outcome in await original(handles)]

    bench.site.fetch = fetch
    bench.site.finish(request.id)
    assert (await bench.until(request.id)).notes == said
