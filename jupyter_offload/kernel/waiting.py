"""Waiting in a cell: the job's output comes live, then its names, then its error as the user's own. An interrupt stops only the waiting."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

from jupyter_offload.errors import OffloadError
from jupyter_offload.job import Kind
from jupyter_offload.kernel.binding import bind
from jupyter_offload.kernel.display import CellSink
from jupyter_offload.kernel.follow import follow, replay
from jupyter_offload.kernel.future import Job, still_running
from jupyter_offload.kernel.present import WaitInterrupted, presentable

__all__ = ["finish", "interruptible", "show_again", "stream", "twin_note"]


def interruptible(job: Job, action: Callable[[], None]) -> None:
    """Do something that waits; an interrupt is told with what goes on and how to stop it."""
    try:
        action()
    except KeyboardInterrupt:
        raise WaitInterrupted(still_running(job)) from None
    except OffloadError as error:
        raise presentable(error, frames=False) from None


def stream(job: Job, shell: Any) -> None:
    """Show the job's output as it comes, then bind its names. Raises what ended the job."""
    interruptible(job, lambda: follow(job, CellSink(shell)))
    finish(job, shell)


def finish(job: Job, shell: Any) -> None:
    """Wait for the end and bind what came back. Raises what ended the job."""

    def end() -> None:
        job.wait()
        error = job.exception(timeout=0)
        if isinstance(error, OffloadError):
            raise error
        if job.record.request.kind is Kind.CELL and job.record.request.outputs:
            job.note(bind(job, shell.user_ns))

    interruptible(job, end)


def show_again(job: Job, shell: Any) -> object:
    """Show the outputs of an ended job again, bind its names, and return a function's value. Raises what ended the job."""
    interruptible(job, lambda: concurrent.futures.wait([job]) and None)
    if job.record.request.kind is Kind.CELL:
        interruptible(job, lambda: replay(job, CellSink(shell)))
    finish(job, shell)
    if job.record.request.kind is Kind.CELL:
        if job.record.request.outputs:
            print(bind(job, shell.user_ns))
        return None
    if job.record.request.kind is Kind.FUNCTION:
        return job.result()
    return None


def twin_note(job: Job) -> str:
    """Return what to say when a submission found its twin."""
    if job.state.terminal:
        return "result of an identical submission that had ended before"
    return "attached to an identical submission that was already running; --again starts a new one"
