"""What one process shares: the client of the service and the one watcher for all its jobs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from jupyter_offload.kernel.client import Client
from jupyter_offload.kernel.watch import Watcher

if TYPE_CHECKING:
    from jupyter_offload.job import Job as Record
    from jupyter_offload.kernel.future import Job

__all__ = ["Session", "session"]


class Session:
    """The client and the watcher of one process, and the `Job` object of each job that it holds."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.watcher = Watcher(client)

    def job(self, record: Record) -> Job:
        """Return the one `Job` of this process for a record; it is watched from now on."""
        from jupyter_offload.kernel.future import Job

        return self.watcher.job(record, lambda: Job(record, self))


_sessions: dict[int, Session] = {}


def session() -> Session:
    """Return the session of this process; a forked child gets its own, since threads do not survive a fork."""
    pid = os.getpid()
    if pid not in _sessions:
        _sessions.clear()
        _sessions[pid] = Session(Client())
    return _sessions[pid]
