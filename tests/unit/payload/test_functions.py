"""Notebook functions are defined again from what travels, and do the same there."""

# ruff: noqa: ISC004 - the sources of the table are texts of several lines

from __future__ import annotations
import __future__

import ast
import asyncio
import atexit
import functools
import json
import linecache
import math
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from parts.pythons import pythons
from traitlets.config import Config

from jupyter_offload.payload.functions import FunctionReference, FunctionSource, function_source

CELLS = count(1)
Namespace = dict[str, Any]


def cell(source: str, namespace: Namespace | None = None) -> Namespace:
    """Run a cell as IPython does: registered in `linecache`, compiled statement by statement, in ``__main__``."""
    namespace = {"__name__": "__main__"} if namespace is None else namespace
    filename = f"<ipython-input-{next(CELLS)}-test>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    for statement in ast.parse(source).body:
        exec(compile(ast.Module([statement], []), filename, "exec", dont_inherit=True), namespace)
    return namespace


def sent(function: object, namespace: Namespace) -> FunctionSource:
    found = function_source(function, namespace)  # type: ignore[arg-type]
    assert isinstance(found, FunctionSource)
    return found


def again(found: FunctionSource) -> Callable[..., Any]:
    """Define the function in an empty namespace, from the one text and from the parts alike."""
    text, names = found.render()
    assert set(names) == set(found.values)
    one: Namespace = dict(found.values)
    exec(text, one)
    parts: Namespace = dict(found.values)
    exec("\n".join(found.imports), parts)
    for part in found.parts:
        exec(compile("\n" * (part.first_line - 1) + part.source, part.filename, "exec", dont_inherit=True), parts)
    assert set(one) == set(parts)
    return parts[found.name]


