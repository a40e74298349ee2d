"""Scopes: which names a block binds and to which scope a name in it belongs (language reference, section 4.2)."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

Kind = Literal["module", "class", "function", "comprehension", "type"]


@dataclass(slots=True, eq=False)
class Bindings:
    """What a block binds in its own scope, without looking into the blocks nested in it."""

    names: set[str] = field(default_factory=set)
    globals: set[str] = field(default_factory=set)
    nonlocals: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)


BINDING_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {
    ast.Assign: ("targets",),
    ast.AugAssign: ("target",),
    ast.AnnAssign: ("target",),
    ast.Delete: ("targets",),
    ast.For: ("target", "body", "orelse"),
    ast.AsyncFor: ("target", "body", "orelse"),
    ast.While: ("body", "orelse"),
    ast.If: ("body", "orelse"),
    ast.With: ("items", "body"),
    ast.AsyncWith: ("items", "body"),
    ast.withitem: ("optional_vars",),
    ast.Tuple: ("elts",),
    ast.Starred: ("value",),
    ast.Expr: (),
    ast.Return: (),
    ast.Raise: (),
    ast.Assert: (),
    ast.Attribute: (),
    ast.Subscript: (),
}
"""Where a node may bind names, when there is no walrus: looking there alone makes the analysis several times faster."""


def bindings(nodes: Iterable[ast.AST], *, walrus: bool = True) -> Bindings:
    """Return what `nodes` bind in the scope that they stand in; a walrus in a comprehension binds outside of it.

    With `walrus` false, expressions are not looked into: the caller knows that the cell holds none.
    """
    found = Bindings()
    stack: list[ast.AST] = list(nodes)
    while stack:
        node = stack.pop()
        fields = None if walrus else BINDING_FIELDS.get(type(node))
        if fields is not None:
            for name in fields:
                value = getattr(node, name)
                if isinstance(value, list):
                    stack += value
                elif value is not None:
                    stack.append(value)
        elif isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                found.names.add(node.id)
                if isinstance(node.ctx, ast.Del):
                    found.deleted.add(node.id)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            (found.globals if isinstance(node, ast.Global) else found.nonlocals).update(node.names)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.names.update(imported_name(alias) for alias in node.names)
        elif isinstance(node, FUNCTIONS):
            found.names.add(node.name)
            if walrus:
                stack += node.decorator_list
                stack += _defaults(node.args)
        elif isinstance(node, ast.ClassDef):
            found.names.add(node.name)
            if walrus:
                stack += node.decorator_list
                stack += node.bases
                stack += node.keywords
        elif isinstance(node, ast.Lambda):
            stack += _defaults(node.args)
        elif isinstance(node, COMPREHENSIONS):
            for generator in node.generators:
                stack.append(generator.iter)
                stack += generator.ifs
            stack += [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        else:
            if isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
                found.names.add(node.name)
                if isinstance(node, ast.ExceptHandler):
                    found.deleted.add(node.name)
            elif isinstance(node, ast.MatchMapping) and node.rest:
                found.names.add(node.rest)
            stack += ast.iter_child_nodes(node)
    return found


def bound_once(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """Return the names of functions that stand for one definition only, wherever in the cell it is."""
    counts: Counter[str] = Counter()
    for node in nodes:
        if isinstance(node, ast.Name):
            counts[node.id] += not isinstance(node.ctx, ast.Load)
        elif isinstance(node, ast.alias):
            counts[imported_name(node)] += 1
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
            counts[node.name or ""] += 1
        elif isinstance(node, ast.MatchMapping):
            counts[node.rest or ""] += 1
    return frozenset(name for name, count in counts.items() if count == 1)


def imported_name(alias: ast.alias) -> str:
    """Return the name that an import binds: ``import a.b`` binds ``a``, ``import a.b as c`` binds ``c``."""
    return alias.asname or alias.name.partition(".")[0]


def arguments(args: ast.arguments) -> list[ast.arg]:
    """Return every parameter, in order."""
    found = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    return found + [arg for arg in (args.vararg, args.kwarg) if arg is not None]


def _defaults(args: ast.arguments) -> list[ast.expr]:
    return [*args.defaults, *(value for value in args.kw_defaults if value is not None)]


@dataclass(slots=True, eq=False)
class Scope:
    """One scope of the cell; ``private`` is the class whose name mangles ``__x`` (language reference, 6.2.1).

    ``unsettled`` are the names that a class body deletes: reads of them may reach the global name again.
    """

    kind: Kind
    parent: Scope | None = None
    locals: set[str] = field(default_factory=set)
    globals: set[str] = field(default_factory=set)
    private: str | None = None
    number: int = 0
    unsettled: set[str] = field(default_factory=set)
    made: int = 0

    def child(self, kind: Kind, names: set[str], declared: set[str] | None = None, private: str | None = None) -> Scope:
        """Return a scope inside this one that binds `names` and declares `declared` as global."""
        root = self
        while root.parent is not None:
            root = root.parent
        root.made += 1
        return Scope(kind, self, names, declared or set(), private or self.private, root.made)

    def key(self, name: str) -> str | None:
        """Return the key under which a binding of `name` here is followed; None for a function's own variable.

        A global name is its own key; a name of a class body carries the class's number, since reads of it fall back to
        the global name as long as the class has not bound it.
        """
        if self.kind == "module" or name in self.globals:
            return self.mangled(name)
        if self.kind == "class":
            return f"{name}@{self.number}"
        return None

    def is_global(self, name: str) -> bool:
        """Tell whether a read of `name` here reaches the global namespace (a class's own names: when not yet bound)."""
        if self.kind == "class" and name in self.locals:
            return True
        scope: Scope | None = self
        visible = True  # a class's names are seen from its own body, not from the functions in it
        while scope is not None and scope.kind != "module":
            if name in scope.globals and (visible or scope.kind != "class"):
                return True
            if name in scope.locals and (visible or scope.kind != "class"):
                return scope.kind == "class"
            if name == "__class__" and scope.kind == "class" and not visible:
                return False
            visible = visible and scope.kind == "type"
            scope = scope.parent
        return True

    def class_key(self, name: str) -> str | None:
        """Return the key of `name` when a class body that is visible from here binds it."""
        scope: Scope | None = self
        while scope is not None and scope.kind == "type":
            if name in scope.locals:
                return None
            scope = scope.parent
        return scope.key(name) if scope is not None and scope.kind == "class" and name in scope.locals else None

    def mangled(self, name: str) -> str:
        """Return the global name that `name` stands for here."""
        if self.private and name.startswith("__") and not name.endswith("__"):
            return f"_{self.private.lstrip('_')}{name}"
        return name
