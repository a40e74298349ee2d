"""Programs made by hypothesis, and a world of values on which (nearly) every operation works.

The world's truth values, lengths of iterations and calls of what it is given follow a seeded random generator, so one
program takes other paths for another seed and the same path again for the same one.
"""

from __future__ import annotations

import random
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

DATA, CODE = tuple("abcd"), tuple("fgh")
NAMES = DATA + CODE
OPERATIONS = [
    "add",
    "radd",
    "iadd",
    "sub",
    "rsub",
    "mul",
    "rmul",
    "truediv",
    "rtruediv",
    "mod",
    "rmod",
    "and",
    "rand",
    "or",
    "ror",
    "xor",
    "rxor",
    "lt",
    "gt",
    "le",
    "ge",
    "matmul",
    "neg",
]


def world(seed: int) -> dict[str, object]:
    """Return a namespace in which every name of `NAMES` is a `Thing`, and ``T`` makes another."""
    chance = random.Random(seed)
    truths = 0

    def run(value: object) -> None:
        if isinstance(value, types.FunctionType) and chance.random() < 0.7:
            value()
        elif isinstance(value, types.GeneratorType) and chance.random() < 0.7:
            for _ in value:
                pass

    class Base:
        def __init_subclass__(cls, **options: object) -> None:
            for value in list(vars(cls).values()):
                if chance.random() < 0.4:
                    run(value)

        def __getattr__(self, name: str) -> object:
            if name.startswith("__"):
                raise AttributeError(name)
            return Thing()

    class Thing:
        def __call__(self, *args: object, **kwargs: object) -> object:
            for value in (*args, *kwargs.values()):
                run(value)
            functions = [value for value in args if isinstance(value, (types.FunctionType, type))]
            return functions[0] if functions and chance.random() < 0.7 else Thing()

        def __bool__(self) -> bool:
            nonlocal truths
            truths += 1
            return truths < 80 and chance.random() < 0.6

        def __iter__(self) -> Iterator[object]:
            return iter([Thing() for _ in range(chance.randrange(3))])

        async def __anext__(self) -> object:
            if chance.random() < 0.5:
                raise StopAsyncIteration
            return Thing()

        def __aiter__(self) -> object:
            return self

        def __await__(self) -> Iterator[object]:
            return iter(())

        def __getattr__(self, name: str) -> object:
            if name.startswith("__"):
                raise AttributeError(name)
            return Thing()

        def __getitem__(self, key: object) -> object:
            return Thing()

        def __setitem__(self, key: object, value: object) -> None:
            run(value)

        def __delitem__(self, key: object) -> None:
            """Anything can be deleted."""

        def __contains__(self, key: object) -> bool:
            return bool(self)

        def __format__(self, spec: str) -> str:
            return spec

        def __enter__(self) -> object:
            return Thing()

        def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool:
            return kind is not None and issubclass(kind, Exception) and chance.random() < 0.4

        async def __aenter__(self) -> object:
            return Thing()

        async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> bool:
            return self.__exit__(kind)

        def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
            return (Base,) if bases[0] is self else ()

    def operation(self: Any, other: object = None) -> object:
        return Thing()

    for name in OPERATIONS:
        setattr(Thing, f"__{name}__", operation)
    return {**{name: Thing() for name in NAMES}, "T": Thing}


@dataclass(frozen=True)
class Where:
    """What may stand here: `break` in loops, `return` in functions, `await` outside of plain functions."""

    depth: int = 3
    loop: bool = False
    function: bool = False
    asynchronous: bool = True
    class_body: bool = False
    walrus: bool = True

    def inside(self, **changes: Any) -> Where:
        return replace(self, depth=self.depth - 1, **changes)


Draw = Callable[[st.SearchStrategy[Any]], Any]
names = st.sampled_from(DATA * 3 + CODE)
code = st.sampled_from(CODE)
callees = st.sampled_from(CODE * 3 + DATA)


