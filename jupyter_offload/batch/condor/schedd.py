"""One schedd, asked through its workers: located, with deadlines, typed errors, a breaker, and repeats where a repeat is safe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from jupyter_offload.batch.condor.breaker import Breaker
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.batch.condor.failures import AMBIGUOUS, AUTH_HINT, classify, denied
from jupyter_offload.batch.condor.process import BindingsError, DeadlineExceeded, WorkerEnded, WorkerRetired
from jupyter_offload.batch.condor.tokens import complaints
from jupyter_offload.batch.condor.workers import Role, Workers
from jupyter_offload.errors import AuthFailed, Denied, SiteError, SiteTimeout, SiteUnreachable

__all__ = ["Ad", "Schedd"]

Ad = Mapping[str, Any]
_LOOK_PAUSES = (0.0, 0.2)
"""Seconds before each try of a look: once more with a new address, then the next look is the caller's."""
_ACT_PAUSES = (0.0, 1.0, 4.0)
"""Seconds before each try of an action that may safely be done twice."""


class Schedd:
    """The schedd of a `CondorConfig`. Every method raises `SiteError`s only."""

    def __init__(self, config: CondorConfig, workers: Workers) -> None:
        self.config = config
        self.workers = workers
        self.name = config.schedd or "(local)"
        self.breaker = Breaker(f"schedd {self.name}")
        self.version = ""
        self.skew = 0.0
        """Schedd's clock minus ours, in seconds, as of the last query. Their times mean nothing here without it."""
        self._location: Mapping[str, str] | None = None
        self.counts: dict[str, int] = {}
        """How many requests of each kind were sent."""

    async def locate(self) -> Mapping[str, str]:
        """Return the schedd's address as the collector has it, remembered until a connection fails."""
        if self._location is None:
            arguments = {"collector": self.config.collector, "name": self.config.schedd}
            found = await self._call("reader", "locate", arguments, self.config.locate_seconds)
            self.name = found.get("Name", self.name)
            self.version = found.get("CondorVersion", "")
            self._location = found
        return self._location

    async def bindings(self) -> str:
        """Return the version of the HTCondor bindings."""
        return str(await self._call("reader", "version", {}, self.config.locate_seconds))

    async def query(self, constraint: str, projection: Sequence[str]) -> list[dict[str, Any]]:
        """Return the jobs in the queue that match, as dicts of the attributes they have."""
        ads: list[dict[str, Any]] = []
        await self.look(constraint, projection, ads.append)
        return ads

    async def look(self, constraint: str, projection: Sequence[str], each: Callable[[dict[str, Any]], None]) -> None:
        """Give the jobs in the queue that match to ``each``, as they arrive: of very many none is kept longer than needed.

        After a broken connection it may begin again from the first.
        """
        await self._rows("query", {"constraint": constraint}, projection, each)

    async def history(self, constraint: str, projection: Sequence[str], match: int) -> list[dict[str, Any]]:
        """Return at most ``match`` jobs of the history that match."""
        ads: list[dict[str, Any]] = []
        await self._rows("history", {"constraint": constraint, "match": match}, projection, ads.append)
        return ads

    async def ping(self, permission: str = "WRITE") -> dict[str, Any]:
        """Return what the schedd's authorization answers. Not a proof of the identity of the next submission: sessions are cached."""
        answer: dict[str, Any] = await self._at(
            "reader", "ping", {"permission": permission}, self.config.locate_seconds
        )
        return answer

    async def startds(self, constraint: str, projection: Sequence[str]) -> list[dict[str, Any]]:
        """Return the slots that match, from the collector."""
        rows: list[dict[str, Any]] = []

        def receive(some: list[Any]) -> None:
            pairs = (zip(projection, row, strict=True) for row in some)
            rows.extend({name: value for name, value in pair if value is not None} for pair in pairs)

        arguments = {"collector": self.config.collector, "constraint": constraint, "projection": list(projection)}
        await self._call("reader", "collector", arguments, self.config.query_seconds, receive)
        return rows

    async def submit(
        self,
        description: Mapping[str, str],
        columns: Sequence[str],
        items: Sequence[Sequence[str]],
        *,
        size_bytes: int,
    ) -> tuple[int, int]:
        """Submit one cluster with one proc per item, and spool its files; return ``(cluster, first proc)``. Never repeated here."""
        deadline = self.config.submit_seconds + 0.1 * len(items)
        if self.config.spool:
            deadline += size_bytes / self.config.transfer_bytes_per_second
        arguments = {
            "description": dict(description),
            "columns": list(columns),
            "items": items,
            "spool": self.config.spool,
        }
        answer = await self._at("writer", "submit", arguments, deadline, repeat=False)
        return int(answer["cluster"]), int(answer["first"])

    async def act(
        self, action: Literal["Release", "Remove", "RemoveX"], jobs: str | list[str], reason: str, code: int = 0
    ) -> dict[str, Any]:
        """Act on jobs (ids or a constraint); return the schedd's counts (``TotalSuccess`` …)."""
        arguments = {"action": action, "jobs": jobs, "reason": reason, "code": code}
        answer: dict[str, Any] = await self._at("writer", "act", arguments, self.config.act_seconds)
        return answer

    async def edit(self, jobs: str | list[str], attribute: str, value: int | str | bool) -> int:
        """Set one attribute of jobs; return how many were changed."""
        arguments = {"jobs": jobs, "attribute": attribute, "value": value}
        return int(await self._at("writer", "edit", arguments, self.config.act_seconds))

    async def retrieve(self, jobs: Sequence[str], *, size_bytes: int = 0) -> None:
        """Bring the spooled files of these jobs into their folders."""
        deadline = self.config.act_seconds + 0.1 * len(jobs) + size_bytes / self.config.transfer_bytes_per_second
        await self._at("mover", "retrieve", {"jobs": list(jobs)}, deadline)

    async def _rows(
        self, op: str, arguments: Mapping[str, Any], projection: Sequence[str], each: Callable[[dict[str, Any]], None]
    ) -> None:
        names = [*projection, "ServerTime"]

        def receive(rows: list[Any]) -> None:
            for number, row in enumerate(rows):
                ad = {name: value for name, value in zip(names, row, strict=True) if value is not None}
                if number == 0 and op == "query" and "ServerTime" in ad:
                    self._note_clock(float(ad["ServerTime"]))
                each(ad)

        arguments = {**arguments, "projection": names}
        await self._at("reader", op, arguments, self.config.query_seconds, rows=receive)

    def _note_clock(self, server: float) -> None:
        skew = server - time.time()
        self.skew = 0.0 if abs(skew) < 2.0 else skew  # ServerTime has whole seconds

    async def _at(
        self,
        role: Role,
        op: str,
        arguments: Mapping[str, Any],
        deadline: float,
        *,
        rows: Callable[[list[Any]], None] | None = None,
        repeat: bool = True,
    ) -> Any:
        pauses: tuple[float, ...] = (0.0,)
        if repeat:
            pauses = _LOOK_PAUSES if role == "reader" else _ACT_PAUSES
        for number, pause in enumerate(pauses):
            if pause:
                await asyncio.sleep(pause)
            try:
                location = await self.locate()
                return await self._call(role, op, {"schedd": location, **arguments}, deadline, rows)
            except SiteUnreachable:
                # Its address may have changed with a restart.
                self._location = None
                if number == len(pauses) - 1 or self.breaker.is_open:
                    raise
        raise AssertionError(op)  # pragma: no cover

    async def _call(
        self,
        role: Role,
        op: str,
        arguments: Mapping[str, Any],
        deadline: float,
        rows: Callable[[list[Any]], None] | None = None,
    ) -> Any:
        self.breaker.check()
        self.counts[op] = self.counts.get(op, 0) + 1
        try:
            answer = await self.workers.call(role, op, arguments, deadline=deadline, rows=rows)
        except (BindingsError, DeadlineExceeded, WorkerEnded, WorkerRetired, OSError) as error:
            problem = self._with_token(await self._explain(error, op))
            if isinstance(problem, (SiteUnreachable, SiteTimeout)):
                self.breaker.failed(problem.message)
            else:
                self.breaker.succeeded()
            raise problem from error
        self.breaker.succeeded()
        return answer

    def _with_token(self, problem: SiteError) -> SiteError:
        identity = self.workers.identity
        if isinstance(problem, (AuthFailed, Denied)) and identity is not None and identity.token is not None:
            said = "; ".join(
                complaints(identity.token, self.config.collector if self.config.type == "condor-ce" else None)
            )
            if said:
                problem.message += f" ({said})"
        return problem

    async def _explain(self, error: Exception, op: str) -> SiteError:
        if str(error) not in AMBIGUOUS:
            return classify(error, op, self.name)
        if op == "locate" or self._location is None:
            return await self._explain_collector(error, op)
        try:
            arguments = {"schedd": self._location, "constraint": "false", "projection": ["ClusterId"]}
            await self._probe("query", arguments)
        except (BindingsError, DeadlineExceeded, WorkerEnded, WorkerRetired) as look:
            return classify(look, op, self.name)
        try:
            await self._probe("ping", {"schedd": self._location, "permission": "WRITE"})
        except (BindingsError, DeadlineExceeded, WorkerEnded, WorkerRetired) as ping:
            if str(ping) == "Failed to start command.":
                return denied(op, self.name, "WRITE")
            return classify(ping, op, self.name)
        return classify(error, op, self.name)

    async def _explain_collector(self, error: Exception, op: str) -> SiteError:
        collector = self.config.collector
        if collector is None:
            return classify(error, op, self.name)
        try:
            await self._probe("ping_collector", {"collector": collector})
        except (BindingsError, DeadlineExceeded, WorkerEnded, WorkerRetired) as ping:
            if str(ping) == "Failed to start command.":
                return AuthFailed(f"collector {collector} does not accept our token", hint=AUTH_HINT)
            return SiteUnreachable(
                f"collector {collector}: {ping}", hint=f"Check that {collector} can be reached from here."
            )
        return classify(error, op, self.name)

    async def _probe(self, op: str, arguments: Mapping[str, Any]) -> None:
        await self.workers.call("reader", op, arguments, deadline=self.config.locate_seconds)
