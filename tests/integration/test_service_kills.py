"""The service is killed with SIGKILL at any point: every job runs exactly once and comes home."""

from __future__ import annotations

import contextlib
import time
from collections import Counter

import pytest
from parts.kill_scene import kill_scene
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
    pauses = [0.0, 0.005, 0.02, 0.05, 0.1, 0.3]
    ran = service.root / "ran"
    kill_scene(service, ran, points=points, jobs=jobs_count, seed=seed, seconds=120 + jobs_count, pauses=pauses)


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
