"""Real execution as the judge of the name analysis: run a cell with one name taken away and watch for `NameError`."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dis
import inspect
import io
import itertools
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field

RUNS = itertools.count()
LINES = 2000
POSITIONS = sys.version_info >= (3, 11)
"""Since Python 3.11 an instruction knows its columns, so that the places really reached can be told apart."""

Place = tuple[int | None, int | None, int | None, int | None]
"""First and last line (from 1), first and last column (from 0, in bytes of UTF-8), as in `code.co_positions`."""


class EndlessProgram(BaseException):
    """The program ran too long; not an `Exception`, so that it does not catch it."""


@dataclass
class Run:
    """What happened: names whose `NameError` was raised, the one that left the cell, and the places reached."""

    raised: set[str] = field(default_factory=set)
    escaped: BaseException | None = None
    reached: set[Place] = field(default_factory=set)


def read_places(code: types.CodeType) -> dict[int, Place]:
    """Return where the instructions stand that read or delete a name; others may bear the place of a name, too."""
    found = {}
    for index, place in enumerate(code.co_positions()):
        if any(word in dis.opname[code.co_code[2 * index]] for word in ("NAME", "GLOBAL", "DEREF", "DICT")):
            found[2 * index] = place
    return found


def execute(source: str, namespace: dict[str, object], *, places: bool = False) -> Run:
    """Run `source` in `namespace` as a notebook does (top-level await allowed)."""
    run = Run()
    filename = f"<cell {next(RUNS)}>"  # a generator left over by another run may end during this one
    budget = LINES
    positions: dict[types.CodeType, dict[int, Place]] = {}

    def trace(frame: types.FrameType, event: str, arg: object) -> Callable[..., object] | None:
        nonlocal budget
        if frame.f_code.co_filename != filename:
            return None
        frame.f_trace_opcodes = places and POSITIONS
        if event == "line":
            budget -= 1
            if budget < 0:
                raise EndlessProgram
        elif event == "exception":
            error = arg[1]
            if isinstance(error, NameError) and not isinstance(error, UnboundLocalError) and error.name:
                run.raised.add(error.name)
        elif event == "opcode":
            code = frame.f_code
            if code not in positions:
                positions[code] = read_places(code)
            place = positions[code].get(frame.f_lasti)
            if place is not None:
                run.reached.add(place)
        return trace

    code = compile(source, filename, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            result = types.FunctionType(code, namespace)()
            if inspect.isawaitable(result):
                asyncio.run(_drive(result))
        except (Exception, EndlessProgram, SystemExit) as error:
            run.escaped = error
        finally:
            sys.settrace(before)
    return run


async def _drive(awaitable: object) -> None:
    await awaitable  # type: ignore[misc]


def missing(source: str, make: Callable[[], dict[str, object]], name: str) -> Run:
    """Run with `name` taken out of a fresh namespace."""
    namespace = make()
    del namespace[name]
    return execute(source, namespace)