@st.composite
def programs(draw: Draw) -> str:
    """A program of a few statements over `NAMES`."""
    text = block(draw, Where(), 3, 7)
    last = draw(st.lists(names, max_size=2))
    return "\n".join([text, *last]) + "\n"


def block(draw: Draw, where: Where, least: int = 1, most: int = 3) -> str:
    lines = []
    for _ in range(draw(st.integers(least, most))):
        lines.append(statement(draw, where))
        if "def " in lines[-1] and draw(st.booleans()):
            lines.append(pick(draw, ["{}()", "{}()", "{}", "{}({})", "{} = [{}]"]).format(draw(code), draw(code)))
    return "\n".join(lines)


def indent(text: str) -> str:
    return "\n".join("    " + line for line in text.split("\n"))


def pick(draw: Draw, choices: list[str]) -> str:
    return draw(st.sampled_from(choices))


SIMPLE = [
    "assign",
    "assign",
    "assign",
    "assign",
    "tuple",
    "star",
    "aug",
    "aug",
    "annotated",
    "show",
    "show",
    "show",
    "delete",
    "item",
    "import",
    "exit",
]
COMPOUND = [
    "if",
    "if",
    "for",
    "for",
    "while",
    "forever",
    "try",
    "try",
    "harmless",
    "with",
    "match",
    "def",
    "def",
    "def",
    "async",
    "class",
    "held",
]


def statement(draw: Draw, where: Where) -> str:
    kind = pick(draw, SIMPLE + (COMPOUND if where.depth > 0 else []))
    return globals()[f"make_{kind}"](draw, where)


def make_assign(draw: Draw, where: Where) -> str:
    targets = draw(st.lists(names, min_size=1, max_size=2))
    return " = ".join([*targets, expression(draw, where)])


def make_tuple(draw: Draw, where: Where) -> str:
    return f"{draw(names)}, {draw(names)} = {expression(draw, where)}, {expression(draw, where)}"


def make_star(draw: Draw, where: Where) -> str:
    return f"{draw(names)}, *{draw(names)} = [{expression(draw, where)}, {expression(draw, where)}]"


def make_aug(draw: Draw, where: Where) -> str:
    return f"{draw(names)} += {expression(draw, where)}"


def make_annotated(draw: Draw, where: Where) -> str:
    value = pick(draw, ["", " = T()", f" = {expression(draw, where)}"])
    return f"{draw(names)}: {draw(names)}{value}"


def make_show(draw: Draw, where: Where) -> str:
    return expression(draw, where)


def make_delete(draw: Draw, where: Where) -> str:
    return f"del {draw(names)}"


def make_item(draw: Draw, where: Where) -> str:
    target = pick(draw, ["{}[{}]", "{}.x"]).format(draw(names), draw(names))
    return pick(draw, [f"{target} = {expression(draw, where)}", f"{target} += T()", f"del {draw(names)}[0]"])


def make_import(draw: Draw, where: Where) -> str:
    return (
        pick(draw, ["import math as {}", "from math import pi as {}", "import {} as {}"])
        .replace("import {} as {}", "import os.path as {}")
        .format(draw(names))
    )


def make_exit(draw: Draw, where: Where) -> str:
    choices = ["pass", "assert T(), {}", "raise ValueError({})"]
    choices += ["break", "continue"] * 2 if where.loop else []
    choices += ["return {}", "return {}", "yield {}"] if where.function else []
    return pick(draw, choices).format(draw(names))


def make_if(draw: Draw, where: Where) -> str:
    text = f"if {expression(draw, where)}:\n{indent(block(draw, where.inside()))}"
    if draw(st.booleans()):
        text += f"\nelif {draw(names)}:\n{indent(block(draw, where.inside()))}"
    if draw(st.booleans()):
        text += f"\nelse:\n{indent(block(draw, where.inside()))}"
    return text


def loop_body(draw: Draw, where: Where) -> str:
    text = indent(block(draw, where.inside(loop=True)))
    if draw(st.integers(0, 3)) == 0:
        text += f"\nelse:\n{indent(block(draw, where.inside()))}"
    return text


