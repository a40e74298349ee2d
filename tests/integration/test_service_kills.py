"""The service is killed with SIGKILL at any point: every job runs exactly once and comes home."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter

import pytest
from parts.service import Service
from parts.submissions import command

from jupyter_offload.job import State


@pytest.fixture
def service(tmp_path):
    part = Service(tmp_path)
    yield part
    part.close()


@pytest.mark.parametrize(
    ("points", "jobs_count", "seed"),
    [
        pytest.param(20, 24, 20, marks=pytest.mark.timeout(280)),
        pytest.param(200, 240, 200, marks=[pytest.mark.soak, pytest.mark.timeout(3000)]),
    ],
)
def test_kills_lose_no_job_and_run_none_twice(service, points, jobs_count, seed):
    rng = random.Random(seed)
    ran = service.root / "ran"
    requests = [
        command("sh", "-c", f"echo {number} >>{ran}; sleep {rng.uniform(0, 2):.2f}; echo {number} >out", fetch=("out",))
        for number in range(jobs_count)
    ]
    waiting = list(requests)
    service.start()
    for _ in range(points):
        for request in waiting[:2]:
            # the client repeats what it got no answer to, under the same id
            with contextlib.suppress(OSError):
                status, _ = service.put(request)
                assert status in (200, 201)
                waiting.remove(request)
        time.sleep(rng.choice([0.0, 0.005, 0.02, 0.05, 0.1, 0.3]) * rng.random())
        service.kill()
        service.start()
    for request in waiting:
        assert service.put(request)[0] in (200, 201)
    jobs = service.wait(*(request.id for request in requests), seconds=120 + jobs_count)
    assert {job.state for job in jobs} == {State.SUCCEEDED}, [(job.id, job.reason) for job in jobs]
    counts = Counter(ran.read_text().split())
    assert counts == {str(number): 1 for number in range(jobs_count)}, f"seed {seed}"
    for number, request in enumerate(requests):
        assert service.ask("GET", f"/jobs/{request.id}/files/out")[1] == f"{number}\n".encode()


def test_kills_while_one_submission_is_received(service):
    """Killed at many moments of a single PUT and the repeated PUT is idempotent."""
    ran = service.root / "ran"
    service.start()
    requests = []
    for step in range(8):
        request = command("sh", "-c", f"echo {step} >>{ran}")
        requests.append(request)
        import threading

        def put(request=request):
            with contextlib.suppress(OSError):
                service.put(request)

        thread = threading.Thread(target=put)
        thread.start()
        time.sleep(step * 0.004)
        service.kill()
        thread.join()
        service.start()
        assert service.put(request)[0] in (200, 201)
    jobs = service.wait(*(request.id for request in requests))
    assert {job.state for job in jobs} == {State.SUCCEEDED}
    assert Counter(ran.read_text().split()) == {str(step): 1 for step in range(8)}
