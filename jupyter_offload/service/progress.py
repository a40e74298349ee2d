r"""Progress: what the runner reports in a task's standard output (``\x1e{"offload": "progress", …}`` lines) becomes `Task.progress`.

Whoever reads a live log brings it along. Notebooks, whose progress is by cell, are looked at even when nobody reads, a few at a time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from jupyter_offload.errors import SiteError
from jupyter_offload.job import Kind, State
from jupyter_offload.service.ledger import Ledger
from jupyter_offload.service.record import Record
from jupyter_offload.service.siteview import SiteBook, deadline
from jupyter_offload.sites.base import SiteHandle

__all__ = ["Progress", "latest"]

MARK = b"\x1e"
LONGEST_EVENT_BYTES = 4096
LOOK_SECONDS = 2.0
READ_SECONDS = 30.0
AT_ONCE = 8


def latest(data: bytes) -> Mapping[str, Any] | None:
    """Return the last whole progress report in a piece of a log: ``{"done", "total", "label"}``, what is missing left out."""
    for piece in reversed(data.split(MARK)[1:]):
        line, newline, _ = piece.partition(b"\n")
        if not newline or len(line) > LONGEST_EVENT_BYTES:
            continue
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the user's own bytes
        if isinstance(event, dict) and event.get("offload") == "progress":
            return _clean(event)
    return None


def _clean(event: Mapping[str, Any]) -> Mapping[str, Any]:
    report: dict[str, Any] = {}
    for key in ("done", "total"):
        value = event.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e15:
            report[key] = value
    if isinstance(event.get("label"), str):
        report["label"] = event["label"][:200]
    return report


class Progress:
    """Keeps `Task.progress` up to date."""

    def __init__(self, ledger: Ledger, book: SiteBook) -> None:
        self._ledger = ledger
        self._book = book
        self._offsets: dict[tuple[str, int, str], int] = {}

    def seen(self, handle: SiteHandle, data: bytes) -> None:
        """Take the progress out of a piece of a live log."""
        report = latest(data)
        if report is not None:
            self._ledger.change_soon([handle.job_id], partial(_reported, index=handle.index, report=report))

    async def run(self) -> None:
        """Look at running notebooks for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            running = self._running()
            self._offsets = {_key(handle): self._offsets.get(_key(handle), 0) for _, handle in running}
            for place in range(0, len(running), AT_ONCE):
                await asyncio.gather(*(self._look(site, handle) for site, handle in running[place : place + AT_ONCE]))

    def _running(self) -> list[tuple[str, SiteHandle]]:
        found = []
        for record in self._ledger.live.values():
            if record.job.request.kind is Kind.NOTEBOOK and record.job.logs != "at_end":
                active = {task.index for task in record.job.tasks if task.state is State.RUNNING}
                found += [(record.job.site, handle) for handle in record.handles if handle.index in active]
        return found

    async def _look(self, site: str, handle: SiteHandle) -> None:
        visit = self._book.known(site)
        if visit is None or visit.stale_since is not None:
            return
        offset = self._offsets.get(_key(handle), 0)
        try:
            call = visit.entry.site.logs(handle, "main", "stdout", offset)
            chunk = await deadline(site, "logs", call, READ_SECONDS)
        except SiteError:
            return  # the watcher says that the site does not answer
        self._offsets[_key(handle)] = chunk.offset + _whole(chunk.data)
        self.seen(handle, chunk.data)


def _whole(data: bytes) -> int:
    """Return how much of a piece has been read to its end: an event that is cut off is read again."""
    begin = data.rfind(MARK)
    cut_off = begin >= 0 and b"\n" not in data[begin:] and len(data) - begin < LONGEST_EVENT_BYTES
    return begin if cut_off else len(data)


def _key(handle: SiteHandle) -> tuple[str, int, str]:
    return (handle.job_id, handle.index, handle.attempt)


def _reported(record: Record, index: int, report: Mapping[str, Any]) -> Record:
    tasks = tuple(
        replace(task, progress=report) if task.index == index and task.state is State.RUNNING else task
        for task in record.job.tasks
    )
    return record.with_job(tasks=tasks)
