"""From a job's ClassAd to the state of a task.

Three traps, all met on real schedds: the hold attributes may be stale, so they count only while JobStatus is 5; ``NumJobStarts`` is updated
late and may stay 0, so starts are ``NumShadowStarts - NumJobReconnects``; and an attribute that is not there reads as the integer 2 in the
bindings (the worker leaves it out). Times in the ad are the schedd's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_offload.batch.base import OUTPUT, Found, Handle, Status, task_folder
from jupyter_offload.batch.condor.holds import UNSTARTED_CODES, HoldWords, hold_words, vacate_words
from jupyter_offload.job import State

__all__ = ["PROJECTION", "arriving", "forgotten", "found", "handle_of", "releasable", "runnable", "status"]

PROJECTION = (
    "ClusterId",
    "ProcId",
    "JobStatus",
    "OffloadJob",
    "OffloadAttempt",
    "OffloadIndex",
    "OffloadRerun",
    "OffloadReleases",
    "SUBMIT_Iwd",
    "Iwd",
    "HoldReasonCode",
    "HoldReasonSubCode",
    "HoldReason",
    "JobStatusOnRelease",
    "StageInFinish",
    "EnteredCurrentStatus",
    "NumShadowStarts",
    "NumJobReconnects",
    "NumJobCompletions",
    "JobCurrentStartDate",
    "JobDisconnectedDate",
    "CompletionDate",
    "ExitBySignal",
    "ExitCode",
    "ExitSignal",
    "RemoteHost",
    "LastRemoteHost",
    "RemoveReason",
    "VacateReason",
    "VacateReasonCode",
    "Managed",
    "RoutedToJobId",
)
"""The attributes that a sweep asks for."""

IDLE, RUNNING, REMOVED, COMPLETED, HELD, TRANSFERRING, SUSPENDED = 1, 2, 3, 4, 5, 6, 7
Ad = Mapping[str, Any]


def handle_of(ad: Ad, schedd: str) -> Handle:
    """Return the handle that the stamps of an ad give."""
    folder = str(ad.get("SUBMIT_Iwd") or ad.get("Iwd") or "")
    return Handle(
        id=f"{schedd}#{ad['ClusterId']}.{ad['ProcId']}",
        job_id=str(ad.get("OffloadJob", "")),
        index=int(ad.get("OffloadIndex", 0)),
        attempt=str(ad.get("OffloadAttempt", "")),
        folder=str(Path(folder).parent),
    )


def starts(ad: Ad) -> int:
    """Return how often the job started running."""
    return max(0, int(ad.get("NumShadowStarts", 0)) - int(ad.get("NumJobReconnects", 0)))


def runnable(ad: Ad) -> bool:
    """Return whether the job was ever started by `Batch.start`: an unstarted one is held without a reason, with code 15, or with 16."""
    if ad.get("JobStatus") != HELD or ad.get("NumShadowStarts"):
        return True
    if ad.get("StageInFinish") is not None and ad.get("JobStatusOnRelease") == IDLE:
        return True
    code = ad.get("HoldReasonCode")
    return code is not None and code not in UNSTARTED_CODES


def arriving(ad: Ad) -> bool:
    """Return whether the schedd has not yet taken over the files that were sent to it."""
    return ad.get("JobStatus") == HELD and ad.get("HoldReasonCode") == 16 and ad.get("StageInFinish") is None


def forgotten(ad: Ad, now: float) -> bool:
    """Return whether a job that was started is held as if it were not (``now`` on the schedd's clock)."""
    if ad.get("JobStatus") != HELD or ad.get("NumShadowStarts"):
        return False
    arrived = ad.get("StageInFinish")
    unstarted = ad.get("HoldReasonCode") in (None, *UNSTARTED_CODES)
    return unstarted and (ad.get("HoldReasonCode") == 15 or (arrived is not None and now - float(arrived) > 5))


def found(ad: Ad, schedd: str, *, skew: float, history: bool, spool: bool) -> Found:
    """Return the task that this ad describes."""
    handle = handle_of(ad, schedd)
    return Found(status(handle, ad, skew=skew, history=history, spool=spool), runnable(ad))


def _hold(ad: Ad) -> HoldWords:
    return hold_words(ad.get("HoldReasonCode"), ad.get("HoldReasonSubCode"), str(ad.get("HoldReason", "")))


def releasable(ad: Ad, now: float) -> bool:
    """Return whether a held job is to be released by itself now (``now`` on the schedd's clock): twice, after 30 s and 2 minutes."""
    if ad.get("JobStatus") != HELD or not runnable(ad) or _hold(ad).kind != "retry":
        return False
    done = int(ad.get("OffloadReleases", 0))
    return done < 2 and now - float(ad.get("EnteredCurrentStatus", now)) >= 30 * 4**done


def status(handle: Handle, ad: Ad, *, skew: float = 0.0, history: bool = False, spool: bool = True) -> Status:
    """Return the status of a task.

    ``skew``: schedd's clock minus ours, in seconds. ``history``: the ad comes from the history, so the job has left the queue, and what was
    in the spool is gone. ``spool``: whether files come back through the spool.
    """
    state, reason, hint, error = _state(handle, ad, history=history, spool=spool)
    signalled = ad.get("ExitBySignal") is True
    ended = ad.get("JobStatus") in (COMPLETED, REMOVED) or state in (State.FINISHING, State.FAILED)
    completed = _completed(ad)
    finished = ad.get("CompletionDate") if completed else ad.get("EnteredCurrentStatus")
    begun = ad.get("JobCurrentStartDate") if starts(ad) else None
    return Status(
        handle=handle,
        state=state,
        reason=reason,
        hint=hint,
        error=error,
        attempts=starts(ad),
        exit_code=None if signalled or not completed else ad.get("ExitCode"),
        signal=ad.get("ExitSignal") if signalled and ended else None,
        host=_host(ad),
        started=None if begun is None else float(begun) - skew,
        finished=float(finished) - skew if ended and finished else None,
    )


def _host(ad: Ad) -> str | None:
    slot = ad.get("RemoteHost") or ad.get("LastRemoteHost")
    if slot:
        return str(slot).rpartition("@")[2]
    # A CE does not show the node; the id behind it is what its administrators ask for.
    routed = ad.get("RoutedToJobId")
    return f"behind the CE (job {routed})" if routed and starts(ad) else None


def _completed(ad: Ad) -> bool:
    # A completed job that was removed from the queue has JobStatus 3 in the history.
    return ad.get("JobStatus") == COMPLETED or (ad.get("JobStatus") == REMOVED and bool(ad.get("NumJobCompletions")))


def _state(handle: Handle, ad: Ad, *, history: bool, spool: bool) -> tuple[State, str, str, str]:
    code = ad.get("JobStatus")
    if _completed(ad):
        return _ended(handle, ad, history=history, spool=spool)
    if code == REMOVED:
        reason = str(ad.get("RemoveReason", "") or "removed")
        if not history and starts(ad):
            return State.CANCELLING, reason, "", ""  # until the worker node has ended it
        return State.CANCELLED, reason, "Submit it again when this was not you.", "JobCancelled"
    if code == HELD:
        return _held(ad)
    if code == IDLE:
        return _idle(ad)
    if code == SUSPENDED:
        return State.RUNNING, "suspended by the worker node", "", ""
    if code == TRANSFERRING:
        return State.RUNNING, "its output is on the way back", "", ""
    if code == RUNNING:
        if ad.get("JobDisconnectedDate") is not None:
            words = "contact with the worker node is lost; HTCondor tries to reconnect"
            return State.RUNNING, words, "It runs again elsewhere when the lease ends.", ""
        return State.RUNNING, "", "", ""
    return State.QUEUED, f"HTCondor's state {code}", "", ""


def _ended(handle: Handle, ad: Ad, *, history: bool, spool: bool) -> tuple[State, str, str, str]:
    reason = hint = ""
    if ad.get("ExitBySignal") is True:
        number = ad.get("ExitSignal")
        reason = f"ended by signal {number}"
        if number == 9:
            hint = "SIGKILL often means that the node ran out of memory: ask for more with --memory."
    if history and spool and not Path(task_folder(handle), OUTPUT).exists():
        gone = "ended, and left the queue before its results were fetched"
        return State.FAILED, gone, "Submit it again; results stay in the queue for a limited time.", "ResultUnavailable"
    return State.FINISHING, reason, hint, ""


def _held(ad: Ad) -> tuple[State, str, str, str]:
    if not runnable(ad):
        return State.PREPARING, "handed over, not yet started", "", ""
    text = str(ad.get("HoldReason", ""))
    if ad.get("HoldReasonCode") in UNSTARTED_CODES or (ad.get("HoldReasonCode") is None and not starts(ad)):
        return State.PREPARING, "its files are on their way", "", ""
    hold = _hold(ad)
    reason = f"{hold.words}: {text}" if text else hold.words
    state = State.FINISHING if hold.kind == "final" else State.HELD
    return state, reason, hold.hint, hold.error


def _idle(ad: Ad) -> tuple[State, str, str, str]:
    if not starts(ad):
        routed = "with the CE's job router" if ad.get("Managed") == "External" else "waiting for a slot"
        return State.QUEUED, routed, "", ""
    why = vacate_words(ad.get("VacateReasonCode"), str(ad.get("VacateReason", "")))
    if ad.get("OffloadRerun") is False:
        words = f"it was evicted ({why}) and must not run a second time"
        return State.FAILED, words, "Submit it again, or without --no-rerun.", "JobFailed"
    return State.QUEUED, f"waiting for a slot again after an eviction: {why}", "", ""
