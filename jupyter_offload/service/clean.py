"""Retention: which ended jobs are removed, by age and by size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from jupyter_offload.errors import UsageError
from jupyter_offload.job import TERMINAL
from jupyter_offload.service.folders import Folders, folder_bytes
from jupyter_offload.service.store.base import Summary

__all__ = ["DEFAULT_AGE_SECONDS", "DEFAULT_BYTES", "choose"]

DEFAULT_AGE_SECONDS = 90 * 86400.0
DEFAULT_BYTES = 50_000_000_000
_ENDED = {state.value for state in TERMINAL}


def choose(
    summaries: Sequence[Summary],
    folders: Folders,
    now: float,
    *,
    older_than_seconds: float | None,
    max_bytes: int | None,
    busy: Callable[[str], bool],
) -> list[tuple[str, int]]:
    """Return the jobs to remove with the size of their folders.

    Those that ended longer ago, and of the others the oldest until what stays is not larger than ``max_bytes``. Active jobs count to
    the size and always stay. ``summaries`` come oldest end first.
    """
    if (older_than_seconds is not None and older_than_seconds < 0) or (max_bytes is not None and max_bytes < 0):
        raise UsageError("age and size must not be negative", hint="Such as: clean --older-than 30d --max-size 10GB.")
    removable = [summary for summary in summaries if summary.state in _ENDED and not busy(summary.id)]
    sizes = {
        summary.id: folder_bytes(folders.job(summary.id)) for summary in _measured(summaries, removable, max_bytes)
    }
    total = sum(sizes.values())
    chosen = []
    for summary in removable:
        ended = summary.finished if summary.finished is not None else summary.created
        old = older_than_seconds is not None and now - ended > older_than_seconds
        if old or (max_bytes is not None and total > max_bytes):
            size = sizes.get(summary.id, 0)
            total -= size
            chosen.append((summary.id, size))
    return chosen


def _measured(summaries: Sequence[Summary], removable: Sequence[Summary], max_bytes: int | None) -> Iterable[Summary]:
    return summaries if max_bytes is not None else removable
