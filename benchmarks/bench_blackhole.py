"""A schedd that accepts connections and never answers: how long the event loop of the service stands still meanwhile."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

from figures import Figure, Table, middle

from jupyter_offload.batch.base import Handle, Submission
from jupyter_offload.batch.condor.batch import CondorBatch
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.errors import SiteError

TICK_SECONDS = 0.002
LONGEST_SECONDS = 3.0
"""How long a call is watched: the deadline of a submission grows with its jobs."""


async def _gap(call: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return the longest time that the loop did not run during ``call``, and how long the call took."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        last = time.perf_counter()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.perf_counter()
            longest = max(longest, now - last - TICK_SECONDS)
            last = now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.02)
    begun = time.perf_counter()
    with contextlib.suppress(SiteError, asyncio.TimeoutError):
        await asyncio.wait_for(call(), LONGEST_SECONDS)
    taken = time.perf_counter() - begun
    await asyncio.sleep(0.01)
    ticking.cancel()
    return longest, taken


def _part(data: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()


def _job(folder: Path) -> Submission:
    folder.mkdir(exist_ok=True)
    (folder / "job.sh").write_text("true\n")
    return Submission(uuid.uuid4().hex, "b" * 32, "alice", "x", str(folder), "job.sh")


async def _measure(folder: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        hole = f"127.0.0.1:{server.getsockname()[1]}"
        token = folder / "token"
        token.write_text(f"{_part({'alg': 'HS256'})}.{_part({'iss': 'pool', 'sub': 'alice@pool'})}.{'a' * 43}\n")
        token.chmod(0o600)
        config = CondorConfig(
            collector=hole,
            schedd="ap",
            token_file=token,
            locate_seconds=1,
            query_seconds=1,
            act_seconds=1,
            submit_seconds=1,
        )
        for _ in range(rounds):
            batch = CondorBatch(config, environ={})
            # As if the collector had told where the schedd is; only then do the calls reach it.
            batch.schedd._location = {
                "MyAddress": f"<{hole}>",
                "Name": "ap",
                "CondorVersion": "$CondorVersion: 25.14.1 $",
            }
            handles = [Handle(f"ap#1.{n}", f"{n:032x}", 0, "b" * 32, str(folder)) for n in range(1000)]
            jobs = [_job(folder / f"{n}") for n in range(1000)]
            calls = {
                "none, for scale: the machine's own": lambda: asyncio.sleep(1),
                "poll of 1,000 jobs": lambda batch=batch, handles=handles: batch.poll(handles),
                "submit": lambda batch=batch, jobs=jobs: batch.submit(jobs[:1]),
                "submit of 1,000 jobs": lambda batch=batch, jobs=jobs: batch.submit(jobs),
                "start": lambda batch=batch, handles=handles: batch.start(handles[:1]),
                "cancel": lambda batch=batch, handles=handles: batch.cancel(handles[:1], "x"),
                "describe": lambda batch=batch: batch.describe(),
            }
            try:
                for name, call in calls.items():
                    batch.schedd.breaker.succeeded()  # or the later calls would not be made at all
                    found.setdefault(name, []).append(await _gap(call))
            finally:
                await batch.close()
    return found


def measure(rounds: int) -> tuple[list[Figure], Table]:
    """Measure all calls, one after the other."""
    with tempfile.TemporaryDirectory() as name:
        found = asyncio.run(_measure(Path(name), rounds))
    rows = [["call", "largest gap of the event loop", "the call was watched for"]]
    for name, values in found.items():
        rows.append([name, f"{max(gap for gap, _ in values) * 1e3:.1f} ms", f"{middle([s for _, s in values]):.1f} s"])
    worst = max(gap for name, values in found.items() if not name.startswith("none") for gap, _ in values)
    figure = Figure("Black-hole schedd: largest event-loop gap", "≤ 50 ms", f"{worst * 1e3:.1f} ms", worst <= 0.05)
    return [figure], Table("A schedd that never answers (deadlines of 1 s)", rows)
