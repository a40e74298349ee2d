"""A site in memory, for faults that no real site can be made to have at a given moment: it hangs, breaks off before or after the deed, loses
a task and finds it again, evicts. It also counts what nobody may do twice."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jupyter_offload.errors import BatchNotFound, JobFailed, SiteUnreachable
from jupyter_offload.job import State
from jupyter_offload.payload.bundle import BundleWriter
from jupyter_offload.pod import Work
from jupyter_offload.sites.base import (
    Capabilities,
    Check,
    FileEntry,
    Found,
    Image,
    Limits,
    LogChunk,
    Outcome,
    SiteHandle,
    SiteInfo,
    TaskStatus,
)


@dataclass
class Entry:
    work: Work
    handle: SiteHandle
    status: TaskStatus
    runnable: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    outcome: State = State.SUCCEEDED
    log: bytes = b""


class MemorySite:
    def __init__(self, name: str = "mem", info: SiteInfo | None = None) -> None:
        self.name = name
        self.info = info or SiteInfo(name, "direct", capabilities=Capabilities(logs="live"), python="3.11")
        self.entries: dict[str, Entry] = {}
        self.faults: dict[str, deque[object]] = {}
        self.calls: list[tuple[str, int]] = []
        self.down: Exception | None = None
        self.starts: list[str] = []
        """Job ids in the order in which a task of theirs became runnable for the first time."""
        self.changed = asyncio.Event()
        self._number = 0

    # -- what tests do ------------------------------------------------------------------------------------------------------------

    def fail(self, call: str, *faults: object) -> None:
        """``"before"``: break off before the deed; ``"after"``: after it; an exception: raise it; an event: wait for it first."""
        self.faults.setdefault(call, deque()).extend(faults)

    async def called(self, call: str, times: int = 1) -> None:
        """Wait until a method was called so often."""
        while sum(name == call for name, _ in self.calls) < times:
            await asyncio.sleep(0.005)

    def of(self, job_id: str) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.handle.job_id == job_id]

    def set(self, job_id: str, state: State, **changes: object) -> None:
        for entry in self.of(job_id):
            entry.status = replace(entry.status, state=state, **changes)
        self.changed.set()

    def finish(
        self, job_id: str, outcome: State = State.SUCCEEDED, files: dict[str, bytes] | None = None, log: bytes = b""
    ) -> None:
        for entry in self.of(job_id):
            entry.files, entry.outcome, entry.log = files or {}, outcome, log
        self.set(job_id, State.FINISHING)

    # -- Site ---------------------------------------------------------------------------------------------------------------------

    async def _enter(self, call: str, size: int = 0) -> bool:
        """Count the call, break off if told so; return whether to break off afterwards."""
        self.calls.append((call, size))
        await asyncio.sleep(0)
        if self.down is not None:
            raise self.down
        fault = self.faults[call].popleft() if self.faults.get(call) else None
        if isinstance(fault, asyncio.Event):
            await fault.wait()
        elif isinstance(fault, Exception):
            raise fault
        elif fault == "before":
            raise SiteUnreachable(f"{call}: no connection", hint="Plug it in.")
        return fault == "after"

    def _leave(self, call: str, broken: bool) -> None:
        if broken:
            raise SiteUnreachable(f"{call}: the connection broke off", hint="Plug it in.")

    async def submit(self, works: Sequence[Work], folders: Sequence[str], attempt: str) -> list[list[SiteHandle]]:
        broken = await self._enter("submit", len(works))
        handles = []
        for work, folder in zip(works, folders, strict=True):
            assert Path(folder).is_dir()
            mine = []
            for index in range(work.tasks):
                self._number += 1
                handle = SiteHandle(work.job_id, index, attempt, f"{self._number}", folder)
                self.entries[handle.id] = Entry(work, handle, TaskStatus(handle, State.PREPARING))
                mine.append(handle)
            handles.append(mine)
        self._leave("submit", broken)
        return handles

    async def start(self, handles: Sequence[SiteHandle]) -> None:
        broken = await self._enter("start", len(handles))
        for handle in handles:
            entry = self.entries.get(handle.id)
            if entry is not None and not entry.runnable:
                entry.runnable = True
                entry.status = replace(entry.status, state=State.QUEUED)
                self.starts.append(handle.job_id)
        self.changed.set()
        self._leave("start", broken)

    async def look(self, handles: Sequence[SiteHandle]) -> list[TaskStatus]:
        await self._enter("look", len(handles))
        return [
            self.entries[handle.id].status
            if handle.id in self.entries
            else TaskStatus(handle, State.LOST, "no trace of it")
            for handle in handles
        ]

    async def watch(self, active: Callable[[], Sequence[SiteHandle]]) -> AsyncIterator[list[TaskStatus]]:
        while True:
            self.changed.clear()
            yield await self.look(active())
            try:
                await asyncio.wait_for(self.changed.wait(), 0.02)
            except asyncio.TimeoutError:
                continue

    async def find(self, job_ids: Sequence[str]) -> list[Found]:
        await self._enter("find", len(job_ids))
        wanted = set(job_ids)
        return [
            Found(entry.status, entry.runnable)
            for entry in self.entries.values()
            if not wanted or entry.handle.job_id in wanted
        ]

    async def logs(
        self, handle: SiteHandle, container: str, stream: str, offset: int, limit: int = 1 << 20
    ) -> LogChunk:
        await self._enter("logs")
        data = self.entries[handle.id].log if stream == "stdout" else b""
        return LogChunk(data[offset : offset + limit], offset)

    async def cancel(self, handles: Sequence[SiteHandle], reason: str) -> None:
        broken = await self._enter("cancel", len(handles))
        for handle in handles:
            entry = self.entries[handle.id]
            if entry.status.state not in (State.FINISHING, State.CANCELLED):
                entry.status = replace(entry.status, state=State.CANCELLED, reason=reason)
        self.changed.set()
        self._leave("cancel", broken)

    async def fetch(self, handles: Sequence[SiteHandle]) -> list[Outcome]:
        broken = await self._enter("fetch", len(handles))
        outcomes = []
        for handle in handles:
            if handle.id not in self.entries:
                raise BatchNotFound(f"no task {handle.id}", hint="It was removed.")
            entry = self.entries[handle.id]
            folder = Path(handle.folder) / f"task-{handle.index}"
            (folder / "logs").mkdir(parents=True, exist_ok=True)
            (folder / "logs" / "main.stdout").write_bytes(entry.log)
            for path, data in entry.files.items():
                target = folder / "files" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            state = State.CANCELLED if entry.status.state is State.CANCELLED else entry.outcome
            error = JobFailed("exit code 1").to_json() if state is State.FAILED else None
            entries = tuple(FileEntry(p, len(d)) for p, d in entry.files.items() if not p.startswith(".offload/"))
            outcomes.append(
                Outcome(handle, state, "exit code 1" if error else "", "", error, 1 if error else 0, entries)
            )
        self._leave("fetch", broken)
        return outcomes

    async def remove(self, handles: Sequence[SiteHandle]) -> None:
        broken = await self._enter("remove", len(handles))
        for handle in handles:
            self.entries.pop(handle.id, None)
        self._leave("remove", broken)

    async def describe(self) -> SiteInfo:
        await self._enter("describe")
        return self.info

    async def checks(self) -> AsyncIterator[Check]:
        yield Check("memory", ok=True, detail="there is some")

    def preview(self, work: Work) -> str:
        return f"#!/bin/bash\n# {work.job_id}\n"

    async def close(self) -> None:
        self.calls.append(("close", 0))


def pool_info(name: str = "mem", **limits: int | float) -> SiteInfo:
    """Return a site with images and limits."""
    return SiteInfo(
        name,
        "direct",
        capabilities=Capabilities(logs="live", containers=True),
        images=(
            Image("science", "docker://example.org/science:1", "3.11"),
            Image("new", "docker://example.org/new:1", "3.13"),
        ),
        limits=Limits(**limits),
        python="3.11",
    )


def result_bundle(path: Path, key: str, error: dict[str, object] | None = None) -> bytes:
    """Return a result as the runner writes it."""
    facts = {"host": "node", "wall_seconds": 0.1, "cpu_seconds": 0.1, "max_rss_bytes": 1}
    writer = BundleWriter(path, main={"kind": "cell", "error": error, "problems": {}, "facts": facts})
    writer.add("outputs", "outputs", "raw", json.dumps([]).encode())
    return writer.close(hmac_key=key).read_bytes()
