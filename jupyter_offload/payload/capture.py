"""The collection of everything that a notebook function needs, as pieces of code in an order in which they run."""

from __future__ import annotations

import ast
import builtins
import functools
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from jupyter_offload.payload.names import free_names
from jupyter_offload.payload.source import (
    Found,
    Replacement,
    dedented,
    definition_text,
    find_class,
    find_function,
)

PREFIX = "_offload_"
"""Begins every name that the project adds to the function's namespace."""

MAIN = ("__main__", "__mp_main__")
PROVIDED = frozenset({"get_ipython", "display", "exit", "quit", "In", "Out"})


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of code and the place that it was written at (lines from 1)."""

    source: str
    filename: str
    first_line: int


@dataclass(slots=True, eq=False)
class Unit:
    """One object that travels as code: ``strong`` must be defined before it, ``weak`` before it is called."""

    name: str
    value: object
    parts: list[Part] = field(default_factory=list)
    strong: list[Unit] = field(default_factory=list)
    weak: list[Unit] = field(default_factory=list)
    late: list[Part] = field(default_factory=list)
    own: Part = field(default_factory=lambda: glue(""))
    usable: bool = True


def glue(source: str) -> Part:
    """Return code of our own, which no line of the user's corresponds to."""
    return Part(source + "\n", "<jupyter_offload>", 1)


def importable(value: object) -> tuple[str, str] | None:
    """Return ``(module, qualified name)`` under which `value` can be imported, None for the notebook's own.

    Only what is already loaded is looked at: nothing is imported.
    """
    kinds = (type, types.FunctionType, types.BuiltinFunctionType)
    if not isinstance(value, kinds) and not hasattr(value, "__wrapped__"):
        return None
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or module in MAIN:
        return None
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return (module, qualname) if found is value else None