CALLS = {
    "plain": ("def f(x):\n    return x + 1\n", "f(1)"),
    "a global value": ("K = 3\ndef f(x):\n    return x * K\n", "f(2)"),
    "a module": ("import math as m\ndef f(x):\n    return m.floor(x)\n", "f(2.5)"),
    "a submodule of a module": ("import os, os.path\ndef f(x):\n    return os.path.join(x, 'b')\n", "f('a')"),
    "an imported function": ("from math import floor as down\ndef f(x):\n    return down(x)\n", "f(2.5)"),
    "an imported class": ("from fractions import Fraction\ndef f(x):\n    return Fraction(x) + 1\n", "f(2)"),
    "a static method of an imported class": (
        "import datetime\nmake = datetime.date.fromisoformat\ndef f(x):\n    return make(x).year\n",
        "f('2020-01-01')",
    ),
    "a helper of a helper": (
        "K = 2\ndef g(x):\n    return x * K\ndef h(x):\n    return g(x) + 1\ndef f(x):\n    return h(x)\n",
        "f(3)",
    ),
    "recursion": ("def f(n):\n    return 1 if n < 2 else n * f(n - 1)\n", "f(5)"),
    "mutual recursion": (
        "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != 0 and even(n - 1)\nf = even\n",
        "f(4)",
    ),
    "a default that cannot be evaluated there": (
        "import tempfile\nvalues = [1, 2]\ndef f(x=values, *, y=len(values), z=None, w=-1):\n    return x, y, z, w\n"
        "del values\n",
        "f()",
    ),
    "defaults over several lines": (
        "def f(\n    a={\n        'é': 1,\n    },\n    b=(2 +\n       3),\n):\n    return a, b\n",
        "f()",
    ),
    "a default that is a function": ("def g():\n    return 7\ndef f(x=g):\n    return x()\n", "f()"),
    "a closure": ("def outer(k):\n    def inner(x):\n        return x + k\n    return inner\nf = outer(3)\n", "f(1)"),
    "a closure over a function": (
        "def outer(g):\n    def inner(x):\n        return g(x)\n    return inner\nf = outer(lambda x: x * 2)\n",
        "f(4)",
    ),
    "a closure that calls itself": (
        "def outer(k):\n    def inner(n):\n        return k if n == 0 else inner(n - 1) + 1\n    return inner\n"
        "f = outer(10)\n",
        "f(3)",
    ),
    "a closure with nonlocal": (
        "def outer():\n    n = 5\n    def inner():\n        nonlocal n\n        n += 1\n        return n\n"
        "    return inner\nf = outer()\n",
        "[f(), f()]",
    ),
    "a closure without variables": (
        "def outer():\n    def inner(x):\n        return x\n    return inner\nf = outer()\n",
        "f(1)",
    ),
    "a closure on one line": ("def outer(k): return lambda x: x + k\nf = outer(3)\n", "f(1)"),
    "a text that looks indented": (
        "def outer():\n    def inner():\n        return '''\n  a\n b'''\n    return inner\nf = outer()\n",
        "f()",
    ),
    "a text in a closure": (
        "def outer(k):\n    def inner():\n        return '''\n  a\n b''' + k\n    return inner\nf = outer('c')\n",
        "f()",
    ),
    "a lambda": ("K = 3\nf = lambda x, y=K: x * y + K\n", "f(2)"),
    "a lambda over several lines": ("f = (lambda x,\n     y=[\n       1]: x +\n     y[0])\nz = 1\n", "f(2)"),
    "one of two lambdas on a line": ("fs = [lambda x: x + 1, lambda x: x + 2]\nf = fs[1]\n", "f(1)"),
    "a lambda in a call": ("f = dict(a=1, b=lambda x: (x, 'é'), c=3)['b']\n", "f(1)"),
    "a partial": (
        "import functools\nK = 2\ndef g(a, b, c):\n    return a, b, c, K\nf = functools.partial(g, 1, c=3)\n",
        "f(2)",
    ),
    "a partial of an imported function": ("import functools\nf = functools.partial(int, base=2)\n", "f('101')"),
    "a wrapping decorator": (
        "import functools\nK = 10\ndef deco(g):\n    @functools.wraps(g)\n    def inner(*a):\n        return g(*a) + K\n"
        "    return inner\n@deco\ndef f(x):\n    return x\n",
        "f(1)",
    ),
    "a decorator that does not say so": (
        "K = 10\ndef deco(g):\n    def inner(*a):\n        return g(*a) + K\n    return inner\n@deco\ndef f(x):\n    return x\n",
        "f(1)",
    ),
    "two decorators with arguments": (
        "import functools\ndef times(n):\n    def deco(g):\n        @functools.wraps(g)\n        def inner(*a):\n"
        "            return [g(*a)] * n\n        return inner\n    return deco\nN = 3\n@times(N)\n@times(2)\n"
        "def f(x):\n    return x\n",
        "f(1)",
    ),
    "a recursive cached function": (
        "import functools\n@functools.lru_cache(maxsize=None)\ndef f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\n",
        "f(30)",
    ),
    "a registering decorator": (
        "REG = []\ndef deco(g):\n    REG.append(1)\n    return g\n@deco\ndef f(x):\n    return x\n",
        "f(1)",
    ),
    "annotations": (
        "from typing import Optional\nimport fractions as fr\nclass T: pass\n"
        "def f(x: Optional[int], y: fr.Fraction = None, *z: T) -> 'nowhere':\n    return x\n",
        "f(1)",
    ),
    "a generator function": ("K = 2\ndef f(n):\n    for i in range(n):\n        yield i * K\n", "list(f(3))"),
    "a coroutine function": ("K = 2\nasync def f(n):\n    return n * K\n", "run(f(3))"),
    "an asynchronous generator function": (
        "async def g():\n    yield 1\nasync def f():\n    return [x async for x in g()]\n",
        "run(f())",
    ),
    "a class of the notebook": (
        "K = 3\ndef g():\n    return K\nclass A:\n    k = K\n    def m(self):\n        return g() + self.k\n"
        "def f():\n    return A().m()\n",
        "f()",
    ),
    "a class that inherits": (
        "class A:\n    def m(self):\n        return 1\nclass B(A):\n    def m(self):\n        return super().m() + 1\n"
        "def f():\n    return B().m()\n",
        "f()",
    ),
    "a class without methods": ("class P:\n    x = 1\n    y: int = 2\ndef f():\n    return P.x, P().y\n", "f()"),
    "a dataclass": (
        "from dataclasses import dataclass, field\n@dataclass(order=True)\nclass P:\n    x: int\n"
        "    y: list = field(default_factory=list)\ndef f(x):\n    return repr(P(x)).split('.')[-1], P(1) < P(2)\n",
        "f(3)",
    ),
    "an enum": (
        "import enum\nclass C(enum.Enum):\n    RED = 1\n    def nice(self):\n        return self.name\ndef f():\n    return C.RED.nice()\n",
        "f()",
    ),
    "a class itself": ("class F:\n    def __init__(self, x):\n        self.x = x\nf = lambda x: F(x).x\n", "f(3)"),
    "a bound method": (
        "class A:\n    def __init__(self):\n        self.v = 5\n        self.g = lambda: 2\n    def m(self, x):\n"
        "        return self.v + x + self.g()\nf = A().m\n",
        "f(1)",
    ),
    "a bound class method": (
        "class A:\n    k = 4\n    @classmethod\n    def m(cls, x):\n        return cls.k + x\nf = A.m\n",
        "f(1)",
    ),
    "an instance that a function uses": (
        "class A:\n    def __init__(self, v):\n        self.v = v\n        self.me = self\na = A(3)\ndef f():\n    return a.me.me.v\n",
        "f()",
    ),
    "a callable instance": (
        "class A:\n    v = 2\n    def __call__(self, x):\n        return x + self.v\na = A()\na.v = 9\ndef f(x):\n    return a(x)\n",
        "f(1)",
    ),
    "an old function under another name": (
        "def f(x):\n    return 'old', x\ng = f\ndef f(x):\n    return 'new', g(x)\n",
        "f(1)",
    ),
    "one function under two names": ("def g():\n    return 1\nh = g\ndef f():\n    return g(), h(), g is h\n", "f()"),
    "a builtin's name of the user": ("sum = max\ndef f(x):\n    return sum(x), len(x)\n", "f([1, 5])"),
    "a function indented in the cell": ("if True:\n    K = 2\n    def f(x):\n        return x + K\n", "f(1)"),
    "a function after a semicolon": ("K = 1; f = lambda x: x + K; z = 3\n", "f(1)"),
    "a global that a function binds": ("n = 1\ndef f():\n    global n\n    n += 1\n    return n\n", "[f(), f()]"),
    "comprehensions": ("K = 2\ndef f(xs):\n    return [x * K for x in xs if any(y < K for y in xs)]\n", "f([1, 2])"),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_does_the_same_there(name: str) -> None:
    source, call = CALLS[name]
    here = cell(source)
    found = sent(here["f"], here)
    there = again(found)
    tools = {"run": asyncio.run}
    assert eval(call, {**tools, "f": there}) == eval(call, {**tools, "f": here["f"]})


@pytest.fixture
def shell() -> Iterator[Any]:
    from IPython.core.interactiveshell import InteractiveShell

    made = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    yield made
    atexit.unregister(made.atexit_operations)
    made.atexit_operations()


def test_functions_of_a_real_ipython(shell: Any) -> None:
    shell.run_cell("import math\nK = 2\nmacro = %who_ls\ndef g(x):\n    return math.floor(x) * K", silent=True)
    shell.run_cell("!true\ndef f(x):\n    return g(x) + 1\n", silent=True)
    assert shell.user_ns["f"](2.5) == 5
    found = sent(shell.user_ns["f"], shell.user_ns)
    assert dict(found.values) == {"K": 2}
    assert again(found)(2.5) == 5


def test_what_it_holds() -> None:
    source = "import math\nK = 3\n\n\ndef g():\n    return K\n\n\ndef f(x):\n    # comment\n    return g() + math.pi\n"
    here = cell(source)
    found = sent(here["f"], here)
    assert found.source == "def f(x):\n    # comment\n    return g() + math.pi\n"
    assert (found.name, found.first_line) == ("f", 9)
    assert found.filename == here["f"].__code__.co_filename
    assert (dict(found.values), found.imports, found.modules) == ({"K": 3}, ("import math",), ("math",))
    text, names = found.render()
    assert names == ("K",)
    assert text.startswith("import math\n")


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("\n\ndef f():\n    x = 1\n    return 1 / 0\n", 5),
        ("def f(a={\n  1: 2},\n):\n    return 1 / 0\n", 4),
        ("K = 1\n@(lambda g: g)\n@(lambda g: g)\ndef f():\n    return K / 0\n", 5),
        ("def outer(k):\n    def inner():\n        return k / 0\n    return inner\nf = outer(1)\n", 3),
        (
            "def outer():\n    def inner():\n        '''\n a'''\n        return 1 / 0\n    return inner\nf = outer()\n",
            5,
        ),
        ("f = (lambda:\n  1 / 0)\n", 2),
        ("class A:\n    def m(self):\n        return 1 / 0\ndef f():\n    return A().m()\n", 3),
    ],
)
def test_a_traceback_points_at_the_users_own_line(source: str, line: int) -> None:
    here = cell(source)
    there = again(sent(here["f"], here))
    with pytest.raises(ZeroDivisionError) as caught:
        there()
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert last.lineno == line
    assert last.filename.startswith("<ipython-input-")


