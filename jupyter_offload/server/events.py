"""Tells the server's event bus that jobs changed: what and as of which revision, nothing else."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from jupyter_offload.errors import OffloadError
from jupyter_offload.service.service import JobList, OffloadService

__all__ = ["SCHEMA", "SCHEMA_FILE", "Announcer"]

SCHEMA = "https://events.jupyter.org/jupyter_offload/job/v1"
SCHEMA_FILE = Path(__file__).parent / "event_schemas" / "job.yaml"
WAIT_SECONDS = 50.0
RETRY_SECONDS = 5.0
_LATEST = 2**52


class Announcer:
    """Follows the jobs of the owners that use this server, wherever the service is, and emits their changes."""

    def __init__(self, service: OffloadService, events: Any, log: logging.Logger) -> None:
        self._service = service
        self._events = events
        self._log = log
        self._followers: dict[str, asyncio.Task[None]] = {}
        events.register_event_schema(SCHEMA_FILE)

    def follow(self, owner: str) -> None:
        """Announce the changes of this owner's jobs from now on."""
        if owner not in self._followers:
            self._followers[owner] = asyncio.create_task(self._follow(owner))

    async def _follow(self, owner: str) -> None:
        since: int | None = None
        while True:
            try:
                if since is None:
                    since = (await self._service.jobs(owner, since=_LATEST)).revision
                listing = await self._service.jobs(owner, since=since, wait_seconds=WAIT_SECONDS)
                # a store that was rebuilt counts anew, from a later time
                since = listing.revision
                self._emit(listing)
            except OffloadError as error:  # noqa: PERF203
                self._log.debug("jobs are not announced: %s", error.message)
                await asyncio.sleep(RETRY_SECONDS)

    def _emit(self, listing: JobList) -> None:
        for job in sorted(listing.jobs, key=lambda job: job.revision):
            data = {"revision": job.revision, "job": job.id, "change": "changed", "state": job.state.value}
            self._events.emit(schema_id=SCHEMA, data=data)
        for job_id in listing.deleted:
            data = {"revision": listing.revision, "job": job_id, "change": "deleted"}
            self._events.emit(schema_id=SCHEMA, data=data)

    async def close(self) -> None:
        """Stop."""
        for follower in self._followers.values():
            follower.cancel()
        await asyncio.gather(*self._followers.values(), return_exceptions=True)
