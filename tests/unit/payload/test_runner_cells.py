from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path

import pytest
from parts.running import Run, command, prepare, run

from jupyter_offload.errors import (
    CannotEncode,
    MissingRemotePackage,
    PythonMismatch,
    RemoteError,
    ResultTampered,
    ResultTooLarge,
    ResultUnavailable,
    UsageError,
)


def test_a_cell_gives_its_output_its_values_and_its_last_expression(tmp_path: Path) -> None:
    done = run(tmp_path, "print('hello')\ny = x + 1\ny * 2", values={"x": 41}, outputs=["y"])
    assert done.code == 0
    assert done.result.error is None
    assert dict(done.result.values) == {"y": 42}
    assert [output["output_type"] for output in done.result.outputs] == ["stream", "execute_result"]
    assert done.text() == "hello\n"
    assert done.result.outputs[1]["data"] == {"text/plain": "84"}


def test_the_traceback_begins_at_the_users_own_line(tmp_path: Path) -> None:
    done = run(tmp_path, "def broken():\n    return 1 / 0\n\nbroken()\n")
    assert done.code == 1
    error = done.result.error
    assert isinstance(error, RemoteError)
    assert error.ename == "ZeroDivisionError"
    assert 'File "<offload svm-fit>", line 4, in <module>' in error.traceback
    assert 'File "<offload svm-fit>", line 2, in broken\n    return 1 / 0' in error.traceback
    assert "runner" not in error.traceback
    assert done.result.outputs[-1]["ename"] == "ZeroDivisionError"


def kinds(done: Run) -> list[str]:
    return [output.get("name", output["output_type"]) for output in done.result.outputs]


def test_no_operation_needs_no_ipython_and_a_foreign_import_gets_it(tmp_path: Path) -> None:
    assert run(tmp_path, "1").result.facts["ipython"] is None
    assert run(tmp_path, "import IPython\nIPython.get_ipython() is not None").result.facts["ipython"]


def test_what_is_printed_stays_in_exact_order(tmp_path: Path) -> None:
    source = """
import os, sys, subprocess
for round in range(20):
    print("out", round, end=" ")
    print("err", round, file=sys.stderr)
    os.write(1, b"raw ")
    os.system("echo system")
    subprocess.run(["echo", "process"])
    display(round)
    sys.stdout.buffer.write(b"bytes ")
"""
    done = run(tmp_path, source)
    assert done.result.error is None
    shown = []
    for output in done.result.outputs:
        shown.append(output["text"] if output["output_type"] == "stream" else f"<{output['data']['text/plain']}>")
    expected = "".join(f"out {i} err {i}\nraw system\nprocess\n<{i}>bytes " for i in range(20))
    assert "".join(shown) == expected


def test_rich_display_by_ipython(tmp_path: Path) -> None:
    source = """
from IPython.display import HTML, display, clear_output
print("gone")
clear_output()
handle = display(HTML("<b>1</b>"), display_id="here")
display({"text/plain": "raw"}, raw=True)
handle.update(HTML("<b>2</b>"))
class Rich:
    def _repr_html_(self): return "<i>rich</i>"
    def __repr__(self): return "Rich()"
Rich()
"""
    done = run(tmp_path, source)
    assert done.result.error is None, done.stderr
    assert [output["data"] for output in done.result.outputs] == [
        {"text/plain": "<IPython.core.display.HTML object>", "text/html": "<b>2</b>"},
        {"text/plain": "raw"},
        {"text/plain": "Rich()", "text/html": "<i>rich</i>"},
    ]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("%%time\nx = 3\nx", "Wall time"),
        ("!echo magic $((1 + 2))", "magic 3"),
        ("%env OFFLOAD_JOB_ID", ""),
        ("files = !echo found\nprint(files[0])", "found"),
        ("%%bash\necho from bash", "from bash"),
    ],
)
def test_magics(tmp_path: Path, source: str, text: str) -> None:
    done = run(tmp_path, source, environ={"OFFLOAD_JOB_ID": "7"})
    assert done.result.error is None
    assert text in done.text()


@pytest.mark.parametrize("source", ["%%time\n1 / 0", "%%capture\n1 / 0", "%run -i nowhere.py"])
def test_an_error_inside_a_magic_fails_the_job(tmp_path: Path, source: str) -> None:
    done = run(tmp_path, source)
    assert done.code == 1
    assert done.result.error is not None
    assert any(output["output_type"] == "error" for output in done.result.outputs)


