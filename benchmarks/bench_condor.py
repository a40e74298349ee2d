"""1,000 Pods in one call, and looks at 1, 100 and 1,000 jobs, beside the raw bindings in the same mode on the same pool.

Runs as a process of the pool's user: one order (JSON) on standard input, all measurements on standard output. Raw and ours take turns. The
jobs require ``false``, so that the pool does not run them while it is measured.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from bench_translate import work
from raw import condor_config, order_of

from jupyter_offload.batch.condor.batch import CondorBatch
from jupyter_offload.pod import Work
from jupyter_offload.sites.direct import DirectSite
from jupyter_offload.sites.schema import SiteConfig, SitesConfig


class Raw:
    """The raw client, ordered from here."""

    def __init__(self, told: dict[str, Any]) -> None:
        script = str(Path(__file__).with_name("raw.py"))
        self._process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ask(told)

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


class Counting(CondorBatch):
    """The batch, with the times of its own calls noted: what is left of a site's call is the translator's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.times: dict[str, float] = {}
        self.submissions: list[Any] = []

    async def submit(self, submissions: Any) -> Any:
        self.submissions = list(submissions)
        begun = time.perf_counter()
        try:
            return await super().submit(submissions)
        finally:
            self.times["batch"] = time.perf_counter() - begun


def _site(told: dict[str, Any], batch: CondorBatch) -> DirectSite:
    plain = {
        "batch": {
            "type": "condor",
            "collector": told["collector"],
            "schedd": told["schedd"],
            "token_file": told["token_file"],
            "filesystem": "shared" if told["shared"] else "spool",
        },
        "policy": {"images": ["*"]},
    }
    config: SiteConfig = SitesConfig.model_validate({"sites": {"pool": plain}}).sites["pool"]
    return DirectSite("pool", config, batch, "apptainer")


def _works(root: Path, count: int) -> tuple[list[Work], list[str], Path]:
    here = root / uuid.uuid4().hex
    here.mkdir(mode=0o700)
    works, folders = [], []
    for _ in range(count):
        job_id = uuid.uuid4().hex
        folder = here / job_id
        folder.mkdir(mode=0o700)
        pod = work("/images/none", ["true"]).pod
        works.append(Work(job_id, "bench", "bench", pod))
        folders.append(str(folder))
    return works, folders, here


async def _submit(site: DirectSite, batch: Counting, root: Path, count: int) -> tuple[dict[str, Any], list[Any], Path]:
    works, folders, here = _works(root, count)
    before = dict(batch.schedd.counts)
    begun = time.perf_counter()
    groups = await site.submit(works, folders, uuid.uuid4().hex)
    submitted = time.perf_counter() - begun
    handles = [handle for group in groups for handle in group]
    await site.start(handles)
    started = time.perf_counter() - begun
    after = batch.schedd.counts
    found = {
        "site": submitted,
        "batch": batch.times["batch"],
        "start": started - submitted,
        "submits": after.get("submit", 0) - before.get("submit", 0),
        "clusters": len({handle.id.rpartition("#")[2].partition(".")[0] for handle in handles}),
    }
    return found, handles, here


async def main() -> int:
    """Measure what the order says."""
    order = json.loads(sys.stdin.readline())
    told = {**order["told"], "submit": {"requirements": "false"}}
    root, sizes = Path.cwd(), order["sizes"]
    batch = Counting(condor_config(told), environ={})
    site, raw = _site(told, batch), Raw(told)
    many: list[dict[str, Any]] = []
    looks: dict[int, dict[str, Any]] = {}
    try:
        _, handles, here = await _submit(site, batch, root, 1)  # workers are started, connections are open
        raw.ask(order_of(batch.submissions, batch.config, wait=False))
        await site.remove(handles)
        for _ in range(order["rounds"]):
            for size in sizes:
                found, handles, here = await _submit(site, batch, root, size)
                entry = looks.setdefault(size, {"ours": [], "raw": [], "queries": set()})
                for _ in range(3):
                    before = batch.schedd.counts.get("query", 0)
                    begun = time.perf_counter()
                    seen = await site.look(handles)
                    entry["ours"].append(time.perf_counter() - begun)
                    entry["queries"].add(batch.schedd.counts["query"] - before)
                    assert len(seen) == size
                await site.remove(handles)
                answer = raw.ask(order_of(batch.submissions, batch.config, wait=False, looks=3))
                assert answer["rows"] == size, answer
                entry["raw"] += answer["looks"]
                shutil.rmtree(here)
                if size == max(sizes):
                    many.append({**found, "raw": answer["handed"]})
    finally:
        raw.close()
        await site.close()
    for entry in looks.values():
        entry["queries"] = sorted(entry["queries"])
    print(json.dumps({"many": many, "looks": looks}))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
