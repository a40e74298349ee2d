"""How our errors look in a notebook: the user's own line, the remote traceback, a hint; never our own stack.

IPython asks an exception for ``_render_traceback_`` before it makes a traceback itself.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from jupyter_offload.errors import OffloadError, RemoteError

__all__ = ["WaitInterrupted", "presentable", "shortly"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_OURS = str(Path(__file__).resolve().parent.parent)
_INNER = ("concurrent/futures", "IPython/core", "decorator.py")
_RED, _BOLD, _DIM, _END = "\x1b[31m", "\x1b[1m", "\x1b[2m", "\x1b[0m"


class WaitInterrupted(KeyboardInterrupt):
    """The user stopped waiting; the job goes on."""

    def _render_traceback_(self) -> list[str]:
        return [f"KeyboardInterrupt: {self}"]


def presentable(error: OffloadError, remote: Sequence[str] = (), *, frames: bool = True) -> OffloadError:
    """Return the error, which from now on shows itself in IPython with the remote traceback instead of our stack.

    ``remote`` are the lines as IPython coloured them where the job ran; without them the plain remote traceback is shown. With
    ``frames`` the user's own lines that led here are shown too.
    """

    def render() -> list[str]:
        lines = list(remote) or str(error.details.get("traceback") or "").splitlines()
        if not isinstance(error, RemoteError):
            lines = []  # the job was ended from outside: where the code was then says nothing
        found = [*(_own_frames(error) if frames else []), *lines]
        if not lines or type(error) is not RemoteError:
            found.append(f"{_RED}{_BOLD}{type(error).__name__}{_END}: {error.message}")
        if error.hint:
            found.append(f"{_DIM}→{_END} {error.hint}")
        return found

    error._render_traceback_ = render  # type: ignore[attr-defined]
    return error


def shortly(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Have the errors of a function of the Python interface show the user's lines and not ours."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except OffloadError as error:
            raise presentable(error) from None

    return call


def _own_frames(error: BaseException) -> list[str]:
    found = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_OURS) and not any(part in frame.filename for part in _INNER)
    ]
    return "".join(traceback.format_list(found)).splitlines()