def test_top_level_await(tmp_path: Path) -> None:
    source = """
import asyncio
async def answer():
    await asyncio.sleep(0)
    return 41
y = await answer()
async with asyncio.Lock():
    y += 1
await answer()
"""
    done = run(tmp_path, source, outputs=["y"])
    assert done.result.error is None
    assert done.result.values["y"] == 42
    assert done.result.outputs[0]["data"] == {"text/plain": "41"}


def test_a_semicolon_silences_the_last_expression(tmp_path: Path) -> None:
    assert run(tmp_path, "x = 'a;b'\n5;  # quiet;").result.outputs == []
    assert len(run(tmp_path, "x = 'a;b'\n'5;'").result.outputs) == 1


def test_future_imports_hold_for_the_whole_cell(tmp_path: Path) -> None:
    source = "from __future__ import annotations\ndef f(x: nowhere) -> nothing: ...\nf.__annotations__"
    assert run(tmp_path, source).result.outputs[0]["data"]["text/plain"] == "{'x': 'nowhere', 'return': 'nothing'}"


@pytest.mark.parametrize("finder", ["", "%matplotlib inline\n"])
def test_figures(tmp_path: Path, finder: str) -> None:
    source = f"""
{finder}import matplotlib.pyplot as plt
plt.plot([1, 2, 3])
print("first")
plt.show()
print("second")
figure, axes = plt.subplots()
axes.plot([3, 2, 1]);
"""
    done = run(tmp_path, source)
    assert done.result.error is None, done.stderr
    assert kinds(done) == ["stdout", "display_data", "stdout", "display_data"]
    for output in (done.result.outputs[1], done.result.outputs[3]):
        assert base64.b64decode(output["data"]["image/png"]).startswith(b"\x89PNG")
    assert done.stderr == b""


def test_a_figure_as_the_last_expression(tmp_path: Path) -> None:
    done = run(tmp_path, "from matplotlib.figure import Figure\nf = Figure()\nf.subplots().plot([1, 2])\nf")
    assert set(done.result.outputs[0]["data"]) == {"text/plain", "image/png"}


def test_a_syntax_error_names_the_users_line(tmp_path: Path) -> None:
    done = run(tmp_path, "x = 1\nfor in y:\n    pass\n")
    assert done.result.error.ename == "SyntaxError"
    assert 'File "<offload svm-fit>", line 2' in done.result.error.traceback


def test_tracebacks_with_ipython_name_the_cell(tmp_path: Path) -> None:
    done = run(
        tmp_path, "import IPython\ntry:\n    1 / 0\nexcept Exception as error:\n    raise KeyError('k') from error\n"
    )
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(done.result.outputs[-1]["traceback"]))
    assert "Cell svm-fit, line 3" in text
    assert "Cell svm-fit, line 5" in text
    assert "runner.py" not in text


def test_a_missing_package_is_named_with_the_ways_out(tmp_path: Path) -> None:
    done = run(tmp_path, "import nowhere_to_be_found.inner", environ={"OFFLOAD_IMAGE": "docker://science:1"})
    error = done.result.error
    assert isinstance(error, MissingRemotePackage)
    assert (error.module, error.image) == ("nowhere_to_be_found", "docker://science:1")
    assert "--pip nowhere_to_be_found" in error.hint


def test_a_users_module_travels_and_its_missing_submodule_is_the_users_own_error(tmp_path: Path) -> None:
    modules = [("module", "helpers/__init__.py", b"value = 7\n"), ("module", "helpers/deep.py", b"value = 8\n")]
    done = run(tmp_path, "import helpers.deep\n(helpers.value, helpers.deep.value)", parts=modules)
    assert done.result.outputs[0]["data"]["text/plain"] == "(7, 8)"
    done = run(tmp_path, "import helpers.other", parts=modules)
    assert type(done.result.error) is RemoteError


@pytest.mark.parametrize("name", ["../out.py", "/tmp/out.py", "a//b.py", "a/./b.py", "nul\0.py", ""])
def test_a_module_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, "1", parts=[("module", name, b"")])
    assert isinstance(done.result.error, UsageError)