def make_for(draw: Draw, where: Where) -> str:
    target = pick(draw, ["{}", "{}", "{}.x", "{}[{}]"]).format(draw(names), draw(names))
    iterable = pick(draw, [draw(names), "range(2)", "T()", "[T(), T()]", expression(draw, where)])
    return f"for {target} in {iterable}:\n{loop_body(draw, where)}"


def make_while(draw: Draw, where: Where) -> str:
    return f"while {expression(draw, where)}:\n{loop_body(draw, where)}"


def make_forever(draw: Draw, where: Where) -> str:
    leave = f"if {draw(names)}: break"
    return f"while True:\n{indent(block(draw, where.inside(loop=True)))}\n    {leave}\n    T()"


def make_try(draw: Draw, where: Where) -> str:
    text = f"try:\n{indent(block(draw, where.inside()))}"
    handlers = draw(
        st.lists(
            st.sampled_from(
                ["NameError", "Exception", "(KeyError, NameError)", "ValueError", "ZeroDivisionError as {}"]
            ),
            max_size=2,
        )
    )
    for handler in handlers:
        text += f"\nexcept {handler.format(draw(names))}:\n{indent(block(draw, where.inside()))}"
    if handlers and draw(st.booleans()):
        text += f"\nelse:\n{indent(block(draw, where.inside()))}"
    if not handlers or draw(st.integers(0, 2)) == 0:
        text += f"\nfinally:\n{indent(block(draw, where.inside(loop=False, function=False)))}"
    return text


def make_harmless(draw: Draw, where: Where) -> str:
    return f"try:\n{indent(block(draw, where.inside()))}\nexcept (TypeError, AttributeError):\n    pass"


def make_with(draw: Draw, where: Where) -> str:
    target = pick(draw, ["", f" as {draw(names)}"])
    more = pick(draw, ["", "", f", {draw(names)} as {draw(names)}"])
    return f"with {expression(draw, where)}{target}{more}:\n{indent(block(draw, where.inside()))}"


def make_match(draw: Draw, where: Where) -> str:
    text = f"match {pick(draw, [draw(names), '[T(), 1]', '{1: T(), 2: 3}', '2', expression(draw, where)])}:"
    for _ in range(draw(st.integers(1, 3))):
        pattern = pick(
            draw, ["1 | 2", "[{0}, *{1}]", "{{1: {0}, **{1}}}", "T(x={0})", "[{0}, 1] | (1, {0})", "{2}.x", "int({0})"]
        ).format(*draw(st.permutations(NAMES))[:3])
        guard = pick(draw, ["", "", f" if {draw(names)}"])
        text += f"\n    case {pattern}{guard}:\n{indent(indent(block(draw, where.inside())))}"
    if draw(st.booleans()):
        text += f"\n    case {pick(draw, ['_', draw(names)])}:\n{indent(indent(block(draw, where.inside())))}"
    return text


def parameters(draw: Draw, where: Where) -> str:
    found = draw(st.lists(names, unique=True, max_size=2))
    values = [f"{name}={pick(draw, ['T()', draw(names)])}" for name in found]
    rest = [name for name in NAMES if name not in found][:1]
    return ", ".join([*values, f"*{rest[0]}" if draw(st.booleans()) else "*_"])


def make_def(draw: Draw, where: Where, prefix: str = "") -> str:
    inside = where.inside(function=True, loop=False, class_body=False, asynchronous=bool(prefix))
    text = block(draw, inside)
    if not where.class_body and draw(st.integers(0, 2)) == 0:
        text = f"global {draw(names)}\n{text}"
    if draw(st.integers(0, 3)):
        text += f"\nreturn {expression(draw, inside)}"
    decorator = f"@{draw(callees)}\n" if draw(st.integers(0, 4)) == 0 else ""
    returns = pick(draw, ["", "", f" -> {draw(names)}"])
    first = "self=None, " if where.class_body else ""
    signature = f"{first}{parameters(draw, where)}"
    return f"{decorator}{prefix}def {draw(code)}({signature}){returns}:\n{indent(text)}"


