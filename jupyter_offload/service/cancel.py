"""Asks a site for the end of jobs until it says that they have ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from jupyter_offload.errors import SiteError
from jupyter_offload.job import State
from jupyter_offload.service.ledger import Ledger
from jupyter_offload.service.pause import Backoff, Bell
from jupyter_offload.service.record import Phase
from jupyter_offload.service.siteview import SiteBook, Visit, deadline
from jupyter_offload.sites.base import SiteHandle

__all__ = ["Canceller"]

CANCEL_SECONDS = 120.0
REPEAT_SECONDS = 60.0
"""When the site took the wish and the task still runs after so long, it is asked again."""


class Canceller:
    """The wishes to end one site's jobs; they are in the records (`Record.cancel`), so that a restart goes on with them."""

    def __init__(
        self,
        visit: Visit,
        book: SiteBook,
        ledger: Ledger,
        *,
        asked: Callable[[], None],
        backoff: Backoff,
        log: logging.Logger,
    ) -> None:
        self._visit = visit
        self._book = book
        self._ledger = ledger
        self._asked = asked
        self._backoff = backoff
        self._log = log
        self._bell = Bell()

    def wake(self) -> None:
        """Tell that there is a new wish."""
        self._bell.ring()

    def pending(self) -> dict[str, list[SiteHandle]]:
        """Return per reason the handles whose end is wanted and not yet there."""
        wishes: dict[str, list[SiteHandle]] = {}
        for record in self._ledger.live.values():
            if record.cancel is None or record.phase is not Phase.STARTED or record.job.site != self._visit.name:
                continue
            active = {task.index for task in record.job.tasks if task.state is State.CANCELLING}
            wishes.setdefault(record.cancel, []).extend(h for h in record.handles if h.index in active)
        return {reason: handles for reason, handles in wishes.items() if handles}

    async def run(self) -> None:
        """Cancel for ever."""
        while True:
            await self._bell.wait(REPEAT_SECONDS if self.pending() else None)
            wishes = self.pending()
            try:
                for reason, handles in wishes.items():
                    await self._ask(handles, reason)
                self._backoff.worked()
            except SiteError as error:
                self._book.went_stale(self._visit, error)
                await self._bell.wait(self._backoff.failed())
                self._bell.ring()
            except Exception:
                self._log.exception("cancelling at %s", self._visit.name)
                await asyncio.sleep(self._backoff.failed())
                self._bell.ring()

    async def _ask(self, handles: Sequence[SiteHandle], reason: str) -> None:
        await deadline(self._visit.name, "cancel", self._visit.entry.site.cancel(handles, reason), CANCEL_SECONDS)
        self._asked()
