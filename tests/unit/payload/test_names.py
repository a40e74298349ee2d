"""The captured names agree with real execution."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager

from jupyter_offload.errors import CaptureError
from jupyter_offload.payload.names import Blind, Import, free_names

from . import oracle, programs

MARKS = {"?": "maybe", "~": "optional"}


@dataclass(frozen=True)
class Cell:
    """A cell of the corpus: statements that make the user's namespace, and the loads that a person expects."""

    title: str
    source: str
    given: str
    loads: dict[str, str]

    def namespace(self) -> dict[str, object]:
        made: dict[str, object] = {}
        exec(self.given, made)
        del made["__builtins__"]
        return made


def corpus() -> list[Cell]:
    cells = []
    for path in sorted((Path(__file__).parent / "cells").glob("*.txt")):
        for text in path.read_text(encoding="utf-8").split("### ")[1:]:
            title, given_line, loads_line, source = text.split("\n", 3)
            given_text = given_line.removeprefix("# given:").strip()
            words = loads_line.removeprefix("# loads:").split()
            loads = {word.rstrip("?~"): MARKS.get(word[-1], "required") for word in words}
            cells.append(Cell(f"{path.stem}: {title}", source, given_text, loads))
    return cells


def bound_anywhere(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(getattr(node, "ctx", ast.Store()), ast.Load):
            found |= {getattr(node, field, None) for field in ("id", "name", "asname", "rest")}
        if isinstance(node, ast.alias):
            found.add(node.name.partition(".")[0])
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "=" in node.value:
            found.add(node.value.partition("=")[0].strip())  # exec("y = 2")
    return found


def judge(source: str, make: Callable[[], dict[str, object]]) -> None:
    """Compare the analysis with execution, for each name of the namespace.

    No name whose absence raises `NameError`, even a caught one, may be missing from the loads. A name that is reported
    too many must not have been read: its place was not reached, or the cell binds it before on this path.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # generated programs hold SyntaxWarnings and coroutines nobody awaits
        names = free_names(source)
        found = {load.name: load for load in names.loads}
        baseline = oracle.execute(source, make(), places=True)
        for name in make():
            run = oracle.missing(source, make, name)
            if name in run.raised - baseline.raised:
                assert name in found, f"{name} raises {run.escaped!r} and is not captured"
            load = found.get(name)
            if load is None or load.builtin or name in run.raised or not oracle.POSITIONS:
                continue
            if load.kind == "required":
                place = (load.line, load.line, load.column, load.column + len(name.encode()))
                assert place not in baseline.reached, f"{name} is read at {load.line}:{load.column} but not needed"
            elif load.kind == "maybe":
                assert name in bound_anywhere(source) or "import *" in source or "except" in source, name


@pytest.mark.parametrize("cell", corpus(), ids=lambda cell: cell.title)
def test_cells(cell: Cell) -> None:
    made = cell.namespace()
    baseline = oracle.execute(cell.source, cell.namespace())
    assert not isinstance(baseline.escaped, NameError), "a cell of the corpus runs when nothing is missing"
    judge(cell.source, cell.namespace)
    found = {load.name: load.kind for load in free_names(cell.source).loads if not load.builtin or load.name in made}
    assert found == cell.loads


def test_the_corpus_is_large_enough() -> None:
    assert len(corpus()) >= 120


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@settings(
    max_examples=250,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(programs.programs(), st.integers(0, 1000))
def test_made_programs(source: str, seed: int) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        reject()
    for offset in range(3):
        judge(source, lambda offset=offset: programs.world(seed + offset))


def test_imports_anywhere_with_their_lines() -> None:
    source = "import a.b as c\ndef f():\n    from d.e import g\n    from . import h\nimport importlib\n"
    source += "importlib.import_module('k.l')\nfrom m import *\n"
    assert free_names(source).imports == (
        Import("a", "a.b", 1),
        Import("d", "d.e", 3),
        Import("d", "d.e.g", 3),
        Import("importlib", "importlib", 5),
        Import("k", "k.l", 6),
        Import("m", "m", 7),
    )


def test_stores_and_deletes() -> None:
    names = free_names("a = 1\nfor b in []: pass\ndef f():\n    global g\n    g = 1\n    h = 2\ndel a\n")
    assert names.stores == ("a", "b", "f", "g")
    assert names.deletes == ("a",)


def test_what_cannot_be_seen_is_said() -> None:
    names = free_names("globals()['x']\nexec(text)\neval('1')\nvars(o)\n")
    assert names.blind == (Blind(1, "globals()"), Blind(2, "exec(…)"))
    assert [load.name for load in names.loads if not load.builtin] == ["text", "o"]


def test_a_cell_that_is_not_python_names_its_line() -> None:
    with pytest.raises(CaptureError) as caught:
        free_names("a = 1\nb = (\n")
    assert caught.value.line == 2
    assert "line 2" in caught.value.hint


def test_needed_is_what_the_namespace_has() -> None:
    names = free_names("print(a, b)\n")
    assert names.needed({"a", "c", "print"}) == ("print", "a")


@pytest.mark.parametrize(
    ("cell", "loads"),
    [
        ("%timeit -n 3 -r 2 f(q)", {"f": "optional", "q": "optional"}),
        ("%time y = f(q)\ny", {"f": "optional", "q": "optional", "y": "maybe"}),
        ("%%timeit s = k\ns + q", {"k": "optional", "q": "optional"}),
        ("%%time\nz = f(q)\nz", {"f": "optional", "q": "optional"}),
        ("%%capture out\nprint(q)", {"q": "optional"}),
        ("%lprun -f fast go(q)", {"fast": "optional", "go": "optional", "q": "optional"}),
        ("!ls {folder}/$name $$HOME ${other}", {"folder": "optional", "name": "optional", "other": "optional"}),
        ("files = !ls {a + b}", {"a": "optional", "b": "optional"}),
        ("!echo {unbalanced", {}),
        ("%cd {folder}", {"folder": "optional"}),
        ("x?", {"x": "optional"}),
        ("for i in range(2):\n    %time f(i)", {"f": "optional"}),
        ("%%bash\necho $not_python {nor_this}", {}),
        ("%matplotlib inline", {}),
    ],
)
def test_magics_and_shell_lines(cell: str, loads: dict[str, str]) -> None:
    names = free_names(TransformerManager().transform_cell(cell))
    assert {load.name: load.kind for load in names.loads if not load.builtin} == loads


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is of Python 3.12")
def test_type_parameters() -> None:
    source = "def f[T: Bound](x: T) -> T:\n    return x\ntype A[K] = dict[K, V]\nclass C[T](Base[T]):\n    y: T\n"
    loads = {load.name for load in free_names(source).loads if not load.builtin}
    assert loads == {"Bound", "V", "Base"}
