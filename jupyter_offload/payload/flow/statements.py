"""Statements: how bindings flow through branches, loops, handlers and definitions (language reference, 7 and 8)."""

# ruff: noqa: N802, N815, ARG002 - visit_* carry the names of the syntax tree (`ast.NodeVisitor`)

from __future__ import annotations

import ast
from collections.abc import Iterable

from jupyter_offload.payload.flow.expressions import Expressions, State
from jupyter_offload.payload.flow.known import (
    NEVER_SUPPRESS,
    catches_name_error,
    has_elements,
    is_harmless,
    is_irrefutable,
    is_known_base,
    manager_name,
)
from jupyter_offload.payload.flow.ledger import STAR, Body
from jupyter_offload.payload.flow.scope import Scope, arguments, bindings, imported_name

FunctionDef = ast.FunctionDef | ast.AsyncFunctionDef
Loop = ast.For | ast.AsyncFor | ast.While


class Statements(Expressions):
    """Walks statements; ``settled``, ``touched`` and ``dead`` are those of the path being walked."""

    def statements(self, body: Iterable[ast.stmt]) -> None:
        """Walk statements until one leaves the block."""
        for statement in body:
            if self.dead:
                return
            self.visit(statement)

    def meet(self, states: Iterable[State]) -> None:
        """Go on where any of `states` may have come from."""
        alive = [settled for settled, dead in states if not dead]
        self.dead = not alive
        if alive:
            self.settled = set.intersection(*alive)

    # assignments

    def visit_Assign(self, node: ast.Assign) -> None:
        """Value, then targets from left to right."""
        first = node.targets[0]
        self._assign(node.value, first.id if isinstance(first, ast.Name) and len(node.targets) == 1 else None)
        self.visit_all(node.targets)

    def _assign(self, value: ast.expr, name: str | None) -> None:
        """Walk a value; a lambda or generator expression that only a top-level name holds runs when that is used."""
        if name is not None and self.sink is None and self.scope.kind == "module":
            body = self.deferred(value)
            if body is not None:
                self.define(name, body, escapes=False)
                return
        self.visit(value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """The target is read first."""
        if isinstance(node.target, ast.Name):
            self.load(node.target.id, node.target)
            self.visit(node.value)
            self.store(node.target.id)
        else:
            self.visit(node.target)
            self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Value, target, annotation; without a value nothing is bound."""
        if node.value is not None:
            self._assign(node.value, node.target.id if isinstance(node.target, ast.Name) else None)
        if node.value is not None or not isinstance(node.target, ast.Name):
            self.visit(node.target)
        if self.annotations_run or not node.simple:
            self.annotation(node.annotation)

    def annotation(self, node: ast.expr | None) -> None:
        """Walk an annotation; under ``from __future__ import annotations`` it is kept as a string."""
        if node is not None:
            self.guarded += self.ledger.lazy_annotations
            self.visit(node)
            self.guarded -= self.ledger.lazy_annotations

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        """Bind the imported names; a star may bind any."""
        if isinstance(node, ast.Import):
            self.ledger.imports += [(node.lineno, alias.name) for alias in node.names]
        elif node.module and not node.level:
            # `from a import b` may mean the module a.b: the caller looks whether there is one
            paths = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names if alias.name != STAR)]
            self.ledger.imports += [(node.lineno, path) for path in paths]
        for alias in node.names:
            if alias.name == STAR:
                self.touched.add(STAR)
                self.ledger.touched.add(STAR)
            else:
                self.store(imported_name(alias))

    visit_ImportFrom = visit_Import

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        """Nothing runs; see `bindings`."""

    visit_Nonlocal = visit_Global

    # branches and loops

    def visit_If(self, node: ast.If) -> None:
        """One of two branches; a constant condition chooses."""
        self.visit(node.test)
        if isinstance(node.test, ast.Constant):
            self.statements(node.body if node.test.value else node.orelse)
            return
        before, touched = set(self.settled), set(self.touched)
        self.statements(node.body)
        body, more = (self.settled, self.dead), self.touched
        self.settled, self.touched, self.dead = before, touched, False
        self.statements(node.orelse)
        self.touched |= more
        self.meet([body, (self.settled, self.dead)])

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        """Perhaps no round at all, unless the iterable is a literal that has elements."""
        self.visit(node.iter)
        before = (set(self.settled), False)
        self._again(node)
        self.visit(node.target)
        breaks, ends = self._round(node.body)
        self.meet(ends if has_elements(node.iter) else [before, *ends])
        self._after_loop(node.orelse, breaks)

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> None:
        """The condition runs at least once; ``while True`` ends by a break only."""
        constant = node.test.value if isinstance(node.test, ast.Constant) else None
        self._again(node)
        self.visit(node.test)
        tested = (set(self.settled), isinstance(node.test, ast.Constant) and bool(constant))
        breaks: list[State] = []
        if not isinstance(node.test, ast.Constant) or constant:
            breaks, _ = self._round(node.body)
        self.meet([tested])
        self._after_loop(node.orelse, breaks)

    def _again(self, node: Loop) -> None:
        """From the second round on, what the loop binds may be bound."""
        self.touched |= self.ledger.effects
        for name in bindings([node], walrus=self.ledger.walrus).names:
            key = self.scope.key(name)
            if key is not None:
                self.touched.add(key)

    def _round(self, body: list[ast.stmt]) -> tuple[list[State], list[State]]:
        """Walk a loop's body; return the states at its breaks and at the ends of its rounds."""
        outer = self.breaks, self.continues
        self.breaks, self.continues = [], []
        self.loops += 1
        self.statements(body)
        self.loops -= 1
        breaks, ends = self.breaks, [*self.continues, (self.settled, self.dead)]
        self.breaks, self.continues = outer
        return breaks, ends

    def _after_loop(self, orelse: list[ast.stmt], breaks: list[State]) -> None:
        if not self.dead:
            self.statements(orelse)
        self.meet([*breaks, (self.settled, self.dead)])

    def visit_Break(self, node: ast.Break) -> None:
        """Leave the loop."""
        self.breaks.append((set(self.settled), False))
        self.dead = True

    def visit_Continue(self, node: ast.Continue) -> None:
        """Start the next round."""
        self.continues.append((set(self.settled), False))
        self.dead = True

    def visit_Return(self, node: ast.Return) -> None:
        """Leave the function."""
        if node.value is not None:
            self.visit(node.value)
        self.returns.append(set(self.settled))
        self.dead = True

    def visit_Raise(self, node: ast.Raise) -> None:
        """Leave the block."""
        for value in (node.exc, node.cause):
            if value is not None:
                self.visit(value)
        self.dead = True

    def visit_Assert(self, node: ast.Assert) -> None:
        """The message is evaluated only when the cell fails; under ``-O`` nothing is."""
        with self.perhaps():
            self.visit(node.test)
            if node.msg is not None:
                self.visit(node.msg)

    def visit_Match(self, node: ast.Match) -> None:
        """Cases in order; a pattern that fails half-way may have bound names."""
        self.visit(node.subject)
        ends: list[State] = []
        for case in node.cases:
            before = set(self.settled)
            self.visit(case.pattern)
            if case.guard is not None:
                self.visit(case.guard)
            self.statements(case.body)
            ends.append((self.settled, self.dead))
            self.settled, self.dead = before, False
            if is_irrefutable(case):
                self.dead = True
                break
        self.meet([*ends, (self.settled, self.dead)])

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        """Bind the capture after its pattern."""
        if node.pattern is not None:
            self.visit(node.pattern)
        if node.name is not None:
            self.store(node.name)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        """Bind the rest of a sequence."""
        if node.name is not None:
            self.store(node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        """Keys are read, the rest is bound."""
        self.visit_all(node.keys)
        self.visit_all(node.patterns)
        if node.rest is not None:
            self.store(node.rest)

    def visit_MatchOr(self, node: ast.MatchOr) -> None:
        """Alternatives bind the same names; only the first is tried on every path."""
        self.visit(node.patterns[0])
        with self.perhaps():
            self.visit_all(node.patterns[1:])

    # exceptions

    def visit_Try(self, node: ast.Try) -> None:
        """A handler starts from anywhere in the body, so counts on nothing that the body binds."""
        before = set(self.settled)
        guard = any(catches_name_error(handler.type) for handler in node.handlers)
        self.guarded += guard
        self.statements(node.body)
        self.guarded -= guard
        self.statements(node.orelse)
        ends = [(self.settled, self.dead)]
        for handler in node.handlers:
            self.settled, self.dead = set(before), False
            if handler.type is not None:
                self.visit(handler.type)
            if handler.name is not None:
                self.store(handler.name)
            self.statements(handler.body)
            ends.append((self.settled, self.dead))
        self.meet(ends)
        if node.finalbody:
            settled, dead = self.settled, self.dead
            self.settled, self.dead = set(before), False
            self.statements(node.finalbody)
            self.settled = settled | (self.settled - before) if not dead else self.settled
            self.dead = self.dead or dead

    visit_TryStar = visit_Try

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        """Unless the manager is known to let exceptions pass, the block may end anywhere."""
        swallowed: set[str] | None = None
        guards = 0
        for item in node.items:
            self.visit(item.context_expr)
            name = manager_name(item.context_expr)
            if name in ("suppress", "raises", "assertRaises"):
                guards += 1
                self.guarded += 1
            if item.optional_vars is not None:
                self.visit(item.optional_vars)
            if swallowed is None and (name not in NEVER_SUPPRESS or name in self.ledger.bodies):
                swallowed = set(self.settled)
        self.statements(node.body)
        self.guarded -= guards
        if swallowed is not None:
            self.meet([(self.settled, self.dead), (swallowed, False)])

    visit_AsyncWith = visit_With

    # definitions

    def define(self, name: str, body: Body, *, escapes: bool) -> None:
        """Give `body` to `name`; in a loop, or when something that runs later reads the name, it may run from here."""
        key = self.scope.key(name) if self.scope.kind in ("module", "class") else None
        if key is None or self.sink is not None:
            self.escape(body)
            return
        self.ledger.bodies.setdefault(key, []).append(body)
        if self.scope.kind == "class":
            self.methods.append(body)
        if escapes or self.loops or key in self.ledger.live:
            self.escape(body)

    def visit_FunctionDef(self, node: FunctionDef) -> None:
        """Decorators, defaults and annotations now, the body when it is called."""
        self.visit_all(node.decorator_list)
        with_parameters = self._type_parameters(node)
        self.defaults(node.args)
        for arg in arguments(node.args):
            self.annotation(arg.annotation)
        self.annotation(node.returns)
        body = self.summarise(node, node.body)
        if with_parameters is not None:
            self.scope = with_parameters
        self.define(node.name, body, escapes=not all(is_harmless(item) for item in node.decorator_list))
        self.store(node.name)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """The body runs now, its methods when the class is used, or at once when a base class may call them."""
        self.visit_all(node.decorator_list)
        with_parameters = self._type_parameters(node)
        self.visit_all(node.bases)
        self.visit_all(node.keywords)
        found = bindings(node.body, walrus=self.ledger.walrus)
        outer, methods, run = self.scope, self.methods, self.annotations_run
        self.scope = outer.child("class", found.names - found.globals, found.globals, private=node.name)
        self.scope.unsettled = found.deleted
        self.methods, self.annotations_run = [], True
        self.statements(node.body)
        uses = [use for body in self.methods for use in body.uses]
        touches = {name for body in self.methods for name in body.touches}
        self.scope, self.methods, self.annotations_run = with_parameters or outer, methods, run
        plain = all(isinstance(base, ast.Name) and is_known_base(base.id) for base in node.bases)
        harmless = all(is_harmless(item) for item in node.decorator_list)
        escapes = bool(node.keywords) or not plain or not harmless
        self.define(node.name, Body(uses, touches), escapes=escapes)
        self.store(node.name)

    def _type_parameters(self, node: ast.AST) -> Scope | None:
        """Open the scope of ``[T]`` (Python 3.12); return the scope to go back to."""
        parameters: list[ast.AST] = getattr(node, "type_params", [])
        if not parameters:
            return None
        outer = self.scope
        self.scope = outer.child("type", {getattr(item, "name", "") for item in parameters})
        for item in parameters:
            for part in ast.iter_child_nodes(item):
                self._lazy(part)
        return outer

    def _lazy(self, node: ast.AST) -> None:
        """Read what is evaluated when somebody asks for it, if ever."""
        if isinstance(node, ast.expr):
            no_arguments = ast.arguments([], [], None, [], [], None, [])
            self.escape(self.summarise(ast.Lambda(no_arguments, node), []))

    def visit_TypeAlias(self, node: ast.AST) -> None:
        """``type A = …``: the value is evaluated when it is asked for (Python 3.12)."""
        outer = self._type_parameters(node)
        value, name = getattr(node, "value", None), getattr(node, "name", None)
        if isinstance(value, ast.expr):
            self._lazy(value)
        if outer is not None:
            self.scope = outer
        if isinstance(name, ast.Name):
            self.store(name.id)
