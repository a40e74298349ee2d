"""A circuit breaker: after some failures in a row a schedd is left alone for a while, and whoever asks is told at once."""

from __future__ import annotations

import time
from collections.abc import Callable

from jupyter_offload.errors import SiteUnreachable

__all__ = ["Breaker"]


class Breaker:
    """Counts failures in a row; `check` raises while it is open. One request is let through when the pause is over."""

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        pause_seconds: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._allowed = failures
        self._pause = pause_seconds
        self._monotonic = monotonic
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0
        self._last = ""
        self.since: float | None = None
        """Seconds since the epoch of the first failure in the present row."""

    @property
    def is_open(self) -> bool:
        """Whether requests are refused at present."""
        return self._open_until > self._monotonic()

    def check(self) -> None:
        """Raise `SiteUnreachable` with ``since`` while the breaker is open."""
        left = self._open_until - self._monotonic()
        if left > 0:
            raise SiteUnreachable(
                f"{self._name} has not answered {self._failures} times in a row; last: {self._last}",
                hint=f"It is tried again in {left:.0f} s. Jobs that were submitted go on.",
                since=self.since,
            )

    def failed(self, text: str) -> None:
        """Count a failure."""
        if self.since is None:
            self.since = self._clock()
        self._failures += 1
        self._last = text
        if self._failures >= self._allowed:
            self._open_until = self._monotonic() + self._pause

    def succeeded(self) -> None:
        """Close the breaker."""
        self._failures = 0
        self._open_until = 0.0
        self.since = None
