"""From ``status.json`` and the batch system's last word to the outcome of a task: a state, plain words, a typed error."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_offload import errors
from jupyter_offload.batch.base import Status
from jupyter_offload.job import State

__all__ = ["Verdict", "batch_error", "judge", "read_status"]


@dataclass(frozen=True)
class Verdict:
    """How a task ended."""

    state: State
    reason: str = ""
    error: errors.JobError | None = None
    exit_code: int | None = None
    host: str | None = None
    started: float | None = None
    finished: float | None = None


def read_status(path: Path) -> Mapping[str, Any] | None:
    """Return the content of a ``status.json``, or None when there is none or it is no JSON object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def batch_error(status: Status) -> errors.JobError | None:
    """Return the typed error that the batch system's status carries, or None."""
    if not status.error and status.state is not State.FAILED:
        return None
    kind = getattr(errors, status.error, None) if status.error in errors.__all__ else None
    chosen = kind if isinstance(kind, type) and issubclass(kind, errors.JobError) else errors.JobFailed
    return chosen(status.reason or "the job failed", hint=status.hint or None, job_id=status.handle.job_id)


def judge(job_id: str, status: Mapping[str, Any] | None, batch: Status | None, problem: str) -> Verdict:
    """Return how a task ended.

    ``status`` is its ``status.json`` (None when it brought none back), ``batch`` the batch system's last word (None when
    unknown), ``problem`` why files are missing.
    """
    host = (batch.host if batch else None) or _text(status, "host")
    started = _number(status, "started") or (batch.started if batch else None)
    finished = _number(status, "finished") or (batch.finished if batch else None)

    def ended(state: State, error: errors.JobError | None = None, exit_code: int | None = None) -> Verdict:
        return Verdict(state, error.message if error else "", error, exit_code, host, started, finished)

    if batch is not None and batch.state is State.CANCELLED:
        return ended(State.CANCELLED, errors.JobCancelled(batch.reason or "cancelled", job_id=job_id))
    said = batch_error(batch) if batch is not None else None
    if said is not None:
        return ended(State.FAILED, said, batch.exit_code if batch else None)
    if status is None:
        return ended(State.FAILED, _without_status(job_id, batch, problem), batch.exit_code if batch else None)
    if status.get("phase") == "Succeeded":
        return ended(State.SUCCEEDED, exit_code=0)
    error = _container_error(job_id, status)
    code = error.details.get("exit_code")
    return ended(State.FAILED, error, code if isinstance(code, int) else None)


def _without_status(job_id: str, batch: Status | None, problem: str) -> errors.JobError:
    code = batch.exit_code if batch else None
    what = f"was killed by {_signal(batch.signal)}" if batch and batch.signal else f"ended with exit code {code}"
    detail = f" ({problem})" if problem else ""
    return errors.JobFailed(f"the job script {what} and left no result{detail}", job_id=job_id)


_REASONS: dict[str, tuple[type[errors.JobError], str, str]] = {
    "DeadlineExceeded": (
        errors.TimeExceeded,
        "ran longer than the requested time",
        "Ask for more with --time, such as --time 2h.",
    ),
    "Terminated": (
        errors.JobFailed,
        "was ended from outside",
        "Run it again; if it happens again ask the site's administrator.",
    ),
    "ImageNotFound": (
        errors.JobFailed,
        "the image could not be had",
        "Check the image's name; `%offload sites` lists those that the site offers.",
    ),
    "CommandNotFound": (
        errors.JobFailed,
        "the command was not found",
        "Check the spelling, or choose an image (--image) that has it.",
    ),
    "RuntimeMissing": (
        errors.JobFailed,
        "the worker node has no container runtime",
        "Ask the administrator for apptainer, or choose another site.",
    ),
    "DiskFull": (errors.DiskExceeded, "the worker node's disk was full", "Write less, or ask for more with --disk."),
    "InputsCorrupt": (errors.JobFailed, "the inputs arrived damaged", "Run it again."),
}


def _container_error(job_id: str, status: Mapping[str, Any]) -> errors.JobError:
    containers = [item for item in status.get("containers") or () if isinstance(item, Mapping)]
    failed = next((item for item in containers if item.get("exit_code") not in (0, None) or item.get("signal")), {})
    name = str(failed.get("name", "main"))
    code = failed.get("exit_code")
    number = failed.get("signal")
    message = str(status.get("message") or "")
    for reason in (str(status.get("reason") or ""), str(failed.get("reason") or "")):
        if reason in _REASONS:
            kind, words, hint = _REASONS[reason]
            more = f": {message}" if message and reason != "DeadlineExceeded" else ""
            return kind(f"{words}{more}", hint=hint, job_id=job_id, container=name, exit_code=code)
    if number:
        words = f"container {name} was killed by {_signal(number)}"
        advice = "Often out of memory: ask for more with --memory." if number == signal.SIGKILL else None
        return errors.JobFailed(words, hint=advice, job_id=job_id, container=name, exit_code=code, signal=number)
    return errors.JobFailed(
        f"exit code {code}" + ("" if name == "main" else f" of container {name}"),
        job_id=job_id,
        container=name,
        exit_code=code,
    )


def _signal(number: object) -> str:
    try:
        return f"signal {number} ({signal.Signals(int(str(number))).name})"
    except ValueError:
        return f"signal {number}"


def _number(data: Mapping[str, Any] | None, key: str) -> float | None:
    value = data.get(key) if data else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(data: Mapping[str, Any] | None, key: str) -> str | None:
    value = data.get(key) if data else None
    return value if isinstance(value, str) and value else None
