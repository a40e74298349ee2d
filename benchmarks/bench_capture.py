"""What capture costs: the free names of a 200-line cell, beside parsing it alone, and the source of a function."""

from __future__ import annotations

import ast
import linecache
import time
from collections.abc import Callable
from pathlib import Path

from figures import Figure, Table, middle, spread

from jupyter_offload.payload.functions import function_source
from jupyter_offload.payload.names import free_names

CELLS = Path(__file__).parent.parent / "tests" / "unit" / "payload" / "cells" / "science.txt"


def samples(call: Callable[[], object], rounds: int) -> list[float]:
    """Return the seconds of `rounds` calls."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def cell_of(lines: int) -> str:
    """Return a cell of real analysis code, repeated to its length."""
    cells = [text.split("\n", 3)[3] for text in CELLS.read_text(encoding="utf-8").split("### ")[1:]]
    text = "".join(cells).splitlines()
    whole = (text * (lines // len(text) + 1))[:lines]
    while whole and whole[-1].startswith((" ", "else", "except")):
        whole.pop()  # do not end in the middle of a statement
    return "\n".join(whole[:-1] + ["pass"] * (lines - len(whole) + 1)) + "\n"


def function_of_a_cell(source: str) -> tuple[Callable[..., object], dict[str, object]]:
    """Return the last function of `source` as a notebook would have it."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    filename = "<ipython-input-bench>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec", dont_inherit=True), namespace)
    function = namespace["last"]
    assert callable(function)
    return function, namespace


def measure(rounds: int) -> tuple[list[Figure], Table]:
    """Measure cells of three lengths, and a function that calls fifty others."""
    rows = [["", "capture", "parsing alone"]]
    figures = []
    for lines in (20, 200, 2000):
        source = cell_of(lines)
        analysed = samples(lambda text=source: free_names(text), rounds)
        parsed = samples(lambda text=source: ast.parse(text), rounds)
        rows.append([f"cell of {lines:,} lines", spread(analysed, "ms", 1e3), spread(parsed, "ms", 1e3)])
        if lines == 200:
            figures.append(
                Figure("Capture of a 200-line cell", "≤ 5 ms", spread(analysed, "ms", 1e3), middle(analysed) <= 0.005)
            )
    chain = "import math\nK = 2\n" + "".join(
        f"def f{index}(x):\n    return {f'f{index - 1}(x)' if index else 'math.sqrt(x)'} * K\n" for index in range(50)
    )
    function, namespace = function_of_a_cell(chain + "last = f49\n")
    taken = samples(lambda: function_source(function, namespace), rounds)
    rows.append(["function that needs 49 others", spread(taken, "ms", 1e3), ""])
    return figures, Table("Capture", rows)
