"""Which jobs: handles and job ids as short ClassAd constraints. A constraint always asks for the stamps too, never for ids alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jupyter_offload.batch.base import Handle
from jupyter_offload.errors import BatchNotFound

__all__ = ["HISTORY_LIMIT", "Key", "by_handles", "by_jobs", "exactly", "ids", "key", "key_of", "known", "slices"]

HISTORY_LIMIT = 20_000
Key = tuple[str, str, str, int]
_ID = re.compile(r"(?:.*#)?([0-9]+)\.([0-9]+)")
_JOB = re.compile(r"[0-9A-Za-z-]{1,64}")
_MANY = 200
"""More clusters or jobs than these are asked for as one range, and the answer is sifted."""


def job_id(handle: Handle) -> tuple[int, int]:
    """Return ``(cluster, proc)``. Raises `BatchNotFound` when the handle is not one of HTCondor's."""
    match = _ID.fullmatch(handle.id)
    if match is None:
        raise BatchNotFound(
            f"{handle.id!r} is not an HTCondor job", job_id=handle.job_id, hint="The site has changed its batch system."
        )
    return int(match.group(1)), int(match.group(2))


def key_of(ad: Mapping[str, Any]) -> Key:
    """Return the same of a job's ad."""
    place = f"{ad['ClusterId']}.{ad['ProcId']}"
    return (place, ad.get("OffloadJob", ""), ad.get("OffloadAttempt", ""), ad.get("OffloadIndex", 0))


def known(handles: Iterable[Handle]) -> list[Handle]:
    """Return those whose id and job id have the form of ours; the others never were in this batch system."""
    return [one for one in handles if _ID.fullmatch(one.id) and _JOB.fullmatch(one.job_id)]


def ids(handles: Iterable[Handle]) -> list[str]:
    """Return ``cluster.proc`` for each handle."""
    return ["{}.{}".format(*job_id(handle)) for handle in handles]


def key(handle: Handle) -> Key:
    """Return what makes a task the same one in two looks: its place in the queue, and the stamps.

    A schedd that was set up anew counts its clusters from 1 again.
    """
    return (handle.id.rpartition("#")[2], handle.job_id, handle.attempt, handle.index)


def by_handles(handles: Sequence[Handle]) -> str:
    """Return a constraint that holds for these jobs, and, when they are very many, for others of ours between them."""
    procs: dict[int, list[int]] = {}
    for handle in handles:
        cluster, proc = job_id(handle)
        procs.setdefault(cluster, []).append(proc)
    stamped = by_jobs(sorted({handle.job_id for handle in handles}))
    if len(procs) > _MANY:
        return f"({stamped}) && ClusterId >= {min(procs)} && ClusterId <= {max(procs)}"
    pieces = []
    for cluster, numbers in procs.items():
        if len(numbers) == max(numbers) - min(numbers) + 1:
            low, high = min(numbers), max(numbers)
            which = f"ProcId == {low}" if low == high else f"ProcId >= {low} && ProcId <= {high}"
            pieces.append(f"(ClusterId == {cluster} && {which})")
        else:
            pieces.append(f"(ClusterId == {cluster} && member(ProcId, {{{', '.join(map(str, sorted(numbers)))}}}))")
    return f"({' || '.join(pieces)}) && ({stamped})"


def slices(handles: Sequence[Handle]) -> list[list[Handle]]:
    """Return the handles in parts, each small enough that `by_handles` holds for it and for no other job."""
    handles = known(handles)
    clusters = sorted({job_id(handle)[0] for handle in handles})
    number = {cluster: place // _MANY for place, cluster in enumerate(clusters)}
    parts: list[list[Handle]] = [[] for _ in range(0, len(clusters), _MANY)]
    for handle in handles:
        parts[number[job_id(handle)[0]]].append(handle)
    return parts


def exactly(handles: Sequence[Handle]) -> list[str]:
    """Return constraints that together hold for these jobs and for no other: what an action needs."""
    return [by_handles(part) for part in slices(handles)]


def by_jobs(job_ids: Sequence[str]) -> str:
    """Return a constraint for all tasks of these jobs (none given: for all that carry our stamp)."""
    if not job_ids or len(job_ids) > _MANY:
        return "OffloadJob isnt undefined"
    for one in job_ids:
        if _JOB.fullmatch(one) is None:
            raise BatchNotFound(f"{one!r} is not a job id", hint="`%offload` lists the jobs.")
    if len(job_ids) == 1:
        return f'OffloadJob == "{job_ids[0]}"'
    return "member(OffloadJob, {" + ", ".join(f'"{one}"' for one in job_ids) + "})"
