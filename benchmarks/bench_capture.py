"""What capture costs: the free names of a 200-line cell, beside parsing it alone, and the source of a function.

The limit is 5 ms for a cell of 200 lines. Run with ``python benchmarks/bench_capture.py``.
"""

from __future__ import annotations

import ast
import json
import linecache
import time
from collections.abc import Callable
from pathlib import Path

from jupyter_offload.payload.functions import function_source
from jupyter_offload.payload.names import free_names

ROUNDS = 50
CELLS = Path(__file__).parent.parent / "tests" / "unit" / "payload" / "cells" / "science.txt"


def best(call: Callable[[], object]) -> float:
    """Return the shortest of `ROUNDS` calls, in milliseconds: the machine's other work only ever adds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


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


def main() -> None:
    """Print one line of JSON per figure."""
    for lines in (20, 200, 2000):
        source = cell_of(lines)
        analysed, parsed = best(lambda text=source: free_names(text)), best(lambda text=source: ast.parse(text))
        print(
            json.dumps(
                {"free_names": f"{lines} lines", "ms": round(analysed, 2), "times_parsing": round(analysed / parsed, 2)}
            )
        )
    chain = "import math\nK = 2\n" + "".join(
        f"def f{index}(x):\n    return {f'f{index - 1}(x)' if index else 'math.sqrt(x)'} * K\n" for index in range(50)
    )
    function, namespace = function_of_a_cell(chain + "last = f49\n")
    print(
        json.dumps(
            {"function_source": "50 functions", "ms": round(best(lambda: function_source(function, namespace)), 2)}
        )
    )


if __name__ == "__main__":
    main()
