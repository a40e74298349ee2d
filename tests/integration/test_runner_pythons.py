"""The runner on every CPython that this machine has, with and without IPython, and environments of ``--pip``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from parts.pythons import pythons
from parts.require import require
from parts.running import Run, prepare, run

from jupyter_offload.errors import JobFailed, PythonMismatch
from jupyter_offload.job import Kind
from jupyter_offload.payload import runner
from jupyter_offload.payload.calls import plan_call

PYTHONS = pythons()


@pytest.fixture(params=PYTHONS, ids=lambda path: re.sub(r"\W+", "-", str(path)))
def python(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_there_is_more_than_one_python() -> None:
    if len(PYTHONS) < 2:
        require("a second CPython between 3.8 and 3.14")


def test_the_source_is_python_3_8() -> None:
    # Annotations are not evaluated (PEP 563), so they may be newer; that nothing else is, every Python below shows as well.
    vermin = Path(sys.executable).with_name("vermin")
    argv = [vermin, "--target=3.8-", "--no-tips", "--violations", "--no-eval-annotations", runner.__file__]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "Minimum required versions: 3.8" in done.stdout, done.stdout
    assert done.returncode == 0, done.stdout


def test_the_runner_imports_nothing_but_the_standard_library(python: str) -> None:
    subprocess.run(
        [python, "-I", "-S", "-c", f"import runpy; runpy.run_path({runner.__file__!r})"], check=True, timeout=60
    )


def test_a_cell_on_every_python(tmp_path: Path, python: str) -> None:
    source = """
    import asyncio, os, sys
    print("out", x["ünï"])
    print("err", file=sys.stderr)
    os.system("echo process")
    async def double(n):
        await asyncio.sleep(0)
        return 2 * n
    y = await double(x["n"])
    z = (y, {1, 2}, b"\\x00", 10 ** 5000)
    display([1])
    y
    """
    done = run(
        tmp_path,
        textwrap.dedent(source),
        interpreter=python,
        values={"x": {"n": 21, "ünï": "\ud800é"}},
        outputs=["y", "z"],
    )
    result = done.result
    assert result.error is None, result.error
    assert result.values["y"] == 42
    assert result.values["z"] == (42, {1, 2}, b"\x00", 10**5000)
    assert [output["output_type"] for output in result.outputs] == [
        "stream",
        "stream",
        "stream",
        "display_data",
        "execute_result",
    ]
    assert done.text() == "out \\ud800é\nprocess\n"
    assert result.python == ".".join(result.facts["python"].split(".")[:2])


def test_errors_and_deaths_on_every_python(tmp_path: Path, python: str) -> None:
    error = run(tmp_path, "def f():\n    return 1 / 0\nf()", interpreter=python).result.error
    assert error.ename == "ZeroDivisionError"
    assert 'File "<offload svm-fit>", line 2, in f\n    return 1 / 0' in error.traceback
    assert "runner.py" not in error.traceback
    error = run(tmp_path, "x = (", interpreter=python).result.error
    assert error.ename == "SyntaxError"
    done = run(tmp_path, "print('kept')\nimport ctypes\nctypes.string_at(0)", interpreter=python)
    assert isinstance(done.result.error, JobFailed)
    assert done.text() == "kept\n"


def test_functions_and_notebooks_on_every_python(tmp_path: Path, python: str) -> None:
    call = plan_call(textwrap.dedent, ("  a",), {}, {})
    assert run(tmp_path, kind=Kind.FUNCTION, call=call, interpreter=python).result.values["result"] == "a"
    data = b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code", "source": ["1 + ", "1"], "metadata": {}}]}'
    done = run(tmp_path, kind=Kind.NOTEBOOK, parts=[("source", "n", data)], interpreter=python)
    assert done.result.notebook["cells"][0]["outputs"][0]["data"]["text/plain"] == "2"


def test_code_is_refused_by_another_python_and_data_is_not(tmp_path: Path, python: str) -> None:
    done = run(tmp_path, "f", values={"f": lambda: 1}, interpreter=python)
    if done.result.python == runner.minor_version():
        pytest.skip("the same minor")
    assert isinstance(done.result.error, PythonMismatch)
    done = run(
        tmp_path,
        "import datetime\nd = when + datetime.timedelta(1)",
        values={"when": __import__("datetime").date(2026, 1, 1)},
        outputs=["d"],
        interpreter=python,
    )
    assert str(done.result.values["d"]) == "2026-01-02"


def test_a_class_of_the_cell_needs_cloudpickle(tmp_path: Path, python: str) -> None:
    if subprocess.run([python, "-c", "import cloudpickle"], capture_output=True, check=False).returncode == 0:
        pytest.skip("it has cloudpickle")
    problem = run(tmp_path, "class P: pass\np = P()", outputs=["p"], interpreter=python).result.problems["p"]
    assert "cloudpickle" in problem.hint


# -- environments


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made here, so that no index is needed."""
    folder = tmp_path_factory.mktemp("wheels")
    path = folder / "offload_sample-1.0-py3-none-any.whl"
    files = {
        "offload_sample.py": "value = 11\n",
        "offload_sample-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: offload-sample\nVersion: 1.0\n",
        "offload_sample-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        record = "".join(f"{name},,\n" for name in [*files, "offload_sample-1.0.dist-info/RECORD"])
        for name, text in {**files, "offload_sample-1.0.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    return path


SOURCE = "import offload_sample, numpy, sys\nprint(sys.prefix)\nvalue = offload_sample.value"


def test_an_environment_is_made_once_and_has_this_pythons_packages_too(tmp_path: Path, package: Path) -> None:
    environ = {"OFFLOAD_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(package.parent)}
    first = run(tmp_path, SOURCE, pip=["offload-sample>=1"], outputs=["value"], environ=environ)
    assert first.result.error is None, first.result.error
    assert first.result.values["value"] == 11
    prefix = first.text().strip()
    assert Path(prefix).parent == tmp_path / "cache"
    assert first.events[0] == {"offload": "progress", "label": "installing offload-sample>=1"}
    environ["PIP_FIND_LINKS"] = "/nowhere"  # a second installation would fail
    second = run(tmp_path, SOURCE, pip=["offload-sample>=1"], environ=environ)
    assert second.result.error is None
    assert second.text().strip() == prefix
    (Path(prefix) / "offload-complete").unlink()  # as after a crash in the middle
    third = run(tmp_path, SOURCE, pip=["offload-sample>=1"], environ=environ)
    assert isinstance(third.result.error, JobFailed)


def test_two_jobs_at_once_make_one_environment(tmp_path: Path, package: Path) -> None:
    environ = {
        **os.environ,
        "OFFLOAD_CACHE": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(package.parent),
    }
    folders = [tmp_path / "a", tmp_path / "b"]
    processes = []
    for folder in folders:
        folder.mkdir()
        prepare(folder, SOURCE, pip=["offload-sample"], outputs=["value"])
        argv = [sys.executable, runner.__file__, str(folder / "bundle"), str(folder / "result")]
        processes.append(subprocess.Popen(argv, cwd=folder, env=environ, stdout=subprocess.DEVNULL))
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    done = subprocess.CompletedProcess([], 0, b"", b"")
    assert [Run(folder, done).result.values["value"] for folder in folders] == [11, 11]
    assert len(list((tmp_path / "cache").glob("env-*/offload-complete"))) == 1


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, package: Path) -> None:
    (tmp_path / "cached").write_text("in the way")
    environ = {"OFFLOAD_CACHE": str(tmp_path / "cached"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(package.parent)}
    done = run(tmp_path, SOURCE, pip=["offload-sample"], outputs=["value"], environ=environ)
    assert done.result.values["value"] == 11
    assert b"no cache for environments here" in done.stderr


def test_what_pip_says_comes_back(tmp_path: Path) -> None:
    environ = {"OFFLOAD_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1"}
    done = run(tmp_path, "print('never')", pip=["offload-nowhere"], environ=environ)
    assert isinstance(done.result.error, JobFailed)
    assert "No matching distribution found for offload-nowhere" in done.result.error.message
    assert done.text() == ""


def test_a_python_without_venv_says_so(tmp_path: Path) -> None:
    # A double for Debian's Python without its package python3-venv, which ends in this way.
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide/venv.py").write_text("import sys\nsys.exit('ensurepip is not available')\n")
    environ = {"PYTHONPATH": str(tmp_path / "hide"), "OFFLOAD_CACHE": str(tmp_path / "cache")}
    error = run(tmp_path, "1", pip=["offload-nowhere"], environ=environ).result.error
    assert isinstance(error, JobFailed)
    assert "no virtual environment could be made" in error.message
    assert "ensurepip is not available" in error.message
    assert "python3-venv" in error.hint


# -- without IPython


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """This Python in an environment without any package."""
    folder = tmp_path_factory.mktemp("bare")
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", folder], check=True)
    return str(folder / "bin/python")


def test_rich_display_without_ipython(tmp_path: Path, bare: str) -> None:
    source = """
    class Rich:
        def _repr_html_(self): return "<b>rich</b>"
        def _repr_png_(self): return b"png"
        def _repr_latex_(self): return None
        def __repr__(self): return "Rich()"
    class Bundle:
        def _repr_mimebundle_(self, include=None, exclude=None): return {"text/plain": "B"}, {"text/plain": {"a": 1}}
    display(Rich(), Bundle())
    display({"application/x": {"deep": [1]}}, raw=True)
    Rich
    """
    done = run(tmp_path, textwrap.dedent(source), interpreter=bare)
    assert done.result.error is None, done.result.error
    assert done.result.facts["ipython"] is None
    assert [(output["data"], output["metadata"]) for output in done.result.outputs] == [
        ({"text/html": "<b>rich</b>", "image/png": "cG5n", "text/plain": "Rich()"}, {}),
        ({"text/plain": "B"}, {"text/plain": {"a": 1}}),
        ({"application/x": {"deep": [1]}}, {}),
        ({"text/plain": "<class '__main__.Rich'>"}, {}),
    ]


def test_a_magic_without_ipython_is_a_syntax_error(tmp_path: Path, bare: str) -> None:
    error = run(tmp_path, "%time 1", interpreter=bare).result.error
    assert error.ename == "SyntaxError"
    assert "IPython" in error.hint


def test_no_numpy_there(tmp_path: Path, bare: str) -> None:
    import numpy as np

    error = run(tmp_path, "1", values={"x": np.zeros(3)}, interpreter=bare).result.error
    assert type(error).__name__ == "MissingRemotePackage"
    assert "x (a ndarray) cannot be opened" in error.message
    assert error.module == "numpy"
