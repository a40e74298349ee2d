"""What a site still has that nobody waits for: attempts that turned up late, and tasks of jobs that are closed or deleted."""

from __future__ import annotations

import logging
from collections.abc import Callable

from jupyter_offload.service.ledger import Ledger
from jupyter_offload.service.record import Phase, Record
from jupyter_offload.service.siteview import Visit, deadline
from jupyter_offload.sites.base import Found

__all__ = ["sweep"]

SECONDS = 300.0


async def sweep(visit: Visit, ledger: Ledger, *, busy: Callable[[str], bool], log: logging.Logger) -> int:
    """Remove them; return how many. Jobs that this service never heard of are left alone: they are another service's.

    ``busy`` tells the jobs that are being handed over just now. Raises `SiteError`.
    """
    site = visit.entry.site
    found = await deadline(visit.name, "find", site.find([]), SECONDS)
    surplus = []
    deleted = await ledger.deleted_ids() if found else set()
    for item in found:
        handle = item.status.handle
        if busy(handle.job_id):
            continue
        record = await ledger.get(None, handle.job_id)
        if handle.job_id in deleted or (record is not None and _surplus(record, item)):
            surplus.append(handle)
    if surplus:
        log.warning("site %s: %d tasks that nobody waits for are removed", visit.name, len(surplus))
        await deadline(visit.name, "remove", site.remove(surplus), SECONDS)
    return len(surplus)


def _surplus(record: Record, item: Found) -> bool:
    handle = item.status.handle
    ours = any((known.index, known.attempt) == (handle.index, handle.attempt) for known in record.handles)
    if record.phase in (Phase.ACCEPTED, Phase.HANDED):
        return False  # the submitter looks it up itself
    if ours:
        return record.phase is Phase.CLOSED and not record.live
    return True
