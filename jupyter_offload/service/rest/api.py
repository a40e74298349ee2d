"""What the handlers share: the service, who owns the jobs of a caller, where uploads go, and how much traffic there is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jupyter_offload.service.service import OffloadService

__all__ = ["LARGEST_UPLOAD_BYTES", "Api", "Traffic"]

LARGEST_UPLOAD_BYTES = 20_000_000_000
"""No submission may be larger, whatever its site allows: it is received before its site is known."""


class Traffic:
    """Counts requests, and transfers of bundles and files that are under way. ``clock`` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._open = 0
        self.transfers = 0
        """Uploads and downloads that are under way."""

    def idle_seconds(self) -> float:
        """Return how long nobody has asked for anything (0 while a request is open)."""
        return 0.0 if self._open else self._clock() - self._last

    def begun(self) -> None:
        """Count a request that begins."""
        self._open += 1

    def ended(self) -> None:
        """Count a request that ends."""
        self._open -= 1
        self._last = self._clock()

    @contextlib.contextmanager
    def transfer(self) -> Iterator[None]:
        """Count a transfer for as long as the context is open."""
        self.transfers += 1
        try:
            yield
        finally:
            self.transfers -= 1


@dataclass
class Api:
    """One per process; the handlers find it in the application's settings under ``offload``."""

    service: OffloadService
    owner: str
    """Whose jobs the callers of the loopback listener see."""
    new_upload: Callable[[], Path]
    """Returns the path of a submission that is about to be received (in a folder of mode 0700)."""
    forwarded_to: Callable[[], str | None] = lambda: None
    """Returns the address of the service that owns the jobs, when it is another one."""
    traffic: Traffic = field(default_factory=Traffic)
    largest_upload_bytes: int = LARGEST_UPLOAD_BYTES
