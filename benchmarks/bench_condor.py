"""CondorBatch beside the raw HTCondor bindings, in one run, in the same mode, on the same pool.

    python benchmarks/bench_condor.py --pool dev [--rounds 5] [--tasks 1000] [--modes spool,shared]

Cold no-op: submit one task → its end is known and its files are here; both look every 30 ms. Many tasks: one call that hands over
N tasks with two files each (raw: one `submit` with itemdata, and one `spool`). Raw and ours take turns, so that both see the same load.
The raw client runs in a process of its own, as anybody's would; its jobs are described by the same submit description.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from parts.pool import Pool, describe

from jupyter_offload.batch.base import Demand, Handle, Submission
from jupyter_offload.batch.condor.batch import CondorBatch
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.batch.condor.description import COLUMNS, items, template
from jupyter_offload.batch.condor.environment import prepare
from jupyter_offload.job import State

POLL_SECONDS = 0.03
KNOBS = (
    "NEGOTIATOR_INTERVAL",
    "NEGOTIATOR_MIN_INTERVAL",
    "NEGOTIATOR_CYCLE_DELAY",
    "SCHEDD_INTERVAL",
    "SCHEDD_MIN_INTERVAL",
    "UPDATE_INTERVAL",
    "CLAIM_WORKLIFE",
)

# The raw client: reads orders as JSON lines, answers with seconds.
RAW = """
import json, sys, time
import htcondor2, classad2
first = json.loads(sys.stdin.readline())
location = htcondor2.Collector(first["collector"]).locate(htcondor2.DaemonType.Schedd, first["schedd"])
schedd = htcondor2.Schedd(location)
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    order = json.loads(line)
    begun = time.perf_counter()
    result = schedd.submit(htcondor2.Submit(order["description"]), spool=order["spool"], itemdata=iter(order["items"]))
    if order["spool"]:
        schedd.spool(result)
    handed = time.perf_counter() - begun
    constraint = f"ClusterId == {result.cluster()}"
    answer = {"handed": handed}
    if order["wait"]:
        while True:
            [ad] = schedd.query(constraint, ["JobStatus"])
            if ad["JobStatus"] == 4:
                break
            time.sleep(order["poll"])
        answer["ended"] = time.perf_counter() - begun
        if order["spool"]:
            schedd.retrieve(constraint)
        answer["done"] = time.perf_counter() - begun
    for _ in range(3):
        moment = time.perf_counter()
        schedd.query(constraint, order["projection"])
        answer["look"] = time.perf_counter() - moment
    schedd.act(htcondor2.JobAction.Remove, constraint, ("bench", 0))
    print(json.dumps(answer), flush=True)
"""


class Raw:
    """The raw client's process."""

    def __init__(self, config: CondorConfig) -> None:
        self._identity = prepare(config, {})
        self._spool = config.spool
        self._process = subprocess.Popen(
            [sys.executable, "-c", RAW],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(self._identity.environment),
        )
        self._ask({"collector": config.collector, "schedd": config.schedd})

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def run(self, job: Submission, config: CondorConfig, *, wait: bool) -> dict[str, float]:
        """Hand a job over as a user of the bindings would: runnable at once."""
        from jupyter_offload.batch.condor.states import PROJECTION

        description = template(job, config).description
        description.pop("hold", None)
        description.pop("MY.JobStatusOnRelease", None)
        if not wait:
            description["requirements"] = "false"
        for index in range(job.tasks):
            _own(Path(job.folder, f"task-{index}"), make=True)
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in items(job)]
        order = {"description": description, "items": rows, "spool": self._spool, "wait": wait}
        return self._ask({**order, "poll": POLL_SECONDS, "projection": list(PROJECTION)})

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._identity.discard()


def _own(path: Path, *, make: bool = False) -> None:
    if make:
        path.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(path, 1001, 1001)  # alice, as whom the pool runs the jobs


def _job(root: Path, tasks: int) -> Submission:
    folder = root / uuid.uuid4().hex
    folder.mkdir()
    (folder / "job.sh").write_text("tar cf output.tar job.sh\n")
    (folder / "inputs.tar").write_bytes(bytes(1000))
    for path in (folder, *folder.iterdir()):
        _own(path)
    demand = Demand(cpus=1, memory_bytes=64 << 20, disk_bytes=16 << 20)
    return Submission(
        uuid.uuid4().hex,
        uuid.uuid4().hex,
        "bench",
        "bench",
        str(folder),
        "job.sh",
        ("inputs.tar",),
        tasks=tasks,
        demand=demand,
    )