def test_problems_of_single_outputs_lose_nothing_else(tmp_path: Path) -> None:
    source = "print('kept')\na = 1\nb = (i for i in ())\nc = {'list': [open('/dev/null')]}\ne = bytes(2000)"
    done = run(tmp_path, source, outputs=["a", "b", "c", "d", "e"], limits={"result_bytes": 1000})
    result = done.result
    assert result.error is next(iter(result.problems.values()))
    assert done.code == 1
    assert result.values["a"] == 1
    assert done.text() == "kept\n"
    assert {name: type(error) for name, error in result.problems.items()} == {
        "b": CannotEncode,
        "c": CannotEncode,
        "d": ResultUnavailable,
        "e": ResultTooLarge,
    }
    assert "c['list'][0], a TextIOWrapper" in result.problems["c"].message
    assert "--file" in result.problems["c"].hint
    with pytest.raises(CannotEncode, match="b is a generator"):
        result.values["b"]


def test_an_error_keeps_the_outputs_that_exist(tmp_path: Path) -> None:
    result = run(tmp_path, "a = 1\n1 / 0\nb = 2", outputs=["a"]).result
    assert result.error.ename == "ZeroDivisionError"
    assert result.values["a"] == 1


def test_a_class_of_the_cell_comes_back_to_an_equal_python(tmp_path: Path) -> None:
    done = run(tmp_path, "class Point:\n    def __init__(self): self.x = 3\np = Point()", outputs=["p"])
    assert done.result.values["p"].x == 3


def test_cloudpickle_travels_with_code_to_a_python_without_it(tmp_path: Path) -> None:
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "import sys\nsys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
    )
    source = "try:\n    import numpy\nexcept ImportError:\n    y = f(20)\ng = lambda: y"
    environ = {"PYTHONPATH": str(hide)}
    done = run(tmp_path, source, values={"f": lambda x: x + 1}, outputs=["y", "g"], environ=environ)
    assert done.result.error is None, done.result.error
    assert done.result.values["y"] == 21
    assert done.result.values["g"]() == 21


def test_a_pickle_of_another_python_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (print, ("opened",))

    done = run(tmp_path, "1", values={"data": Bomb()}, python="3.4")
    assert done.result.error is None  # plain pickles are not bound to a minor
    done = run(tmp_path, "1", values={"code": lambda: Bomb()}, python="3.4")
    assert isinstance(done.result.error, PythonMismatch)
    assert "code" in done.result.error.message
    assert "3.4" in done.result.error.message
    assert "opened" not in done.text()


def test_functions_and_imports_of_the_notebook_are_there_before_the_cell(tmp_path: Path) -> None:
    piece = {"source": "def f(x):\n    return m.sqrt(x) * k\n", "filename": "/tmp/ipykernel_1/7.py", "first_line": 4}
    main = {"imports": ["import math as m"], "pieces": [piece]}
    done = run(tmp_path, "y = f(4)", values={"k": 3}, outputs=["y"], **main)
    assert done.result.values["y"] == 6
    error = run(tmp_path, "f(-1)", values={"k": 3}, **main).result.error
    assert 'File "/tmp/ipykernel_1/7.py", line 5, in f\n    return m.sqrt(x) * k' in error.traceback
    error = run(tmp_path, "print('never')", imports=["import offload_nowhere"]).result.error
    assert isinstance(error, MissingRemotePackage)
    assert error.module == "offload_nowhere"


def test_input_explains_itself(tmp_path: Path) -> None:
    done = run(tmp_path, "input('how many? ')")
    assert done.result.error.ename == "EOFError"
    assert "-i" in done.result.error.evalue


