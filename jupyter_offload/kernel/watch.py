"""One thread that watches all jobs of this process by one long poll, and a few that bring their results.

The thread starts with the first pending job and ends after the last one. A service that goes away is looked for again (and started); no
job ever fails because we could not look.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from jupyter_offload.errors import JobLost, OffloadError, ResultUnavailable
from jupyter_offload.job import State
from jupyter_offload.kernel.client import Client

if TYPE_CHECKING:
    from jupyter_offload.job import Job as Record
    from jupyter_offload.kernel.future import Job

__all__ = ["Fetchers", "Watcher"]

WAIT_SECONDS = 25.0
LONGEST_PAUSE_SECONDS = 5.0
_log = logging.getLogger("jupyter_offload.watch")


class Fetchers:
    """A few daemon threads that run what may take long (downloads), so that one large result does not hold up the others."""

    MOST = 4

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = 0
        self._threads = 0

    def run(self, action: Callable[[], None]) -> None:
        """Run ``action`` soon, in another thread."""
        with self._lock:
            self._waiting.put(action)
            if self._idle or self._threads >= self.MOST:
                return
            self._threads += 1
        threading.Thread(target=self._work, name="offload-fetch", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            try:
                action = self._waiting.get(timeout=2)
            except queue.Empty:
                with self._lock:
                    self._idle -= 1
                    if self._waiting.empty():
                        self._threads -= 1
                        return
                continue
            with self._lock:
                self._idle -= 1
            try:
                action()
            except Exception:
                _log.exception("after the end of a job")


class Watcher:
    """Gives each job's changes to its `Job`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._known: weakref.WeakValueDictionary[str, Job] = weakref.WeakValueDictionary()
        self._pending: dict[str, Job] = {}
        self._thread: threading.Thread | None = None
        self.fetchers = Fetchers()

    def job(self, record: Record, make: Callable[[], Job]) -> Job:
        """Return the `Job` of a record, made once per process, and watch it until it has ended."""
        with self._lock:
            job = self._known.get(record.id)
            if job is None or (
                _lost(job) and record.state is not State.LOST
            ):  # a future cannot change: lost is taken back by a new one
                job = make()
                self._known[record.id] = job
        job.take(record)
        if not job.done():
            self._watch(job)
        return job

    def _watch(self, job: Job) -> None:
        with self._lock:
            self._pending[job.id] = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="offload-watch", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        revision, pause = 0, 0.1
        while True:
            with self._lock:
                for job_id in [job_id for job_id, job in self._pending.items() if job.settled]:
                    del self._pending[job_id]
                if not self._pending:
                    self._thread = None
                    return
                pending = list(self._pending.values())
            try:
                now, records, deleted = self._client.jobs(since=revision, wait_seconds=self._wait(pending, revision))
            except Exception as error:
                # Whatever keeps us from looking says nothing about the jobs: look again.
                if not isinstance(error, OffloadError):
                    _log.exception("watching the jobs")
                time.sleep(pause)
                pause, revision = min(2 * pause, LONGEST_PAUSE_SECONDS), 0
                continue
            pause = 0.1
            # A service whose store was rebuilt counts anew.
            revision = now if now >= revision else 0
            for record in records:
                self._give(record)
            for job_id in deleted:
                with self._lock:
                    gone = self._pending.get(job_id)
                if gone is not None:
                    gone.fail(ResultUnavailable(f"job {gone.shown} was deleted", hint="Run it again.", job_id=job_id))
            for job in pending:
                with contextlib.suppress(Exception):  # a display that is gone must not stop the watching
                    job.tick()

    @staticmethod
    def _wait(pending: list[Job], revision: int) -> float:
        if revision == 0:
            return 0.0
        return min((job.next_tick() for job in pending), default=WAIT_SECONDS)

    def _give(self, record: Record) -> None:
        with self._lock:
            job = self._pending.get(record.id) or self._known.get(record.id)
        if job is not None:
            job.take(record)


def _lost(job: Job) -> bool:
    return job.done() and not job.cancelled() and isinstance(job.exception(timeout=0), JobLost)