def make_async(draw: Draw, where: Where) -> str:
    return make_def(draw, where, "async ")


def make_class(draw: Draw, where: Where) -> str:
    base = pick(draw, ["", "(object)", f"({draw(names)})"])
    inside = where.inside(function=False, loop=False, class_body=True, asynchronous=False, walrus=False)
    return f"class {draw(code)}{base}:\n{indent(block(draw, inside))}"


def make_held(draw: Draw, where: Where) -> str:
    name = draw(code)
    value = pick(draw, [f"lambda *_: {expression(draw, where.inside(asynchronous=False))}", generator(draw, where)])
    return f"{name} = {value}"


def generator(draw: Draw, where: Where) -> str:
    inside = where.inside(asynchronous=False, walrus=False)
    second = pick(draw, ["", "", f" for {draw(names)} in {draw(names)}", f" if {draw(names)}"])
    element, iterable = expression(draw, inside), pick(draw, [draw(names), "range(2)"])
    return f"({element} for {draw(names)} in {iterable}{second})"


LEAVES = ["name", "name", "name", "name", "name", "name", "value", "number"]
NODES = [
    "call",
    "call",
    "call",
    "attribute",
    "item",
    "binary",
    "binary",
    "both",
    "chain",
    "choice",
    "listed",
    "mapped",
    "eager",
    "lazy",
    "anonymous",
    "text",
]


def expression(draw: Draw, where: Where) -> str:
    kind = pick(draw, LEAVES + (NODES if where.depth > 0 else []) + (["walrus"] if where.walrus else []))
    inside = where.inside()

    def sub() -> str:
        return expression(draw, inside)

    if kind == "name":
        return draw(names)
    if kind == "value":
        return "T()"
    if kind == "number":
        return pick(draw, ["1", "0"])
    if kind == "call":
        called = f"{draw(callees)}({pick(draw, ['', sub(), f'{sub()}, {sub()}', f'*{draw(names)}', f'k={sub()}'])})"
        return f"(await {called})" if where.asynchronous and draw(st.integers(0, 3)) == 0 else called
    if kind == "attribute":
        return f"{draw(names)}.x"
    if kind == "item":
        return f"{draw(names)}[{sub()}]"
    if kind == "binary":
        return f"({sub()} {pick(draw, ['+', '*', '&', '@'])} {sub()})"
    if kind == "both":
        return f"({sub()} {pick(draw, ['and', 'or'])} {sub()})"
    if kind == "chain":
        return f"({sub()} < {sub()} < {sub()})"
    if kind == "choice":
        return f"({sub()} if {sub()} else {sub()})"
    if kind in ("listed", "mapped"):
        inner = inside.inside(walrus=not where.class_body and where.walrus, asynchronous=False)
        element, iterable = expression(draw, inner), pick(draw, [draw(names), "range(2)", "T()"])
        clause = f"for {draw(names)} in {iterable}" + pick(draw, ["", f" if {draw(names)}"])
        clause += pick(draw, ["", "", f" for {draw(names)} in {draw(names)}"])
        return f"[{element} {clause}]" if kind == "listed" else f"{{1: {element} {clause}}}"
    if kind == "eager":
        return f"{pick(draw, ['list', 'tuple'])}{generator(draw, where)}"
    if kind == "lazy":
        return pick(draw, [generator(draw, where), f"{draw(names)}{generator(draw, where)}"])
    if kind == "anonymous":
        function = f"(lambda {parameters(draw, where)}: {expression(draw, inside.inside(asynchronous=False))})"
        return pick(draw, [function, f"{function}()", f"{draw(names)}({function})"])
    if kind == "walrus":
        return f"({draw(names)} := {draw(names)})"
    return f"f'{{{draw(names)}}} {{{draw(names)}:{{{draw(names)}}}}}'"
