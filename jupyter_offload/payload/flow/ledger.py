"""The ledger of a cell: every read of a global name with the circumstances under which it happens.

A function of the cell reads its globals when it runs, not where it is written. So a body is summarised once, as a
list of `Use`, and the summary is entered wherever the function may run: at a direct call with the bindings of that
moment, and where it escapes (is passed, stored, decorated) with the bindings of that moment as the least it can count
on later, since a binding, once made, is never an outside name again.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from jupyter_offload.payload.flow.scope import bound_once

STAR = "*"
"""Stands in the set of touched names for all those that ``from x import *`` may have bound."""

REQUIRED, MAYBE, OPTIONAL, BOUND, LATE = 1, 2, 4, 8, 16
"""Circumstances of a read: never bound before, perhaps bound, its NameError is caught, bound, in an escaped body."""


@dataclass(slots=True, eq=False)
class Use:
    """One read of a global name inside a body, relative to the moment the body is entered."""

    name: str
    node: ast.AST
    settled: frozenset[str]
    maybe: bool
    guarded: bool
    late: bool = False
    call: bool = False
    awaited: bool = False


@dataclass(slots=True, eq=False)
class Body:
    """What running a function, lambda, generator expression or the methods of a class reads and binds globally.

    ``immediate``: calling it runs it to its end. ``awaitable``: awaiting the call does. ``settles``: the names bound
    after every normal return.
    """

    uses: list[Use]
    touches: set[str] = field(default_factory=set)
    settles: set[str] = field(default_factory=set)
    immediate: bool = False
    awaitable: bool = False

    def runs(self, *, awaited: bool) -> bool:
        """Tell whether a call runs the body before it returns."""
        return self.immediate or (self.awaitable and awaited)


@dataclass(slots=True, eq=False)
class Place:
    """All circumstances met at one place where a name is read."""

    name: str
    node: ast.AST
    marks: int = 0


@dataclass(slots=True, eq=False)
class Ledger:
    """Collects the reads of one cell; ``bodies`` are the functions that a global name may stand for.

    ``effects`` are the names that some function of the cell declares global and so may bind whenever one is called,
    ``once`` the names that the cell binds at one place only, counted when somebody asks.
    """

    effects: frozenset[str] = frozenset()
    tree: ast.AST = field(default_factory=lambda: ast.Module([], []))
    once: frozenset[str] | None = None
    lazy_annotations: bool = False
    walrus: bool = True
    imports: list[tuple[int, str]] = field(default_factory=list)
    places: dict[tuple[str, int], Place] = field(default_factory=dict)
    bodies: dict[str, list[Body]] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    live: set[str] = field(default_factory=set)
    entered: set[Body] = field(default_factory=set)

    def read(
        self, name: str, node: ast.AST, settled: set[str], touched: set[str], *, guarded: bool, late: bool, maybe: bool
    ) -> None:
        """Record that `name` is read at `node` when `settled` names are bound and `touched` ones may be."""
        key = (name, id(node))
        place = self.places.get(key)
        if place is None:
            place = self.places[key] = Place(name, node)
        if name in settled:
            place.marks |= BOUND
        elif guarded:
            place.marks |= OPTIONAL | LATE if late else OPTIONAL
        elif late:
            place.marks |= LATE
        elif maybe or name in touched or STAR in touched:
            place.marks |= MAYBE
        else:
            place.marks |= REQUIRED

    def enter(
        self,
        body: Body,
        settled: set[str],
        touched: set[str],
        *,
        guarded: bool,
        late: bool,
        seen: dict[tuple[Body, bool, bool], list[set[str]]] | None = None,
    ) -> None:
        """Record the reads of `body` and of what it calls, as it may run from now on; adds to `touched`."""
        seen = {} if seen is None else seen
        before = seen.setdefault((body, guarded, late), [])
        if any(known is settled or known <= settled for known in before):
            return
        before.append(settled)
        self.entered.add(body)
        for use in body.uses:
            now = settled | use.settled if use.settled else settled
            is_guarded, is_late = guarded or use.guarded, late or use.late
            self.read(use.name, use.node, now, touched, guarded=is_guarded, late=is_late, maybe=use.maybe)
            if is_late:
                self.live.add(use.name)
            for callee in self.bodies.get(use.name, ()):
                deferred = is_late or not (use.call and callee.runs(awaited=use.awaited))
                self.enter(callee, now, touched, guarded=is_guarded, late=deferred, seen=seen)
        touched |= body.touches

    def means_one(self, name: str) -> bool:
        """Tell whether the cell binds `name` at one place only, so that what a call of it runs is certain."""
        if self.once is None:
            self.once = bound_once(ast.walk(self.tree))
        return name in self.once

    def finish(self, settled: set[str], touched: set[str]) -> None:
        """Enter what was defined and never mentioned: it may come back as an output and run later."""
        for bodies in list(self.bodies.values()):
            for body in bodies:
                if body not in self.entered:
                    self.enter(body, settled, touched, guarded=False, late=True)

    def circumstances(self, place: Place) -> int:
        """Return the marks of `place` with ``LATE`` resolved: required only when the cell never binds the name."""
        marks = place.marks
        if marks & LATE:
            known = place.name in self.touched or STAR in self.touched
            marks = (marks & ~LATE) | (MAYBE if known else REQUIRED)
        return marks
