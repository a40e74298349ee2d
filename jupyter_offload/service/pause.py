"""Loops that wait: before a site that did not answer is asked again (1, 4, 16 s, then once a minute), how to wake one, how to end one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any

__all__ = ["Backoff", "Bell", "stop"]

STEPS_SECONDS = (1.0, 4.0, 16.0, 60.0)
JITTER = 0.1


class Backoff:
    """The pauses after failures in a row. ``rng`` spreads them by ±10 %, so that many services do not ask in step."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures = 0

    def failed(self) -> float:
        """Count a failure; return the pause before the next try, in seconds."""
        pause = STEPS_SECONDS[min(self._failures, len(STEPS_SECONDS) - 1)]
        self._failures += 1
        return pause * self._rng.uniform(1 - JITTER, 1 + JITTER)

    def worked(self) -> None:
        """Begin anew."""
        self._failures = 0


class Bell:
    """Wakes a loop: what rings while the loop works is heard when it waits next."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake it."""
        self._event.set()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for a ring, or so long; return whether it rang."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        self._event.clear()
        return True


async def stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end, whatever they end with.

    They are cancelled until they end: up to Python 3.11 `asyncio.wait_for` loses a cancellation that comes together with its result.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
