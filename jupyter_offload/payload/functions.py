"""Notebook functions as source: what another Python needs to define the same function again.

A function that a module on the other side has is only named (`FunctionReference`). One that was defined in the notebook
travels as its own text with the values of its globals, defaults and closure, and so do the notebook functions and
classes that it uses. Source, unlike a pickled code object, runs on any Python version.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jupyter_offload.payload.capture import Capture, Part, importable

__all__ = ["FunctionReference", "FunctionSource", "Part", "function_source"]


@dataclass(frozen=True, slots=True)
class FunctionReference:
    """A function that can be imported where it runs: ``module:qualname``."""

    module: str
    qualname: str

    def __str__(self) -> str:
        return f"{self.module}:{self.qualname}"


@dataclass(frozen=True, slots=True)
class FunctionSource:
    r"""A notebook function that travels as source.

    ``source`` is its own text (decorators included) as written at ``first_line`` of ``filename``. ``parts`` are all
    pieces of code in the order in which they must run, each with the place it came from, so that a traceback can show
    the user's own line: compile each as ``"\\n" * (first_line - 1) + source`` under its file name. ``values`` must be in
    the namespace before. ``imports`` are the statements that open the code, ``modules`` the dotted names in them.
    """

    name: str
    source: str
    filename: str
    first_line: int
    parts: tuple[Part, ...]
    values: Mapping[str, object] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()

    def render(self) -> tuple[str, tuple[str, ...]]:
        """Return one text that defines the function under ``name``, and the names of the values to inject before."""
        lines = [*self.imports, *(part.source.rstrip("\n") for part in self.parts)]
        return "\n".join(lines) + "\n", tuple(self.values)


def function_source(
    function: Callable[..., object], user_ns: Mapping[str, object]
) -> FunctionSource | FunctionReference | None:
    """Return how `function` can travel without pickling its code.

    Takes plain functions, lambdas, closures, coroutine and generator functions, wrapped functions
    (`functools.wraps`), `functools.partial`, bound methods and classes of the notebook. None means that the source is
    not to be had for sure (defined by ``exec``, a C function, two alike lambdas on one line): pickle it between equal
    Python versions then.
    """
    found = importable(function)
    if found is not None:
        return FunctionReference(*found)
    name = _name_of(function)
    if user_ns.get(name, function) is not function:
        name += "_call"  # the notebook's own name means something else, which the function may read
    capture = Capture(user_ns)
    unit = capture.unit(function, name)
    if unit is None:
        return None
    return FunctionSource(
        name=name,
        source=unit.own.source,
        filename=unit.own.filename,
        first_line=unit.own.first_line,
        parts=tuple(capture.ordered(unit)),
        values=dict(capture.values),
        imports=tuple(capture.imports),
        modules=tuple(sorted(name for name in capture.modules if name in sys.modules)),
    )


def _name_of(function: object) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, types.MethodType):
        function = function.__func__
    name = getattr(function, "__name__", type(function).__name__)
    return name if name.isidentifier() else "function"