def test_a_damaged_input_is_refused(tmp_path: Path) -> None:
    prepare(tmp_path, "print('ran')", values={"x": [1, 2, 3]})
    bundle = tmp_path / "bundle"
    bundle.write_bytes(
        bundle.read_bytes()[:-1] + b"]" if bundle.read_bytes()[-1:] != b"]" else bundle.read_bytes()[:-1] + b"["
    )
    done = subprocess.run(command(tmp_path), cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert b"ran" not in done.stdout
    assert isinstance(Run(tmp_path, done).result.error, ResultTampered)
    bundle.write_bytes(bundle.read_bytes()[:-1])
    done = subprocess.run(command(tmp_path), cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.returncode == 3
    assert b"inputs cannot be read" in done.stderr


def test_events_in_the_log(tmp_path: Path) -> None:
    done = run(tmp_path, "print('a')\ndisplay(5)")
    assert [event["offload"] for event in done.events] == ["display", "result"]
    assert done.stdout.startswith(b"a\n\x1e{")
    assert done.events[0]["output"]["data"] == {"text/plain": "5"}


def test_the_environment_of_the_code(tmp_path: Path) -> None:
    source = (
        "import sys, __main__\n(__name__, __main__.marker, sys.argv, 'runner' in dir(), isinstance(__builtins__, dict))"
    )
    done = run(tmp_path, source, values={"marker": 5})
    assert done.result.outputs[0]["data"]["text/plain"].startswith("('__main__', 5, ")


def test_threads_processes_warnings_and_exit_handlers(tmp_path: Path) -> None:
    source = """
import atexit, multiprocessing, sys, threading, time, warnings
def work(n):
    print("process", n, flush=True)
    print("process error", n, file=sys.stderr)
    return n * n
def late():
    time.sleep(0.3)
    print("late thread")
threads = [threading.Thread(target=lambda: [print("thread") for _ in range(50)]) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
with multiprocessing.get_context("fork").Pool(2) as pool:
    squares = pool.map(work, [1, 2, 3])
atexit.register(print, "at exit")
warnings.warn("careful", stacklevel=1)
threading.Thread(target=late).start()
"""
    done = run(tmp_path, source, outputs=["squares"])
    assert done.result.error is None, done.text("stderr")
    assert done.result.values["squares"] == [1, 4, 9]
    text = done.text()
    assert text.count("thread\n") == 201
    assert text.count("process ") == 3
    assert text.endswith("late thread\nat exit\n")
    assert "<offload svm-fit>:" in done.text("stderr")
    assert "careful" in done.text("stderr")


@pytest.fixture
def without_ipython(tmp_path: Path) -> dict[str, str]:
    """An environment in which IPython cannot be imported."""
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "IPython.py").write_text("raise ModuleNotFoundError('hidden', name='IPython')\n")
    return {"PYTHONPATH": str(hide)}


def test_figures_without_ipython(tmp_path: Path, without_ipython: dict[str, str]) -> None:
    source = """
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
axes.plot([1, 2])
plt.show()
print("between")
axes = plt.figure().add_subplot()
axes.plot([2, 1])
axes.figure
"""
    done = run(tmp_path, source, environ=without_ipython)
    assert done.result.error is None, done.result.error
    assert done.result.facts["ipython"] is None
    assert kinds(done) == ["display_data", "stdout", "execute_result", "display_data"]
    for output in done.result.outputs:
        assert output["output_type"] == "stream" or output["data"]["image/png"]
    assert done.stderr == b""


def test_the_users_own_choice_of_backend_stays(tmp_path: Path) -> None:
    source = "import matplotlib\nmatplotlib.use('svg')\nimport matplotlib.pyplot as plt\nplt.plot([1])\nmatplotlib.get_backend()"
    done = run(tmp_path, source)
    assert done.result.outputs[0]["data"]["text/plain"] == "'svg'"
    assert "image/png" in done.result.outputs[1]["data"]


def test_a_process_of_the_users_plots_without_us(tmp_path: Path) -> None:
    source = "import subprocess, sys\ncode = 'import matplotlib.pyplot as p; p.plot([1]); p.savefig(\"f.png\")'\n"
    source += "subprocess.run([sys.executable, '-c', code], check=True)"
    assert run(tmp_path, source).result.error is None
    assert (tmp_path / "work/f.png").exists()


def test_an_ipython_that_does_not_start_is_said_and_the_cell_runs(tmp_path: Path) -> None:
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "traitlets.py").write_text("raise RuntimeError('broken installation')\n")
    done = run(
        tmp_path, "import decimal\nx = decimal.Decimal(1)\ndisplay(x)", outputs=["x"], environ={"PYTHONPATH": str(hide)}
    )
    assert done.result.error is None
    assert "IPython does not start here (broken installation)" in done.text("stderr")
    assert done.result.outputs[-1]["data"]["text/plain"] == "Decimal('1')"


def test_magics_without_ipython_say_what_they_need(tmp_path: Path, without_ipython: dict[str, str]) -> None:
    error = run(tmp_path, "x = 1\n%timeit x", environ=without_ipython).result.error
    assert error.ename == "SyntaxError"
    assert "--pip ipython" in error.hint
