"""A no-op cell from the kernel and back, beside the same script submitted by the raw bindings: in turns, begun at random moments.

Each of our cells notes the time of every step by the clock of one machine, so that it can be told where the time goes.
"""

from __future__ import annotations

import itertools
import random
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from figures import Figure, Table, middle, spread
from place import Client, Place
from raw import condor_config, order_of

from jupyter_offload.batch.base import Demand, Submission

__all__ = ["Rounds", "cold", "local", "summary"]

_STEPS = (
    ("put", "kernel: capture, encode, bundle"),
    ("put_done", "PUT: service checks, stores, answers"),
    ("script", "service: Work, Pod to script, inputs.tar"),
    ("queued", "site: handed over and made runnable"),
    ("started", "site: waits until the script starts"),
    ("main_started", "script: unpacks, starts the container"),
    ("executed", "python, runner, IPython import, until the cell executes"),
    ("main_finished", "cell, result written, python ends"),
    ("finished", "script: logs, output.tar"),
    ("result", "end seen, files fetched and checked, result in the kernel"),
)


class Rounds:
    """The measured rounds of one mode."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.ours: list[dict[str, float]] = []
        self.raw: list[dict[str, float]] = []
        self.first: float | None = None

    def of(self, side: str, key: str) -> list[float]:
        """Return one moment of every round of a side (``ours`` or ``raw``)."""
        return [one[key] for one in getattr(self, side)]

    @property
    def beyond(self) -> float:
        """Seconds beyond raw: the difference of the medians."""
        return middle(self.of("ours", "result")) - middle(self.of("raw", "result"))

    @property
    def ratio(self) -> float:
        """Ours to raw, of the medians."""
        return middle(self.of("ours", "result")) / middle(self.of("raw", "result"))

    def handled(self) -> dict[str, tuple[list[float], list[float]]]:
        """Split both sides: what the client does before and after, and what is in HTCondor's hands in between."""

        def parts(side: str, handed: str) -> tuple[list[float], list[float], list[float], list[float]]:
            rows = getattr(self, side)
            return (
                [one[handed] for one in rows],
                [one["started"] - one[handed] for one in rows],
                [one["finished"] - one["started"] for one in rows],
                [one["result"] - one["finished"] for one in rows],
            )

        words = ("handed over, runnable", "waits for its start", "script runs", "end seen, files fetched, result")
        return dict(zip(words, zip(parts("ours", "queued"), parts("raw", "handed"), strict=True), strict=True))

    @property
    def client_beyond(self) -> float:
        """Seconds beyond raw before a job is runnable and after its script has ended: free of the negotiator's phase."""
        handled = self.handled()
        return sum(
            middle(handled[words][0]) - middle(handled[words][1])
            for words in ("handed over, runnable", "end seen, files fetched, result")
        )


def cold(
    where: Place, told: dict[str, Any], title: str, *, rounds: int, jitter_seconds: float, seed: int = 1
) -> Rounds:
    """Measure ``rounds`` cells and as many raw jobs, in turns, each begun after a random pause of up to ``jitter_seconds``."""
    found = Rounds(title)
    rng = random.Random(seed)
    tag = uuid.uuid4().hex[:6]
    number = itertools.count()
    with Client(where, "kernel.py", {"do": "hello"}) as kernel, Client(where, "raw.py", told) as raw:

        def ours(keep: str = "") -> dict[str, float]:
            name = f"bench-{tag}-{next(number)}"
            return kernel.ask(do="cell", name=name, options="--cpus 1", jobs=str(where.jobs), keep=keep)

        kept = where.root / "kept"
        found.first = ours(str(kept))["result"]
        if jitter_seconds < 10:
            _raw(where, raw, told, kept)  # warms its connection; on a default pool that is nothing beside the waiting
        for turn in range(rounds):
            for side in ("ours", "raw") if turn % 2 else ("raw", "ours"):
                time.sleep(rng.uniform(0, jitter_seconds))
                if side == "ours":
                    found.ours.append(ours())
                else:
                    found.raw.append(_raw(where, raw, told, kept))
    return found


