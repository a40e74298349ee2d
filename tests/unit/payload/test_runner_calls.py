"""Functions and notebooks."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from parts.running import Run, run

from jupyter_offload.errors import CannotEncode, PythonMismatch, RemoteError, UsageError
from jupyter_offload.job import Kind
from jupyter_offload.payload.calls import plan_call
from jupyter_offload.payload.runner import describe_part

NOTEBOOK = """import math

offset = 10

def helper(x):
    return x + offset

def fit(X, y, C=1):
    return helper(sum(X)) * y + C

async def later(x):
    return x + 1

def many(n):
    for i in range(n):
        yield i

def broken(x):

    return math.sqrt(x)

def plotting():
    import matplotlib.pyplot as plt
    plt.plot([1, 2])
    print("drawn")
"""
CELL = "/tmp/ipykernel_1/2345.py"


@pytest.fixture
def user_ns() -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    linecache.cache[CELL] = (len(NOTEBOOK), None, NOTEBOOK.splitlines(keepends=True), CELL)
    exec(compile(NOTEBOOK, CELL, "exec", dont_inherit=True), namespace)
    return namespace


def call(
    folder: Path, function: Callable[..., object], user_ns: dict[str, Any], *args: object, **kwargs: object
) -> Run:
    return run(folder, kind=Kind.FUNCTION, call=plan_call(function, args, kwargs, user_ns))


def test_a_notebook_function_travels_as_source_with_what_it_uses(tmp_path: Path, user_ns: dict[str, Any]) -> None:
    planned = plan_call(user_ns["fit"], ([1, 2],), {}, user_ns)
    assert planned.main["call"] == "source"
    assert not planned.python_bound
    done = call(tmp_path, user_ns["fit"], user_ns, [1, 2], 3, C=4)
    assert done.result.error is None
    assert dict(done.result.values) == {"result": 43}


def test_a_function_of_a_module_is_named(tmp_path: Path, user_ns: dict[str, Any]) -> None:
    import textwrap

    done = call(tmp_path, textwrap.TextWrapper.wrap, user_ns, textwrap.TextWrapper(), "a b")
    assert done.result.values["result"] == ["a b"]


def test_a_function_without_source_is_pickled_for_an_equal_python_only(tmp_path: Path, user_ns: dict[str, Any]) -> None:
    exec("def hidden(x): return x * 2", user_ns)
    planned = plan_call(user_ns["hidden"], (4,), {}, user_ns)
    assert planned.main["call"] == "pickle"
    assert planned.python_bound
    assert run(tmp_path, kind=Kind.FUNCTION, call=planned).result.values["result"] == 8
    error = run(tmp_path, kind=Kind.FUNCTION, call=planned, python="3.4").result.error
    assert isinstance(error, PythonMismatch)


def test_a_coroutine_function_is_awaited(tmp_path: Path, user_ns: dict[str, Any]) -> None:
    assert call(tmp_path, user_ns["later"], user_ns, 1).result.values["result"] == 2


def test_a_generator_is_refused_with_the_way_out(tmp_path: Path, user_ns: dict[str, Any]) -> None:
    error = call(tmp_path, user_ns["many"], user_ns, 3).result.error
    assert isinstance(error, CannotEncode)
    assert "list(" in error.hint


def test_the_traceback_of_a_function_points_to_its_cell(tmp_path: Path, user_ns: dict[str, Any]) -> None:
    error = call(tmp_path, user_ns["broken"], user_ns, -1).result.error
    assert isinstance(error, RemoteError)
    assert f'File "{CELL}", line 20, in broken\n    return math.sqrt(x)' in error.traceback
    assert "runner.py" not in error.traceback


def test_a_result_that_cannot_travel(tmp_path: Path, user_ns: dict[str, Any]) -> None:
    import threading

    done = call(tmp_path, threading.Lock, user_ns)
    assert isinstance(done.result.problems["result"], CannotEncode)


def test_figures_of_a_function(tmp_path: Path, user_ns: dict[str, Any]) -> None:
    outputs = call(tmp_path, user_ns["plotting"], user_ns).result.outputs
    assert [output["output_type"] for output in outputs] == ["stream", "display_data"]


def test_arguments_that_cannot_travel_are_named(user_ns: dict[str, Any]) -> None:
    with pytest.raises(CannotEncode, match="argument 2 is a generator"):
        plan_call(user_ns["fit"], (1, (i for i in ())), {}, user_ns)
    with pytest.raises(CannotEncode, match="argument C is a generator"):
        plan_call(user_ns["fit"], (), {"C": (i for i in ())}, user_ns)


def test_the_traceback_of_awaiting_begins_at_the_users_line(tmp_path: Path) -> None:
    source = "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    1 / 0\nawait f()"
    text = run(tmp_path, source).result.error.traceback
    assert text.startswith('Traceback (most recent call last):\n  File "<offload svm-fit>", line 5, in <module>')


def notebook(*cells: str, **tags: list[str]) -> bytes:
    made = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    made.cells.append(nbformat.v4.new_markdown_cell("# Title"))
    for place, source in enumerate(cells):
        cell = nbformat.v4.new_code_cell(source, metadata={"tags": tags.get(f"c{place}", [])})
        cell.outputs.append(nbformat.v4.new_output("stream", text="old"))
        made.cells.append(cell)
    return nbformat.writes(made).encode()


def execute(folder: Path, data: bytes, **options: Any) -> Run:
    return run(folder, kind=Kind.NOTEBOOK, parts=[("source", "analysis.ipynb", data)], **options)


def test_a_notebook_comes_back_executed(tmp_path: Path) -> None:
    source = notebook(
        "x = 6\nprint('one')",
        "",
        "%%time\ny = x * 7",
        "display(y)\ny",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
    )
    done = execute(tmp_path, source)
    assert done.code == 0, done.stderr
    made = nbformat.from_dict(done.result.notebook)
    nbformat.validate(made)
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, None, 2, 3, 4]
    assert [[output.output_type for output in cell.outputs] for cell in code] == [
        ["stream"],
        ["stream"],
        ["stream"],
        ["display_data", "execute_result"],
        ["display_data"],
    ]
    assert code[0].outputs[0].text == "one\n"
    assert code[1].outputs[0].text == ["old"]
    assert code[3].outputs[1].data["text/plain"] == "42"
    progress = [event for event in done.events if event["offload"] == "progress"]
    assert [(event["done"], event["total"]) for event in progress] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert progress[1]["label"] == "cell 2 of 4"


def test_a_notebook_stops_at_its_first_error_and_comes_back_with_it(tmp_path: Path) -> None:
    done = execute(tmp_path, notebook("1 / 0", "print('go on')\nnope", "print('never')", c0=["raises-exception"]))
    assert done.code == 1
    assert done.result.error.ename == "NameError"
    assert "cell 2 of 3: NameError" in done.result.error.message
    code = [cell for cell in done.result.notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"][-1].get("ename") for cell in code[:2]] == ["ZeroDivisionError", "NameError"]
    assert code[2]["outputs"] == []
    assert code[2]["execution_count"] is None


def test_a_notebook_that_crashes_comes_back_as_far_as_it_got(tmp_path: Path) -> None:
    done = execute(tmp_path, notebook("print('one')", "import os\nprint('two')\nos.abort()"))
    code = [cell for cell in done.result.notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"][0]["text"] for cell in code] == ["one\n", "two\n"]
    assert done.result.error.signal == 6


def test_parameters_come_behind_the_cell_that_has_their_defaults(tmp_path: Path) -> None:
    done = execute(tmp_path, notebook("n = 1", "n", c0=["parameters"]), values={"n": 5})
    assert done.result.notebook["cells"][2]["outputs"][0]["data"]["text/plain"] == "5"


@pytest.mark.parametrize(
    "data",
    [b"no json", b"[]", b'{"nbformat": 3, "worksheets": []}', notebook("1").replace(b'"python"', b'"julia"')],
    ids=["no json", "a list", "nbformat 3", "julia"],
)
def test_what_is_no_python_notebook_is_refused(tmp_path: Path, data: bytes) -> None:
    done = execute(tmp_path, data)
    assert done.code == 1
    assert isinstance(done.result.error, UsageError)


def test_a_part_is_described_by_its_bytes() -> None:
    assert describe_part("value", "x", "raw", [b"ab", b""], {})["size"] == 2
