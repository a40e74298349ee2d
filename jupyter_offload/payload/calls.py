"""A function call as the runner takes it: how the function travels, and its arguments.

A function of an installed module is only named; one of the notebook travels as source with what it uses; when its source cannot be had
it is pickled, and then only an equal Python may open it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jupyter_offload.payload.codecs import Encoded, encode
from jupyter_offload.payload.functions import FunctionReference, FunctionSource, function_source

__all__ = ["Call", "CallPart", "plan_call"]


@dataclass(frozen=True)
class CallPart:
    """One part of the bundle."""

    role: str
    """``value`` (a global of the function), ``arg``, ``kwarg`` or ``function`` (pickled)."""
    name: str
    encoded: Encoded


@dataclass(frozen=True)
class Call:
    """A planned call: ``main`` for the bundle's header and the parts behind it."""

    main: Mapping[str, Any]
    parts: tuple[CallPart, ...]
    found: FunctionSource | FunctionReference | None
    """How the function travels; ``None``: pickled."""

    @property
    def python_bound(self) -> bool:
        """Whether only an equal Python minor can run it."""
        return any(part.encoded.python_bound for part in self.parts)


def plan_call(
    function: Callable[..., object],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    user_ns: Mapping[str, object],
    *,
    arrow: bool = True,
) -> Call:
    """Return how ``function(*args, **kwargs)`` travels. Raises `CannotEncode`, naming the argument or the global."""
    found = function_source(function, user_ns)
    parts: list[CallPart] = []
    main: dict[str, Any] = {"arrow": arrow}
    if isinstance(found, FunctionReference):
        main.update(call="reference", module=found.module, qualname=found.qualname)
    elif isinstance(found, FunctionSource):
        pieces = [asdict(piece) for piece in found.parts]
        main.update(call="source", entry=found.name, imports=list(found.imports), pieces=pieces)
        parts += [
            CallPart("value", name, encode(value, name=name, arrow=arrow)) for name, value in found.values.items()
        ]
    else:
        name = getattr(function, "__qualname__", type(function).__qualname__)
        main.update(call="pickle")
        parts.append(CallPart("function", name, encode(function, name=name, arrow=False)))
    for place, value in enumerate(args):
        parts.append(CallPart("arg", str(place), encode(value, name=f"argument {place + 1}", arrow=arrow)))
    for name, value in kwargs.items():
        parts.append(CallPart("kwarg", name, encode(value, name=f"argument {name}", arrow=arrow)))
    return Call(main, tuple(parts), found)
