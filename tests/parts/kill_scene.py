"""Many jobs alive at once while the service is killed with SIGKILL again and again, at seeded moments."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from pathlib import Path

from jupyter_offload.job import State
from parts.service import Service
from parts.submissions import command


def kill_scene(
    service: Service, ran: Path, *, points: int, jobs: int, seed: int, seconds: float, pauses: list[float]
) -> None:
    """Every job must succeed, run exactly once (each appends its number to ``ran``) and bring its file home."""
    rng = random.Random(seed)
    requests = [
        command("sh", "-c", f"echo {number} >>{ran}; sleep {rng.uniform(0, 2):.2f}; echo {number} >out", fetch=("out",))
        for number in range(jobs)
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
        time.sleep(rng.choice(pauses) * rng.random())
        service.kill()
        service.start()
    for request in waiting:
        assert service.put(request)[0] in (200, 201)
    ended = service.wait(*(request.id for request in requests), seconds=seconds)
    assert {job.state for job in ended} == {State.SUCCEEDED}, [
        (job.id, job.state, job.reason) for job in ended if job.state is not State.SUCCEEDED
    ]
    counts = Counter(ran.read_text().split())
    assert counts == {str(number): 1 for number in range(jobs)}, (
        f"seed {seed}: {[item for item in counts.items() if item[1] != 1]}"
    )
    for number, request in enumerate(requests):
        assert service.ask("GET", f"/jobs/{request.id}/files/out")[1] == f"{number}\n".encode()