async def _cold(batch: CondorBatch, job: Submission) -> dict[str, float]:
    for index in range(job.tasks):
        _own(Path(job.folder, f"task-{index}"), make=True)
    begun = time.perf_counter()
    [handles] = await batch.submit([job])
    await batch.start(handles)
    handed = time.perf_counter() - begun
    while True:
        [status] = await batch.poll(handles)
        if status.state in (State.FINISHING, State.FAILED, State.HELD):
            break
        await asyncio.sleep(POLL_SECONDS)
    ended = time.perf_counter() - begun
    [fetched] = await batch.fetch(handles)
    done = time.perf_counter() - begun
    assert fetched.output, (status, fetched)
    await batch.remove(handles)
    return {"handed": handed, "ended": ended, "done": done}


async def _many(batch: CondorBatch, jobs: list[Submission]) -> dict[str, float]:
    for job in jobs:
        for index in range(job.tasks):
            _own(Path(job.folder, f"task-{index}"), make=True)
    begun = time.perf_counter()
    groups = await batch.submit(jobs)
    handed = time.perf_counter() - begun
    handles: list[Handle] = [handle for group in groups for handle in group]
    for _ in range(3):
        moment = time.perf_counter()
        await batch.poll(handles)
        look = time.perf_counter() - moment
    await batch.remove(handles)
    return {"handed": handed, "look": look}


def _line(what: str, raw: list[float], ours: list[float], unit: float = 1.0) -> None:
    left, right = statistics.median(raw) / unit, statistics.median(ours) / unit
    spread = " ".join(f"{value / unit:.3f}" for value in raw), " ".join(f"{value / unit:.3f}" for value in ours)
    print(
        f"  {what:34} raw {left:8.3f}   ours {right:8.3f}   ratio {right / left:5.2f}   raw [{spread[0]}] ours [{spread[1]}]"
    )


async def _bench(pool: Pool, mode: str, rounds: int, tasks: int, root: Path) -> None:
    config = CondorConfig(
        collector=pool.collector, schedd=pool.schedd, token_file=pool.token_file(), shared_filesystem=mode == "shared"
    )
    batch, raw = CondorBatch(config), Raw(config)
    try:
        await batch.describe()
        await _cold(batch, _job(root, 1))  # warms both sides' connections
        raw.run(_job(root, 1), config, wait=True)
        print(f"{mode}: cold no-op, seconds, {rounds} rounds in turns")
        raw_rounds, our_rounds = [], []
        for _ in range(rounds):
            raw_rounds.append(raw.run(_job(root, 1), config, wait=True))
            our_rounds.append(await _cold(batch, _job(root, 1)))
        for key, words in (
            ("handed", "handed over and runnable"),
            ("ended", "end is known"),
            ("done", "files are here"),
        ):
            _line(words, [one[key] for one in raw_rounds], [one[key] for one in our_rounds])
        print(f"{mode}: {tasks} tasks handed over in one call, seconds, 3 rounds in turns")
        raw_many, our_one, our_many = [], [], []
        for _ in range(3):
            raw_many.append(raw.run(_job(root, tasks), config, wait=False))
            our_one.append(await _many(batch, [_job(root, tasks)]))
            before = batch.schedd.counts["submit"]
            our_many.append(await _many(batch, [_job(root, 1) for _ in range(tasks)]))
            submits = batch.schedd.counts["submit"] - before
        _line(
            f"one submission of {tasks} tasks", [one["handed"] for one in raw_many], [one["handed"] for one in our_one]
        )
        _line(
            f"{tasks} submissions ({submits} schedd submits)",
            [one["handed"] for one in raw_many],
            [one["handed"] for one in our_many],
        )
        _line(
            f"one look at {tasks} jobs, ms", [one["look"] for one in raw_many], [one["look"] for one in our_one], 1e-3
        )
    finally:
        raw.close()
        await batch.close()


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pool", default="tests", help="name of a running pool (containers/htcondor/pool up)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--modes", default="spool,shared")
    arguments = parser.parse_args()
    tokens = Path(tempfile.mkdtemp(prefix="bench-condor-"))
    pool = Pool(describe(arguments.pool), tokens)
    print(
        f"pool {arguments.pool}, HTCondor config {pool.description.get('config')}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    for knob in KNOBS:
        node = "cm" if knob.startswith("NEGOTIATOR") else "ap"
        print(f"  {knob} = {pool.exec(node, 'condor_config_val', knob).strip()}")
    try:
        for mode in arguments.modes.split(","):
            root = Path(tempfile.mkdtemp(prefix="bench-", dir=pool.share if mode == "shared" else None))
            _own(root)
            try:
                asyncio.run(_bench(pool, mode, arguments.rounds, arguments.tasks, root))
            finally:
                shutil.rmtree(root, ignore_errors=True)
    finally:
        shutil.rmtree(tokens, ignore_errors=True)


if __name__ == "__main__":
    main()