def test_what_is_installed_is_only_named() -> None:
    assert function_source(json.dumps, {}) == FunctionReference("json", "dumps")
    assert str(function_source(math.floor, {})) == "math:floor"
    assert function_source(json.JSONDecoder.decode, {}) == FunctionReference("json.decoder", "JSONDecoder.decode")


def test_no_source_no_guess() -> None:
    here = cell("class A:\n    def __init__(self):\n        self.x = 1\n")
    exec("def f():\n    return 1\n", here)
    assert function_source(here["f"], here) is None
    assert function_source("abc".upper, here) is None
    assert function_source([].append, here) is None


def test_a_file_that_changed_is_not_trusted() -> None:
    here = cell("def f():\n    return 1\n")
    filename = here["f"].__code__.co_filename
    linecache.cache[filename] = (1, None, ["def f():\n", "    return 2\n"], filename)
    assert function_source(here["f"], here) is None


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="since Python 3.11 columns tell them apart")
def test_two_alike_lambdas_on_a_line_are_refused() -> None:
    here = cell("def outer(k):\n    return [lambda x: x + k, lambda x: k + x]\nfs = outer(1)\n")
    assert function_source(here["fs"][0], here) is None


def test_a_future_import_holds_for_the_session() -> None:
    here = cell("def f(x: int, y=2):\n    return x + y\n")
    filename = here["f"].__code__.co_filename
    exec(
        compile("".join(linecache.getlines(filename)), filename, "exec", flags=__future__.annotations.compiler_flag),
        here,
    )
    assert here["f"].__annotations__ == {"x": "int"}
    assert again(sent(here["f"], here))(1) == 3


