"""The default watcher: one look for all, again and again, at a pace that follows the waiting.

The pause before the next look is a tenth of the time since something last changed, at least 0.1 s and at most 5 s: a job that ends after
two seconds is seen within 0.2 s of its end, and a queue of hours is asked every five seconds (with a jitter of ±20 %, so that
many services do not ask in step).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from jupyter_offload.sites.base import SiteHandle, TaskStatus

__all__ = ["Pace", "poll"]

SHORTEST_SECONDS = 0.1
LONGEST_SECONDS = 5.0
SHARE = 0.1
JITTER = 0.2


class Pace:
    """How long to wait before the next look. ``clock`` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float], rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._changed = clock()
        self._news = asyncio.Event()

    def changed(self) -> None:
        """Tell that something changed or was submitted: look often again, and end a pause that is under way."""
        self._changed = self._clock()
        self._news.set()

    def pause_seconds(self) -> float:
        """Return the pause before the next look."""
        waited = (self._clock() - self._changed) * SHARE
        return min(LONGEST_SECONDS, max(SHORTEST_SECONDS, waited)) * self._rng.uniform(1 - JITTER, 1 + JITTER)

    async def pause(self) -> None:
        """Wait for the pause's time; a change that is told meanwhile cuts it to the shortest one."""
        self._news.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._news.wait(), self.pause_seconds())
            await asyncio.sleep(SHORTEST_SECONDS)


async def poll(
    look: Callable[[Sequence[SiteHandle]], Awaitable[list[TaskStatus]]],
    active: Callable[[], Sequence[SiteHandle]],
    pace: Pace,
) -> AsyncIterator[list[TaskStatus]]:
    """Yield the statuses that are new or changed; an empty list when there was nothing new, so that callers see that the site answers.

    An error of ``look`` (a `SiteError`) is raised to the caller, who starts anew when it likes.
    """
    last: dict[tuple[str, int, str], TaskStatus] = {}
    while True:
        handles = list(active())
        known = {(handle.job_id, handle.index, handle.attempt) for handle in handles}
        if known - last.keys():
            pace.changed()
        last = {key: status for key, status in last.items() if key in known}
        statuses = await look(handles) if handles else []
        fresh = []
        for status in statuses:
            key = (status.handle.job_id, status.handle.index, status.handle.attempt)
            if last.get(key) != status:
                last[key] = status
                fresh.append(status)
        if fresh:
            pace.changed()
        yield fresh
        await pace.pause()
