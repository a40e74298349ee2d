"""Names that come back arrive between cells, never in the middle of one.

A detached job's values are decoded by its own thread as soon as they are there; a hook of IPython binds them before the next cell begins or
after the present one has ended, and says so.
"""

from __future__ import annotations

import threading
from typing import Any

from jupyter_offload.errors import OffloadError
from jupyter_offload.kernel.card import elapsed
from jupyter_offload.kernel.future import Job

__all__ = ["Binder", "bind"]


def bind(job: Job, namespace: dict[str, Any]) -> str:
    """Bind the names of a cell's ``-o`` now; return the line that says so. Raises what ended the job."""
    values: dict[str, Any] = job.result()
    namespace.update(values)
    named = ", ".join(f"{name} ({type(value).__name__})" for name, value in values.items())
    duration = elapsed(job.record, 0.0)
    return f"{named} returned from {job.shown}" + (f" after {duration}" if duration else "")


class Binder:
    """Keeps what has arrived until no cell runs."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._lock = threading.Lock()
        self._arrived: list[Job] = []

    def expect(self, job: Job) -> None:
        """Bind the job's names when it has ended and no cell runs."""
        job.on_end(self._arrive)

    def _arrive(self, job: Job) -> None:
        if job.exception(timeout=0) is None:
            names = ", ".join(job.record.request.outputs)
            job.note(f"{names} will be there when the next cell begins")
        with self._lock:
            self._arrived.append(job)

    def between_cells(self, *_: object) -> None:
        """Bind what has arrived; called by IPython before and after each cell."""
        with self._lock:
            arrived, self._arrived = self._arrived, []
        for job in arrived:
            try:
                line = bind(job, self._shell.user_ns)
            except OffloadError as error:
                line = f"{', '.join(job.record.request.outputs)} did not come back from {job.shown}: {error.message}"
            else:
                job.note(line, instead=True)
            print(line)
