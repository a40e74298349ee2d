"""A service over a site in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from parts.memory_site import MemorySite
from parts.submissions import bundle

from jupyter_offload.job import Job, Request, State
from jupyter_offload.service import pause
from jupyter_offload.service.folders import Folders
from jupyter_offload.service.local import Local
from jupyter_offload.service.service import Accepted
from jupyter_offload.service.siteview import SiteEntry


class Bench:
    """The service under test; `restart` makes a new one on the same data, as after a kill when ``killed``."""

    def __init__(self, root: Path, site: MemorySite) -> None:
        self.folders = Folders(root / "data")
        self.incoming = root
        self.site = site
        self.service: Local = None  # type: ignore[assignment]
        self.now = 0.0

    async def start(self) -> None:
        import time

        self.service = await Local.open(
            self.folders,
            {self.site.name: SiteEntry(self.site)},
            self.site.name,
            wall=lambda: time.time() + self.now,
            rng=random.Random(1),
        )

    async def restart(self, *, killed: bool = False) -> None:
        if killed:
            await kill(self.service)
        else:
            await self.service.close()
        await self.start()

    async def submit(self, request: Request, owner: str = "ann", **options: object) -> Accepted:
        secrets = options.pop("secrets", None)
        path = bundle(self.incoming, request, secrets=secrets)
        return await self.service.submit(owner, request.id, path, **options)

    async def until(self, job_id: str, *states: State, owner: str = "ann") -> Job:
        """Wait until the job is in one of the states (none: until it ends)."""

        def there(job: Job) -> bool:
            return job.state in states if states else job.state.terminal

        return await self.when(job_id, there, owner)

    async def when(self, job_id: str, there: Callable[[Job], bool], owner: str = "ann") -> Job:
        async def wait() -> Job:
            since = 0
            while True:
                job = await self.service.job(owner, job_id)
                if there(job):
                    return job
                since = (await self.service.jobs(owner, since=max(since, job.revision), wait_seconds=1)).revision

        return await asyncio.wait_for(wait(), 10)


async def kill(service: Local) -> None:
    """End it as SIGKILL would: nothing is finished, nothing flushed beyond what is on disk."""
    writing = service._ledger._writing
    await pause.stop([*service._manager._tasks, *service._loops, *([writing] if writing else [])])
    await asyncio.get_running_loop().run_in_executor(service._ledger._thread, service._ledger._store.close)
    service._ledger._thread.shutdown()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pause, "STEPS_SECONDS", (0.01, 0.02, 0.05))


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, MemorySite())
    await made.start()
    yield made
    await made.service.close()


Waiter = Callable[..., Awaitable[Job]]