def _raw(where: Place, raw: Client, told: dict[str, Any], kept: Path) -> dict[str, float]:
    """Submit the script and inputs that one of our cells had, and wait."""
    import json
    import os
    import tarfile

    folder = where.root / f"raw-{uuid.uuid4().hex}"
    shutil.copytree(kept, folder)
    (folder / "task-0").mkdir(mode=0o700)
    if where.user is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, where.user, where.user)
    inputs = tuple(path.name for path in folder.glob("inputs*.tar"))
    job = Submission(
        uuid.uuid4().hex, uuid.uuid4().hex, "bench", "bench", str(folder), "job.sh", inputs, demand=Demand()
    )
    answer = raw.ask(**order_of([job], condor_config(told), wait=True))
    with tarfile.open(folder / "task-0" / "output.tar") as archive:
        member = archive.extractfile("status.json")
        assert member is not None
        status = json.load(member)
    assert status["phase"] == "Succeeded", status
    shutil.rmtree(folder)
    times = {key: float(answer[key]) for key in ("handed", "ended", "result")}
    return {**times, "started": status["started"] - answer["begun"], "finished": status["finished"] - answer["begun"]}


def summary(found: Rounds) -> Table:
    """Return ours beside raw, with the parts."""
    rows = [["", "raw bindings", "jupyter_offload", "beyond raw"]]
    pairs = {"**submit to result**": (found.of("ours", "result"), found.of("raw", "result")), **found.handled()}
    for words, (ours, raw) in pairs.items():
        rows.append([words, spread(raw), spread(ours), f"{(middle(ours) - middle(raw)) * 1e3:+,.0f} ms"])
    note = (
        f"Ratio of the medians {found.ratio:.3f}. Client's own time beyond raw (first and last part): "
        f"{found.client_beyond * 1e3:+,.0f} ms. First cell of the kernel, with the start of the service: {found.first:.2f} s."
    )
    return Table(found.title, rows, note)


def steps(title: str, rounds: list[dict[str, float]], note: str = "") -> Table:
    """Return where the time of our cells goes."""
    rows = [["step", "takes (median, min–max)", "reached after"]]
    before = [0.0] * len(rounds)
    for key, words in _STEPS:
        now = [one[key] for one in rounds]
        taken = [max(0.0, b - a) for a, b in zip(before, now, strict=True)]
        if any(b < a - 0.004 for a, b in zip(before, now, strict=True)):
            words += " (overlaps the step before)"
        rows.append([words, spread(taken, "ms", 1e3, 0), f"{middle(now) * 1e3:,.0f} ms"])
        before = [max(a, b) for a, b in zip(before, now, strict=True)]
    return Table(title, rows, note)


def local(where: Place, rounds: int) -> tuple[list[dict[str, float]], float, str]:
    """Measure no-op cells on the local site; return the rounds, the first one's seconds, and the kernel's Python."""
    tag = uuid.uuid4().hex[:6]
    with Client(where, "kernel.py", {"do": "hello"}) as kernel:
        done = [
            kernel.ask(do="cell", name=f"bench-{tag}-{number}", options="", jobs=str(where.jobs))
            for number in range(rounds + 1)
        ]
        return done[1:], done[0]["result"], str(kernel.hello["python"])


def blocking(where: Place, rounds: int) -> tuple[list[Figure], Table]:
    """Measure for how long `%%offload` keeps the kernel, by the size of its inputs."""
    tag = uuid.uuid4().hex[:6]
    number = itertools.count()
    found: dict[float, list[dict[str, float]]] = {}
    with Client(where, "kernel.py", {"do": "hello"}) as kernel:

        def block(megabytes: float) -> dict[str, float]:
            name = f"block-{tag}-{next(number)}"
            answer = kernel.ask(do="block", name=name, options="", megabytes=megabytes)
            ended = kernel.ask(do="wait", name=name)  # the job must not take part in the next measurement
            assert ended["state"] == "succeeded", ended
            return answer

        block(1.0)  # starts the service and imports what the first use needs
        for megabytes in (0.001, 1.0, 10.0):
            found[megabytes] = [block(megabytes) for _ in range(rounds)]
    rows = [["inputs", "kernel blocked", "of it until the PUT", "of it in the PUT"]]
    for megabytes, values in found.items():
        cells = [spread([one[key] for one in values], "ms", 1e3, 1) for key in ("blocked", "prepare", "put")]
        rows.append([f"{megabytes:g} MB", *cells])
    one = [value["blocked"] for value in found[1.0]]
    figure = Figure(
        "`%%offload` with 1 MB of inputs blocks the kernel", "≤ 50 ms", spread(one, "ms", 1e3, 1), middle(one) <= 0.05
    )
    return [figure], Table("How long a cell keeps the kernel (local site, service running)", rows)
