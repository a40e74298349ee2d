"""How long to wait before a site that did not answer is asked again: 1, 4, 16 s, then once a minute, and a loop that can be woken."""

from __future__ import annotations

import asyncio
import random

__all__ = ["Backoff", "Bell"]

STEPS_SECONDS = (1.0, 4.0, 16.0, 60.0)
JITTER = 0.1


class Backoff:
    """The pauses after failures in a row. ``rng`` spreads them by ±10 %, so that many services do not ask in step."""

    def __init__(self, rng: random.Random, steps: tuple[float, ...] = STEPS_SECONDS) -> None:
        self._rng = rng
        self._steps = steps
        self._failures = 0

    def failed(self) -> float:
        """Count a failure; return the pause before the next try, in seconds."""
        pause = self._steps[min(self._failures, len(self._steps) - 1)]
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
