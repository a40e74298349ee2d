"""Free names: what a cell reads from the user's namespace before it binds it itself.

`free_names` walks the syntax tree in evaluation order with the standard library alone. Its promise: every name whose
absence makes the cell raise `NameError` is among the loads. A name is reported too many only when the cell mentions it
on a path that this run does not take. What no analysis of the text can see (``globals()[name]``, ``exec(text)``,
``%run``) is listed in `Names.blind`, so that the user can be told to name such inputs himself.
"""

from __future__ import annotations

import ast
import builtins
import re
from dataclasses import dataclass
from typing import Literal

from jupyter_offload.errors import CaptureError
from jupyter_offload.payload.flow.ledger import BOUND, OPTIONAL, REQUIRED, STAR, Ledger
from jupyter_offload.payload.flow.scope import Scope, bindings
from jupyter_offload.payload.flow.statements import Statements

__all__ = ["Blind", "Import", "Load", "Names", "free_names"]

Kind = Literal["required", "maybe", "optional"]

_GLOBAL = re.compile(r"(?:^|[;:])\s*global\s([\w\s,\\]+?)(?:$|[;#])", re.MULTILINE)

PROVIDED = frozenset(dir(builtins)) | {"get_ipython", "display", "exit", "quit", "In", "Out"}
"""Names that every Python or IPython has; a user's own value of that name is the caller's to find."""


@dataclass(frozen=True, slots=True)
class Load:
    """A name that the cell may read from outside.

    ``kind``: `required` raises `NameError` whenever the place is reached without it; `maybe` only on the paths on
    which the cell has not bound it before; `optional` never does (its absence is caught, or it stands in a magic or a
    shell line). ``line`` and ``column`` (from 1 and 0) are the first place of that kind. ``builtin`` names exist
    everywhere and matter only when the user has given the name a value of his own.
    """

    name: str
    line: int
    column: int
    kind: Kind
    builtin: bool = False


@dataclass(frozen=True, slots=True)
class Import:
    """A module that the cell imports anywhere that can be reached: ``module`` is the top-level one, ``path`` the dotted path."""

    module: str
    path: str
    line: int


@dataclass(frozen=True, slots=True)
class Blind:
    """A construct that may read names which the text does not show."""

    line: int
    construct: str


@dataclass(frozen=True, slots=True)
class Names:
    """What a cell reads, binds, deletes and imports; loads in the order of their first place."""

    loads: tuple[Load, ...]
    stores: tuple[str, ...]
    deletes: tuple[str, ...]
    imports: tuple[Import, ...]
    blind: tuple[Blind, ...]

    def needed(self, namespace: frozenset[str] | set[str]) -> tuple[str, ...]:
        """Return the loads that exist in `namespace`: what has to travel with the cell."""
        return tuple(load.name for load in self.loads if load.name in namespace)


def free_names(source: str) -> Names:
    """Return the names of a cell, given its source after IPython's own transform (`TransformerManager`).

    Raises `CaptureError` with the line when the source is not valid for this Python.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise CaptureError(
            f"the cell cannot be read: {getattr(error, 'msg', error)} (line {line})",
            hint=f"Mend line {line} of the cell.",
            line=line,
        ) from error
    walrus = ":=" in source
    # a word too many (in a text) makes a kind less sharp, no more; looking at every node would take as long as all else
    effects = frozenset(re.findall(r"\w+", " ".join(_GLOBAL.findall(source)))) if "global" in source else frozenset()
    lazy = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    ledger = Ledger(effects=effects, tree=tree, lazy_annotations=lazy, walrus=walrus)
    walker = Statements(ledger, Scope("module"))
    walker.statements(tree.body)
    ledger.finish(walker.settled, walker.touched)
    found = bindings(tree.body, walrus=walrus)
    return Names(
        loads=_loads(ledger),
        stores=tuple(sorted((found.names | ledger.touched) - {STAR} - {n for n in ledger.touched if "@" in n})),
        deletes=tuple(sorted(found.deleted)),
        imports=_imports(ledger),
        blind=tuple(Blind(line, construct) for line, construct in sorted(set(walker.blind))),
    )


def _loads(ledger: Ledger) -> tuple[Load, ...]:
    """Merge the places of each name: the strongest kind counts."""
    rank: dict[Kind, int] = {"required": 0, "maybe": 1, "optional": 2}
    best: dict[str, Load] = {}
    first: dict[str, tuple[int, int]] = {}
    for place in ledger.places.values():
        marks = ledger.circumstances(place)
        if not marks & ~BOUND:
            continue
        kind: Kind = "required" if marks == REQUIRED else "optional" if marks == OPTIONAL else "maybe"
        position = (getattr(place.node, "lineno", 1), getattr(place.node, "col_offset", 0))
        load = Load(place.name, *position, kind, builtin=place.name in PROVIDED)
        known = best.get(place.name)
        if known is None or (rank[kind], position) < (rank[known.kind], (known.line, known.column)):
            best[place.name] = load
        first[place.name] = min(first.get(place.name, position), position)
    return tuple(sorted(best.values(), key=lambda load: first[load.name]))


def _imports(ledger: Ledger) -> tuple[Import, ...]:
    """Return each imported path once, at its first line."""
    found: dict[str, Import] = {}
    for line, path in sorted(ledger.imports):
        found.setdefault(path, Import(path.partition(".")[0], path, line))
    return tuple(found.values())