class Capture:
    """Collects units, values and imports; one per function sent. ``user_ns`` is the notebook's namespace."""

    def __init__(self, user_ns: Mapping[str, object]) -> None:
        self.user_ns = user_ns
        self.values: dict[str, object] = {}
        self.imports: dict[str, None] = {}
        self.modules: set[str] = set()
        self.units: dict[int, Unit] = {}
        self.count = 0

    def fresh(self, hint: str) -> str:
        """Return a name that nobody else uses."""
        self.count += 1
        return f"{PREFIX}{self.count}_{hint if hint.isidentifier() else 'value'}"

    def ordered(self, last: Unit) -> Iterator[Part]:
        """Yield the parts of all units that `last` needs, each after what it needs at its definition."""
        placed: set[int] = set()
        late: list[Part] = []
        yield from self._place(last, placed, late)
        yield from late

    def _place(self, unit: Unit, placed: set[int], late: list[Part]) -> Iterator[Part]:
        if id(unit) in placed:
            return
        placed.add(id(unit))
        for needed in unit.strong:
            yield from self._place(needed, placed, late)
        yield from unit.parts
        late += unit.late
        for needed in unit.weak:
            yield from self._place(needed, placed, late)

    def unit(self, value: object, name: str) -> Unit | None:
        """Return `value` as code that binds `name`, or None when it has to travel as a value."""
        known = self.units.get(id(value))
        if known is not None:
            if known.name == name or not known.usable:
                return known if known.usable else None
            return Unit(name, value, [glue(f"{name} = {known.name}")], [known])
        unit = self.units[id(value)] = Unit(name, value)
        unit.usable = self._fill(unit)
        return unit if unit.usable else None

    def _fill(self, unit: Unit) -> bool:
        value = unit.value
        if isinstance(value, functools.partial):
            return self._partial(unit, value)
        if isinstance(value, types.MethodType):
            return self._method(unit, value)
        if isinstance(value, type):
            return value.__module__ in MAIN and self._class(unit, value)
        wrapped = getattr(value, "__wrapped__", None) or getattr(value, "py_func", None)
        if isinstance(wrapped, types.FunctionType) and self._wrapped(unit, wrapped):
            return True
        if isinstance(value, types.FunctionType):
            return self._is_local(value) and self._function(unit, value, decorators=self._named(value) is value)
        return type(value).__module__ in MAIN and self._instance(unit, value)

    def _named(self, function: types.FunctionType) -> object:
        return self.user_ns.get(function.__code__.co_name)

    def _is_local(self, function: types.FunctionType) -> bool:
        names = function.__globals__
        return names is self.user_ns or names.get("__name__") in MAIN or "__name__" not in names

    def bind(self, unit: Unit, name: str, value: object, *, strong: bool) -> None:
        """Make `name` mean `value` for `unit`: by an import, as code, or as a value that travels."""
        if isinstance(value, types.ModuleType):
            self._import(f"import {value.__name__}" + ("" if value.__name__ == name else f" as {name}"), value.__name__)
            return
        found = importable(value)
        if found is not None:
            module, qualname = found
            if "." not in qualname and module != "builtins":
                self._import(f"from {module} import {qualname}" + ("" if qualname == name else f" as {name}"), module)
            else:
                self._import(f"import {module}", module)
                self.imports[f"{name} = {module}.{qualname}"] = None
            return
        needed = self.unit(value, name) if self._is_code(value) else None
        if needed is None:
            self.values[name] = value
        else:
            (unit.strong if strong else unit.weak).append(needed)

    def _is_code(self, value: object) -> bool:
        kinds = (types.FunctionType, types.MethodType, functools.partial)
        return (
            isinstance(value, kinds)
            or hasattr(value, "__wrapped__")
            or (value.__module__ in MAIN if isinstance(value, type) else type(value).__module__ in MAIN)
        )

    def _import(self, line: str, module: str) -> None:
        self.imports[line] = None
        self.modules.add(module)

    def _names(self, unit: Unit, text: str, node: ast.AST, namespace: Mapping[str, object], known: set[str]) -> None:
        """Bind the global names that `text` reads."""
        early = definition_names(node)
        for load in free_names(text).loads:
            name = load.name
            if name in known or name not in namespace or (name == unit.name and namespace[name] is unit.value):
                continue
            value = namespace[name]
            if load.builtin and (name in PROVIDED or name.startswith("__") or value is getattr(builtins, name, None)):
                continue
            if isinstance(value, types.ModuleType):
                self._submodules(node, name, value)
            self.bind(unit, name, value, strong=name in early)

    def _submodules(self, node: ast.AST, name: str, module: types.ModuleType) -> None:
        """Import ``scipy.optimize`` too, when the code says so and only ``scipy`` is a name of the notebook."""
        for item in ast.walk(node):
            chain: list[str] = []
            while isinstance(item, ast.Attribute):
                chain.insert(0, item.attr)
                item = item.value
            if not chain or not isinstance(item, ast.Name) or item.id != name:
                continue
            path = module.__name__
            for part in chain:
                path = f"{path}.{part}"
                if path not in sys.modules:
                    break
                if path not in self.modules:
                    self._import(
                        f"import {path}" if name == path.partition(".")[0] else f"import {path} as {PREFIX}m", path
                    )

    def _function(self, unit: Unit, function: types.FunctionType, *, decorators: bool) -> bool:
        found = find_function(function)
        if found is None or isinstance(found.node, ast.ClassDef):
            return False
        replaced = self._defaults(unit, function, found)
        cells = self._closure(unit, function, found)
        if replaced is None or cells is None:
            return False
        text = definition_text(found, replaced, decorators=decorators)
        first_line = found.first_line if decorators else found.node.lineno
        node = ast.parse("if True:\n" + text if text[0] in " \t" else text)
        if not decorators:
            for item in ast.walk(node):
                if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    item.decorator_list = []
                    break
        known = set(function.__code__.co_freevars) | {item.text for item in replaced}
        readable = "if True:\n" + text if text[0] in " \t" else text
        self._names(unit, readable, node, function.__globals__, known)
        made = getattr(found.node, "name", unit.name)
        reads_itself = any(isinstance(item, ast.Name) and item.id == made for item in ast.walk(found.node))
        if reads_itself and made != unit.name and made in function.__globals__ and made not in known:
            # the text binds that name, but the unit has another: what it calls by it is what the notebook has
            self.bind(unit, made, function.__globals__[made], strong=False)
        unit.own = Part(dedented(text) or text, found.filename, first_line)
        unit.parts = self._definition(unit, found, text, first_line, cells)
        return True

    def _definition(self, unit: Unit, found: Found, text: str, first_line: int, cells: dict[str, str]) -> list[Part]:
        """Return the parts that bind the unit's name; a closure is made again by a function around it."""
        name = unit.name
        made = getattr(found.node, "name", name)
        maker = self.fresh("make")
        parameters = ", ".join(cells)
        given = ", ".join(f"{key}={value}" for key, value in cells.items())
        if isinstance(found.node, ast.Lambda):
            head = f"def {maker}({parameters}): return " if cells else f"{name} = "
            parts = [Part(f"{head}{text}\n", found.filename, first_line)]
            return [*parts, glue(f"{name} = {maker}({given})\ndel {maker}")] if cells else parts
        if found.node.name in self._closure_names(unit.value) or cells:
            indent = text[: len(text) - len(text.lstrip())].rpartition("\n")[2]
            body = f"def {maker}({parameters}):\n{text}{indent}return {made}\n"
            return [
                Part(body, found.filename, first_line - 1),
                glue(f"{name} = {maker}({given})\ndel {maker}"),
            ]
        flat = dedented(text)
        part = (
            Part(flat, found.filename, first_line)
            if flat
            else Part("if True:\n" + text, found.filename, first_line - 1)
        )
        if name == made:
            return [part]
        kept = self.fresh("kept")
        before = glue(f"{kept} = globals().get({made!r}, {kept!r})")
        after = glue(f"{name} = {made}\nif {kept} == {kept!r}:\n    del {made}\nelse:\n    {made} = {kept}\ndel {kept}")
        return [before, part, after]

    @staticmethod
    def _closure_names(value: object) -> tuple[str, ...]:
        return value.__code__.co_freevars if isinstance(value, types.FunctionType) else ()

    def _defaults(self, unit: Unit, function: types.FunctionType, found: Found) -> list[Replacement] | None:
        """Replace default expressions by names of their values; None when they no longer belong together."""
        args = found.node.args if not isinstance(found.node, ast.ClassDef) else ast.parse("lambda: 0", mode="eval")
        if not isinstance(args, ast.arguments):
            return None
        values = function.__defaults__ or ()
        keywords = function.__kwdefaults__ or {}
        if len(values) != len(args.defaults):
            return None
        names = [arg.arg for arg in [*args.posonlyargs, *args.args]][len(args.posonlyargs + args.args) - len(values) :]
        pairs = list(zip(names, args.defaults, values, strict=True))
        for arg, node in zip(args.kwonlyargs, args.kw_defaults, strict=True):
            if (node is None) != (arg.arg not in keywords):
                return None
            if node is not None:
                pairs.append((arg.arg, node, keywords[arg.arg]))
        replaced = []
        for name, node, value in pairs:
            if not (isinstance(node, ast.Constant) and node.value is value):
                label = self.fresh(name)
                self.bind(unit, label, value, strong=True)
                replaced.append(Replacement(node, label))
        return replaced

    def _closure(self, unit: Unit, function: types.FunctionType, found: Found) -> dict[str, str] | None:
        """Bind the closure's values; None when a cell is empty or belongs to a class (``super``)."""
        given: dict[str, str] = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:
                return None
            if name == "__class__":
                return None
            if value is unit.value and name == getattr(found.node, "name", None):
                continue  # it calls itself: the function around it binds that name
            if id(value) in self.units and not self.units[id(value)].parts:
                return None  # closures that hold each other: no order of definition
            given[name] = self.fresh(name)
            self.bind(unit, given[name], value, strong=True)
        return given

    def _wrapped(self, unit: Unit, inner: types.FunctionType) -> bool:
        """Decorate again, when the notebook's name of the innermost function is this object."""
        while isinstance(deeper := getattr(inner, "__wrapped__", None), types.FunctionType):
            inner = deeper
        if self._named(inner) is not unit.value or not self._is_local(inner) or hasattr(unit.value, "registry"):
            return False
        return self._function(unit, inner, decorators=True)

    def _class(self, unit: Unit, cls: type) -> bool:
        found = find_class(cls)
        if found is None:
            return False
        text = definition_text(found, [])
        readable = "if True:\n" + text if text[0] in " \t" else text
        flat = dedented(text)
        if cls.__name__ != unit.name or flat is None or "<locals>" in cls.__qualname__:
            return False
        self._names(unit, readable, found.node, self.user_ns, set())
        unit.own = Part(flat, found.filename, found.first_line)
        unit.parts = [unit.own]
        return True

    def _partial(self, unit: Unit, value: functools.partial[object]) -> bool:
        self._import("import functools", "functools")
        names = [self.fresh("partial")]
        self.bind(unit, names[0], value.func, strong=True)
        for argument in value.args:
            names.append(self.fresh("argument"))
            self.bind(unit, names[-1], argument, strong=True)
        for key, argument in value.keywords.items():
            label = self.fresh(key)
            self.bind(unit, label, argument, strong=True)
            names.append(f"{key}={label}")
        unit.own = glue(f"{unit.name} = functools.partial({', '.join(names)})")
        unit.parts = [unit.own]
        return True

    def _method(self, unit: Unit, value: types.MethodType) -> bool:
        owner = value.__self__
        label = owner.__name__ if isinstance(owner, type) else self.fresh("self")
        needed = self.unit(owner, label)
        if needed is None:
            return False
        unit.strong.append(needed)
        unit.own = glue(f"{unit.name} = {label}.{value.__func__.__name__}")
        unit.parts = [unit.own]
        return True

    def _instance(self, unit: Unit, value: object) -> bool:
        """Make an instance of a plain notebook class again from its attributes."""
        cls = type(value)
        special = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
        own = [base for base in cls.__mro__ if base is not object and base.__module__ != "abc"]
        if (
            any(base.__module__ not in MAIN or "__slots__" in vars(base) for base in own)
            or type(cls).__module__ in MAIN
        ):
            return False
        if any(name in vars(base) for base in own for name in special) or not hasattr(value, "__dict__"):
            return False
        needed = self.unit(cls, cls.__name__)
        if needed is None:
            return False
        unit.strong.append(needed)
        unit.own = glue(f"{unit.name} = {cls.__name__}.__new__({cls.__name__})")
        unit.parts = [unit.own]
        labels = {key: self.fresh(key) for key in vars(value)}
        for key, label in labels.items():
            self.bind(unit, label, vars(value)[key], strong=False)
        state = ", ".join(f"{key!r}: {label}" for key, label in labels.items())
        unit.late = [glue(f"{unit.name}.__dict__.update({{{state}}})")]
        return True


def definition_names(node: ast.AST) -> set[str]:
    """Return the names that running a definition reads at once: all but those in the bodies of functions."""
    found: set[str] = set()
    stack = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, ast.Name):
            found.add(item.id)
        elif isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
            stack += [*item.decorator_list, item.args, *([item.returns] if item.returns else [])]
        elif isinstance(item, ast.Lambda):
            stack.append(item.args)
        else:
            stack += ast.iter_child_nodes(item)
    return found
