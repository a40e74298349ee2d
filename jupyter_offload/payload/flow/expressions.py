"""Expressions in evaluation order (language reference, section 6.16), and the bodies that they create or call."""

# ruff: noqa: N802, N815 - visit_* carry the names of the syntax tree (`ast.NodeVisitor`)
from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from jupyter_offload.payload.flow.hidden import Hidden, reveal
from jupyter_offload.payload.flow.ledger import STAR, Body, Ledger, Use
from jupyter_offload.payload.flow.scope import FUNCTIONS, Scope, arguments, bindings

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp

State = tuple[set[str], bool]
"""The settled names of a path and whether it ends here (`dead`)."""

CONSUMERS = frozenset(
    ["all", "any", "bytes", "dict", "frozenset", "list", "max", "min", "set", "sorted", "sum", "tuple"]
)
"""Builtins that run a generator expression to its end before they return."""


class Expressions:
    """Walks expressions with the names ``settled`` (bound or deleted on every path) and ``touched`` (on some path).

    ``sink`` is None at the top level, where reads go to the ledger at once, and collects the uses of a body otherwise.
    """

    def __init__(self, ledger: Ledger, scope: Scope, sink: list[Use] | None = None) -> None:
        self.ledger = ledger
        self.scope = scope
        self.sink = sink
        self.settled: set[str] = set()
        self.touched: set[str] = set()
        self.dead = False
        self.guarded = 0
        self.loops = 0
        self.yields = False
        self.returns: list[set[str]] = []
        self.breaks: list[State] = []
        self.continues: list[State] = []
        self.methods: list[Body] = []
        self.place: ast.AST | None = None
        self.annotations_run = True
        self.blind: list[tuple[int, str]] = []

    def statements(self, body: Iterable[ast.stmt]) -> None:
        """Walk statements; see `jupyter_offload.payload.flow.statements`."""
        raise NotImplementedError

    # names

    def load(self, name: str, node: ast.AST, *, call: bool = False, awaited: bool = False) -> None:
        """Read `name`: `call` says that it is called here, so that its body is entered by the caller."""
        if not self.scope.is_global(name):
            return
        maybe = False
        key = self.scope.class_key(name)
        if key is not None:
            for body in self.ledger.bodies.get(key, ()):
                self.escape(body)
            if key in self.settled:
                return
            maybe = key in self.touched
        name = self.scope.mangled(name)
        node = self.place or node
        if self.sink is None:
            if name not in self.settled:
                self.ledger.read(
                    name, node, self.settled, self.touched, guarded=self.guarded > 0, late=False, maybe=maybe
                )
            if not call:
                for body in self.ledger.bodies.get(name, ()):
                    self.escape(body)
            if self.guarded:  # got past it: the name exists on this path
                self.settled.add(name)
        elif name not in self.settled:
            maybe = maybe or name in self.touched or STAR in self.touched
            settled = frozenset(self.settled)
            self.sink.append(Use(name, node, settled, maybe, self.guarded > 0, call=call, awaited=awaited))

    def store(self, name: str) -> None:
        """Bind or delete `name` in the scope that stands here."""
        scope = self.scope
        while scope.kind in ("comprehension", "type") and scope.parent is not None:
            scope = scope.parent
        key = scope.key(name)
        if key is None:
            return
        self.touched.add(key)
        self.ledger.touched.add(key)
        if key == scope.mangled(name) or name not in scope.unsettled:
            self.settled.add(key)

    def escape(self, body: Body) -> None:
        """Let `body` run at any time from now on."""
        if self.sink is None:
            self.ledger.enter(body, self.settled, self.touched, guarded=self.guarded > 0, late=True)
            return
        here = frozenset(self.settled)
        for use in body.uses:
            if use.name not in here:
                settled, maybe = here | use.settled, use.maybe or use.name in self.touched
                guarded = use.guarded or self.guarded > 0
                self.sink.append(Use(use.name, use.node, settled, maybe, guarded, late=True))
        self.touched |= body.touches

    def run(self, body: Body) -> None:
        """Run `body` here, as a call does."""
        if self.sink is None:
            self.ledger.enter(body, self.settled, self.touched, guarded=self.guarded > 0, late=False)
        else:
            self.escape(body)

    # bodies

    def summarise(self, node: Function, statements: list[ast.stmt]) -> Body:
        """Return what calling `node` reads; its decorators, defaults and annotations are the caller's."""
        found = bindings(node.body if isinstance(node, FUNCTIONS) else [node.body], walrus=self.ledger.walrus)
        names = (found.names | {arg.arg for arg in arguments(node.args)}) - found.globals - found.nonlocals
        child = type(self)(self.ledger, self.scope.child("function", names, found.globals), [])
        child.annotations_run = False
        if isinstance(node, ast.Lambda):
            child.visit(node.body)
        else:
            child.statements(statements)
        self.blind += child.blind
        ends = child.returns if child.dead else [*child.returns, child.settled]
        asynchronous = isinstance(node, ast.AsyncFunctionDef)
        decorated = bool(getattr(node, "decorator_list", []))
        return Body(
            child.sink or [],
            {name for name in child.touched if "@" not in name},
            set.intersection(*ends) if ends and not child.yields and not decorated else set(),
            immediate=not child.yields and not asynchronous,
            awaitable=asynchronous and not child.yields,
        )

    def generator(self, node: ast.GeneratorExp) -> Body:
        """Return what consuming `node` reads; its first iterable was evaluated where it stands."""
        child = type(self)(self.ledger, self.scope, [])
        child.annotations_run = self.annotations_run
        child.comprehension(node, first=False)
        self.blind += child.blind
        return Body(child.sink or [], child.touched)

    def deferred(self, node: ast.expr) -> Body | None:
        """Return the body of a lambda or generator expression that only a name will hold, else None.

        What it evaluates where it stands (defaults, the first iterable) is walked.
        """
        if isinstance(node, ast.Lambda):
            self.defaults(node.args)
            return self.summarise(node, [])
        if isinstance(node, ast.GeneratorExp):
            self.visit(node.generators[0].iter)
            return self.generator(node)
        return None

    def defaults(self, args: ast.arguments) -> None:
        """Walk the default values of parameters."""
        for value in [*args.defaults, *args.kw_defaults]:
            if value is not None:
                self.visit(value)

    # expressions

    def visit(self, node: ast.AST) -> None:
        """Walk one node: by its own method, else its children in order."""
        method: Callable[[ast.AST], None] | None = getattr(self, "visit_" + node.__class__.__name__, None)
        if method is not None:
            method(node)
            return
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                for item in value:
                    if isinstance(item, ast.AST):
                        self.visit(item)
            elif isinstance(value, ast.AST) and value._fields:
                self.visit(value)

    def visit_all(self, nodes: Iterable[ast.AST]) -> None:
        """Walk nodes in order."""
        for node in nodes:
            self.visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Nothing is read; a string annotation is a string."""

    def visit_Name(self, node: ast.Name) -> None:
        """Read, bind or delete."""
        if isinstance(node.ctx, ast.Load):
            self.load(node.id, node)
            return
        if isinstance(node.ctx, ast.Del):
            self.load(node.id, node, call=True)
        self.store(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Only the object is a name."""
        self.visit(node.value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        """Bind after the value, in the scope around any comprehension."""
        self.visit(node.value)
        self.store(node.target.id)

    @contextmanager
    def perhaps(self) -> Iterator[None]:
        """Walk what may be skipped: what it binds is not settled afterwards."""
        settled = set(self.settled)
        try:
            yield
        finally:
            self.settled = settled

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Only the first operand is evaluated on every path."""
        self.visit(node.values[0])
        with self.perhaps():
            self.visit_all(node.values[1:])

    def visit_Compare(self, node: ast.Compare) -> None:
        """A chain stops at the first false comparison."""
        self.visit(node.left)
        self.visit(node.comparators[0])
        if len(node.comparators) > 1:
            with self.perhaps():
                self.visit_all(node.comparators[1:])

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Evaluate the condition, then one of the two."""
        self.visit(node.test)
        before, touched = set(self.settled), set(self.touched)
        self.visit(node.body)
        after, more = self.settled, self.touched
        self.settled, self.touched = before, touched
        self.visit(node.orelse)
        self.settled &= after
        self.touched |= more

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """A lambda that is not just given a name may run at once."""
        body = self.deferred(node)
        if body is not None:
            self.escape(body)

    def visit_Yield(self, node: ast.Yield) -> None:
        """Makes the function a generator."""
        self.yields = True
        if node.value is not None:
            self.visit(node.value)

    def visit_YieldFrom(self, node: ast.YieldFrom) -> None:
        """Makes the function a generator."""
        self.yields = True
        self.visit(node.value)

    def visit_Await(self, node: ast.Await) -> None:
        """Await a call of one of the cell's own coroutine functions: it runs here."""
        if isinstance(node.value, ast.Call):
            self.visit_Call(node.value, awaited=True)
        else:
            self.visit(node.value)

    def visit_ListComp(self, node: Comprehension) -> None:
        """Run at once, perhaps without an element."""
        self.visit(node.generators[0].iter)
        self.comprehension(node, first=False)

    visit_SetComp = visit_ListComp
    visit_DictComp = visit_ListComp

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        """The first iterable now, the rest when it is consumed, which may be at once."""
        body = self.deferred(node)
        if body is not None:
            self.escape(body)

    def comprehension(self, node: Comprehension, *, first: bool) -> None:
        """Walk a comprehension in its own scope; the first iterable only if `first`."""
        outer = self.scope
        names = bindings([generator.target for generator in node.generators]).names
        if self.ledger.walrus:
            self.touched |= {key for name in bindings([node]).names if (key := self._walrus_key(name))}
        self.scope = outer.child("comprehension", names)
        with self.perhaps():
            for index, generator in enumerate(node.generators):
                if index or first:
                    self.visit(generator.iter)
                self.target(generator.target)
                self.visit_all(generator.ifs)
            self.visit_all([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt])
        self.scope = outer

    def _walrus_key(self, name: str) -> str | None:
        scope = self.scope
        while scope.kind == "comprehension" and scope.parent is not None:
            scope = scope.parent
        return scope.key(name)

    def target(self, node: ast.expr) -> None:
        """Walk a comprehension's target: its names are its own, but ``a[i]`` reads."""
        if isinstance(node, ast.Name):
            return
        if isinstance(node, (ast.Tuple, ast.List)):
            for item in node.elts:
                self.target(item)
        elif isinstance(node, ast.Starred):
            self.target(node.value)
        else:
            self.visit(node)

    def visit_Call(self, node: ast.Call, *, awaited: bool = False) -> None:
        """Function, arguments, then the call: it may run a body of the cell."""
        function = node.func
        bodies: list[Body] = []
        if isinstance(function, ast.Name):
            self.load(function.id, function, call=True, awaited=awaited)
            if self.scope.is_global(function.id) and self.scope.class_key(function.id) is None:
                bodies = self.ledger.bodies.get(self.scope.mangled(function.id), [])
        elif isinstance(function, ast.Lambda):
            body = self.deferred(function)
            bodies = [body] if body is not None else []
        else:
            self.visit(function)
        self.call_arguments(node)
        self.hidden(node)
        self.imported_by_name(node)
        if self.sink is not None and isinstance(function, ast.Name):
            return  # the ledger follows the call when this body is entered
        for body in bodies:
            if body.runs(awaited=awaited):
                self.run(body)
            else:
                self.escape(body)
        settles = bodies[0].settles if len(bodies) == 1 and bodies[0].runs(awaited=awaited) else set()
        if settles and self.called_for_certain(function):
            self.settled |= settles

    def called_for_certain(self, function: ast.expr) -> bool:
        """Tell whether the call runs the cell's only body of that name and not something from outside."""
        if isinstance(function, ast.Name):
            return function.id in self.settled and self.ledger.means_one(function.id)
        return isinstance(function, ast.Lambda)

    def call_arguments(self, node: ast.Call) -> None:
        """Walk the arguments; a generator expression given to a builtin such as `sum` is consumed here."""
        name = node.func.id if isinstance(node.func, ast.Name) else None
        joined = isinstance(node.func, ast.Attribute) and node.func.attr == "join"
        only = node.args[0] if len(node.args) == 1 else None
        if isinstance(only, ast.GeneratorExp) and (joined or name in CONSUMERS) and name not in self.ledger.touched:
            self.visit(only.generators[0].iter)
            self.comprehension(only, first=False)
        else:
            self.visit_all(node.args)
        for keyword in node.keywords:
            self.visit(keyword.value)

    def imported_by_name(self, node: ast.Call) -> None:
        """Note the module of ``importlib.import_module("a.b")``."""
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            path = node.args[0].value
            if isinstance(path, str) and not path.startswith("."):
                self.ledger.imports.append((node.lineno, path))

    # strings

    def hidden(self, node: ast.Call) -> None:
        """Read the names inside the strings of magics, shell lines, `eval` and data-frame queries."""
        found = reveal(node)
        if found is None:
            return
        if found.blind is not None:
            self.blind.append((node.lineno, found.blind))
        before, self.place = self.place, self.place or node
        self.guarded += found.optional
        with self.perhaps():
            self.snippets(found)
        self.guarded -= found.optional
        self.place = before

    def snippets(self, found: Hidden) -> None:
        """Walk the code of `found` where it runs: in the namespace, or as a function's body (``%timeit``)."""
        for name in found.names:
            self.load(name, self.place or ast.Pass())
        for tree in found.trees:
            if not found.isolated:
                self.statements(tree)
                continue
            no_arguments = ast.arguments([], [], None, [], [], None, [])
            function = ast.FunctionDef("timed", no_arguments, tree, [], None, None)
            child = self.summarise(function, tree)
            for use in child.uses:
                self.load(use.name, self.place or use.node, call=use.call)
