"""`Executor`: the standard library's executor interface, with jobs as its futures."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jupyter_offload.kernel.api import options
from jupyter_offload.kernel.future import Job

__all__ = ["Executor"]


class Executor(concurrent.futures.Executor):
    """Submits each call as a job; takes the keywords of `jupyter_offload.options`. Leaving the ``with`` block waits for all of them."""

    def __init__(self, **keywords: Any) -> None:
        self._offload = options(**keywords)
        self._jobs: list[Job] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job:
        """Submit a call. Raises `RuntimeError` after `shutdown`."""
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
        job = self._offload.submit(fn, *args, **kwargs)
        with self._lock:
            self._jobs.append(job)
        return job

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, **_: object
    ) -> Iterator[Any]:
        """Submit a call for each set of arguments; yield the results in order.

        Raises `TimeoutError` when a result is not there ``timeout`` seconds after this call; jobs whose results are not taken
        are cancelled.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        jobs = [self.submit(fn, *args) for args in zip(*iterables, strict=False)]
        return _results(jobs, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; wait for all jobs, or cancel those that have not ended."""
        with self._lock:
            self._closed = True
            jobs = list(self._jobs)
        if cancel_futures:
            for job in jobs:
                if not job.done():
                    job.cancel()
        if wait:
            concurrent.futures.wait(jobs)


def _results(jobs: list[Job], deadline: float | None) -> Iterator[Any]:
    remaining = list(reversed(jobs))
    try:
        while remaining:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            yield remaining[-1].result(left)
            remaining.pop()
    finally:
        for job in remaining:
            if not job.done():
                job.cancel()