def test_a_helper_without_source_travels_as_a_value() -> None:
    here = cell("def f():\n    return g()\n")
    exec("def g():\n    return 3\n", here)
    found = sent(here["f"], here)
    assert dict(found.values) == {"g": here["g"]}


def test_closures_that_hold_each_other_are_refused() -> None:
    here = cell(
        "def outer():\n    def a(n):\n        return n and b(n - 1)\n    def b(n):\n        return n and a(n - 1)\n    return a\nf = outer()\n"
    )
    assert here["f"](3) == 0
    assert function_source(here["f"], here) is None or again(sent(here["f"], here))(3) == 0


def test_a_class_that_was_changed_or_made_elsewhere_is_not_guessed() -> None:
    here = cell("class Q:\n    def m(self):\n        return 1\ndef f():\n    return Q().m()\n")
    here["Q"].extra = lambda self: 2
    assert dict(sent(here["f"], here).values) == {"Q": here["Q"]}
    cell("class R:\n    def m(self):\n        return 1\n")
    exec("class R:\n    def m(self):\n        return 2\n", here)
    cell("def f():\n    return R().m()\n", here)
    assert dict(sent(here["f"], here).values) == {"R": here["R"]}


def test_a_single_dispatch_function_is_refused() -> None:
    here = cell(
        "import functools\n@functools.singledispatch\ndef f(x):\n    return 1\n@f.register\ndef _(x: int):\n    return 2\n"
    )
    assert function_source(here["f"], here) is None


def test_a_partial_is_not_confused_with_the_function_of_its_name() -> None:
    here = cell(
        "import functools\ndef f(x, k=1):\n    return x if x == 0 else f(x - 1) + k\np = functools.partial(f, k=10)\n"
    )
    assert again(sent(here["p"], here))(2) == here["p"](2) == 11


def test_an_old_function_calls_what_the_notebook_now_has() -> None:
    here = cell("def f(x):\n    return f(x - 1) + 1 if x else 0\ng = f\ndef f(x):\n    return 100\n")
    assert again(sent(here["g"], here))(2) == here["g"](2) == 101
    assert again(sent(here["f"], here))(2) == 100


def test_nothing_of_the_users_namespace_is_changed() -> None:
    here = cell("calls = []\ndef deco(g):\n    calls.append(g)\n    return g\n@deco\ndef f(x=calls):\n    return x\n")
    before = dict(here)
    sent(here["f"], here)
    assert here == before
    assert len(here["calls"]) == 1


@pytest.mark.parametrize("python", pythons(), ids=str)
def test_another_python_runs_it(python: Path) -> None:
    here = cell(
        "import functools\nimport math\nSCALE = 3\ndef deco(g):\n    @functools.wraps(g)\n    def inner(*a):\n"
        "        return g(*a) * SCALE\n    return inner\ndef outer(k):\n    @deco\n    def inner(x, xs=[1, 2]):\n"
        "        return sum(x * y + k for y in xs) + math.floor(2.5)\n    return inner\nclass A:\n    def __init__(self):\n"
        "        self.go = outer(4)\n    def m(self, x):\n        return self.go(x)\na = A()\ndef f(x):\n    return a.m(x)\n"
    )
    found = sent(here["f"], here)
    text, _ = found.render()
    code = (
        f"import json, sys\nspace = json.loads(sys.argv[1])\nexec(sys.argv[2], space)\nprint(space[{found.name!r}](2))"
    )
    run = [python, "-c", code, json.dumps(dict(found.values)), text]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == here["f"](2)


def test_wrapped_functions_of_a_library_are_taken_by_their_notebook_source() -> None:
    here = cell("import functools\nimport contextlib\n@contextlib.contextmanager\ndef f():\n    yield 3\n")
    with again(sent(here["f"], here))() as value:
        assert value == 3
    assert functools.partial is here["functools"].partial
