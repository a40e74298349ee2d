"""The Python interface with a real service on the local site: futures, the executor, threads, forks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts.notebook import Home

import jupyter_offload as offload
from jupyter_offload.errors import CapabilityMissing, JobCancelled, JobFailed, RemoteError, UnknownName
from jupyter_offload.job import State
from jupyter_offload.kernel import session as sessions


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    patch = pytest.MonkeyPatch()
    for key in [key for key in os.environ if key.startswith("OFFLOAD_")]:
        patch.delenv(key)
    for key, value in home.environ.items():
        patch.setenv(key, value)
    patch.setattr(sessions, "_sessions", {})
    yield home
    home.end_service()
    patch.undo()


pytestmark = pytest.mark.usefixtures("home")
SHELL = ["/bin/sh", "-c"]


def test_a_function_returns_its_value() -> None:
    job = offload.submit(divmod, 17, 5)
    assert job.result(60) == (3, 2)
    assert job.state is State.SUCCEEDED
    assert job.done()
    assert not job.running()
    assert not job.cancelled()
    assert job.exception() is None
    assert offload.get(job.id) is job
    assert offload.get(job.shown) is job
    assert job in offload.jobs()


def test_options_never_collide_with_the_functions_own() -> None:
    job = offload.options(name="fmt", cpus="500m", time="5m").submit("{name} {time}".format, name="n", time="t")
    assert job.result(60) == "n t"
    assert job.name == "fmt"
    assert job.resources.cpus == "500m"
    assert job.resources.time_seconds == 300


def test_an_error_is_the_remote_one() -> None:
    job = offload.submit(divmod, 1, 0)
    error = job.exception(60)
    assert isinstance(error, RemoteError)
    assert error.ename == "ZeroDivisionError"
    with pytest.raises(RemoteError, match="ZeroDivisionError"):
        job.result()
    assert job.state is State.FAILED


def test_commands_give_their_exit_code_logs_and_files(tmp_path: Path) -> None:
    job = offload.options(fetch="out/*").run([*SHELL, "mkdir out; echo hi > out/a; echo says; echo errs >&2"])
    assert job.result(60) == 0
    assert job.logs() == "says\n"
    assert job.logs("stderr") == "errs\n"
    assert job.files == ("out/a",)
    assert [path.read_text() for path in job.fetch(tmp_path)] == ["hi\n"]
    failed = offload.run([*SHELL, "exit 3"])
    assert isinstance(failed.exception(60), JobFailed)
    assert isinstance(offload.run(["/no/such/program"]).exception(60), JobFailed)


def test_it_is_a_future_to_everybody() -> None:
    jobs = [offload.submit(pow, 2, power) for power in range(3)]
    done, pending = concurrent.futures.wait(jobs, 60)
    assert (len(done), len(pending)) == (3, 0)
    assert sorted(job.result() for job in concurrent.futures.as_completed(jobs, 60)) == [1, 2, 4]
    called = threading.Event()
    jobs[0].add_done_callback(lambda job: called.set())
    assert called.wait(5)
    assert offload.wait(jobs, 60) == (set(jobs), set())

    async def ask() -> object:
        return await asyncio.wrap_future(offload.submit(pow, 3, 2))

    loop = asyncio.new_event_loop()
    try:
        assert loop.run_until_complete(asyncio.wait_for(ask(), 60)) == 9
    finally:
        loop.close()


def test_cancelling_is_confirmed_and_typed() -> None:
    job = offload.run([*SHELL, "echo on; sleep 60"])
    until = time.monotonic() + 30
    while "on" not in job.logs():
        assert time.monotonic() < until
        time.sleep(0.05)
    assert job.cancel()
    with pytest.raises(concurrent.futures.CancelledError) as caught:
        job.result(30)
    assert isinstance(caught.value, JobCancelled)
    assert job.cancelled()
    assert job.state is State.CANCELLED
    assert type(pickle.loads(pickle.dumps(caught.value))) is JobCancelled


def test_waiting_ends_in_time_and_cancels_nothing() -> None:
    job = offload.run([*SHELL, "sleep 2"])
    with pytest.raises(TimeoutError):
        job.result(0.2)
    assert offload.wait([job], 0.1) == (set(), {job})
    assert job.result(60) == 0


def test_the_executor_keeps_order_and_cancels_on_timeout() -> None:
    with offload.Executor(name="map") as executor:
        assert list(executor.map(pow, [2, 3, 4], [1, 2, 3])) == [2, 9, 64]
    with pytest.raises(RuntimeError):
        executor.submit(pow, 1, 1)
    executor = offload.Executor(name="slow")
    with pytest.raises(TimeoutError):
        list(executor.map(time.sleep, [60, 61], timeout=1))
    executor.shutdown(cancel_futures=True)
    assert all(job.cancelled() for job in offload.jobs() if job.name == "slow")


def test_a_pickled_job_is_its_id() -> None:
    job = offload.submit(pow, 5, 2)
    data = pickle.dumps(job)
    assert len(data) < 200
    assert pickle.loads(data) is job
    assert job.result(60) == 25


def test_one_thread_watches_and_ends_when_nothing_is_pending() -> None:
    jobs = [offload.run([*SHELL, "sleep 1"]) for _ in range(5)]
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("offload-watch") == 1
    offload.wait(jobs, 60)
    until = time.monotonic() + 60
    while any(thread.name == "offload-watch" for thread in threading.enumerate()):
        assert time.monotonic() < until, "the watcher does not end"
        offload.run(["/bin/true"]).wait(30)  # news wakes the long poll
        time.sleep(0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_a_session_of_its_own() -> None:
    job = offload.run([*SHELL, "sleep 1"])
    child = os.fork()
    if child == 0:
        try:
            code = 0 if offload.get(job.id).result(30) == 0 and offload.submit(pow, 2, 2).result(30) == 4 else 1
        except BaseException:
            code = 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert job.result(30) == 0


def test_a_deleted_job_is_gone() -> None:
    job = offload.submit(pow, 1, 1)
    job.result(60)
    job.delete()
    with pytest.raises(UnknownName):
        offload.get(job.id)


def test_what_the_site_lacks_is_said_before_anything_is_sent() -> None:
    before = len(offload.jobs())
    with pytest.raises((CapabilityMissing, UnknownName)):
        offload.options(image="docker://example.org/x:1").run(["true"])
    assert len(offload.jobs()) == before
