"""The workers of one schedd: a reader, a writer and movers, all of one identity, started on demand and ended when idle.

A long transfer must not delay a look at the queue, and a look must not delay a cancellation; so there are roles. A changed token makes
a new identity and new workers: a process whose token was swapped goes on as the previous user for as long as its security session lives.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.batch.condor.environment import Identity, identity_key, prepare, token_source
from jupyter_offload.batch.condor.process import WorkerProcess, WorkerRetired
from jupyter_offload.batch.condor.tokens import read_token

__all__ = ["Role", "Workers"]

Role = Literal["reader", "writer", "mover"]
_MOVERS = 2


class Workers:
    """The worker set of one (schedd, identity)."""

    def __init__(self, config: CondorConfig, environ: Mapping[str, str] | None = None) -> None:
        self._config = config
        self._environ = dict(os.environ if environ is None else environ)
        self._identity: Identity | None = None
        self._stamp: tuple[object, ...] | None = None
        self._workers: dict[str, WorkerProcess] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._next_mover = 0
        self._retiring: set[asyncio.Task[None]] = set()
        self._closed = False

    async def call(
        self,
        role: Role,
        op: str,
        arguments: Mapping[str, Any],
        *,
        deadline: float,
        rows: Callable[[list[Any]], None] | None = None,
    ) -> Any:
        """Do one request by a worker of this role; raises as `WorkerProcess.call` does, and `AuthFailed` for an unreadable token."""
        while True:
            self._refresh_identity()
            worker = self._worker(role)
            self._ensure_sweeper()
            try:
                return await worker.call(op, arguments, deadline=deadline, rows=rows)
            except WorkerRetired:
                if self._closed:
                    raise

    @property
    def pids(self) -> dict[str, int]:
        """The living workers: role → process id."""
        return {name: worker.pid for name, worker in self._workers.items() if worker.pid is not None}

    @property
    def identity(self) -> Identity | None:
        """The identity of the present workers (``None`` before the first request)."""
        return self._identity

    def _worker(self, role: Role) -> WorkerProcess:
        if self._identity is None:
            raise RuntimeError("no identity")
        name: str = role
        if role == "mover":
            movers = [self._workers.get(f"mover-{number}") for number in range(_MOVERS)]
            idle = [number for number, mover in enumerate(movers) if mover is not None and not mover.busy]
            self._next_mover = idle[0] if idle else (self._next_mover + 1) % _MOVERS
            name = f"mover-{self._next_mover}"
        if name not in self._workers:
            self._workers[name] = WorkerProcess(self._identity.environment)
        return self._workers[name]

    def _refresh_identity(self) -> None:
        source = token_source(self._config, self._environ)
        stamp = _stamp(source)
        if self._identity is not None and stamp == self._stamp:
            return
        if self._identity is not None and source is not None:
            token = read_token(source)
            if identity_key(self._config, token) == self._identity.key:
                self._stamp = stamp
                return
        identity = prepare(self._config, self._environ)
        old, self._identity = self._identity, identity
        retired, self._workers = self._workers, {}
        self._stamp = stamp
        task = asyncio.create_task(_retire(list(retired.values()), old))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _ensure_sweeper(self) -> None:
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._end_idle())

    async def _end_idle(self) -> None:
        while any(worker.pid is not None or worker.busy for worker in self._workers.values()):
            await asyncio.sleep(min(5.0, self._config.idle_seconds / 2))
            now = time.monotonic()
            for worker in list(self._workers.values()):
                if not worker.busy and now - worker.used >= self._config.idle_seconds:
                    await worker.rest()

    async def close(self) -> None:
        """End all workers and delete the copy of the token."""
        self._closed = True
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None:
            sweeper.cancel()
            await asyncio.wait([sweeper])
        workers, self._workers = self._workers, {}
        for worker in workers.values():
            await worker.close()
        for task in list(self._retiring):
            await asyncio.wait([task])
        identity, self._identity = self._identity, None
        if identity is not None:
            identity.discard()


async def _retire(workers: list[WorkerProcess], identity: Identity | None) -> None:
    for worker in workers:
        await worker.retire()
    if identity is not None:
        identity.discard()


def _stamp(source: Path | None) -> tuple[object, ...] | None:
    if source is None:
        return None
    try:
        status = source.stat()
    except OSError:
        return (str(source), "missing")
    return (str(source), status.st_ino, status.st_mtime_ns, status.st_size)
