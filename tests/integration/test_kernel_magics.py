"""The magics in IPython itself (no kernel), with a real service: line commands, results again, what cannot be."""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from parts.notebook import Home

from jupyter_offload.errors import MissingRemotePackage, OffloadError, ResultUnavailable, UnknownName, UsageError
from jupyter_offload.kernel import session as sessions


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    patch = pytest.MonkeyPatch()
    for key in [key for key in os.environ if key.startswith("OFFLOAD_")]:
        patch.delenv(key)
    for key, value in home.environ.items():
        patch.setenv(key, value)
    patch.setattr(sessions, "_sessions", {})
    patch.chdir(home.folder)
    yield home
    home.end_service()
    patch.undo()


@pytest.fixture(scope="module")
def shell(home: Home) -> Iterator[InteractiveShell]:
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "jupyter_offload")
    yield shell
    shell.run_line_magic("unload_ext", "jupyter_offload")
    atexit.unregister(shell.atexit_operations)
    shell.atexit_operations()
    InteractiveShell.clear_instance()


def run(shell: InteractiveShell, source: str) -> None:
    done = shell.run_cell(source)
    error = done.error_in_exec or done.error_before_exec
    if error is not None:
        raise error


def test_a_cell_its_log_and_its_result_again(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%%offload -i none -o a,b --name first\nprint('said')\na, b = 1, [2]\n6 * 7")
    out = capsys.readouterr().out
    assert "said" in out
    assert "42" in out
    assert (shell.user_ns["a"], shell.user_ns["b"]) == (1, [2])
    shell.user_ns.pop("a")
    run(shell, "%offload result first")
    out = capsys.readouterr().out
    assert "said" in out
    assert "a (int), b (list) returned from first-" in out
    assert shell.user_ns["a"] == 1
    run(shell, "%offload logs first")
    assert capsys.readouterr().out == "said\n"
    run(shell, "%offload logs -f first")
    assert capsys.readouterr().out == "said\n"


def test_jobs_and_sites_are_listed(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%offload")
    assert "first-" in capsys.readouterr().out
    run(shell, "%offload sites")
    assert "local (default)" in capsys.readouterr().out
    run(shell, "%offload show first")
    assert "succeeded" in capsys.readouterr().out


def test_a_command_is_given_its_words_literally(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%offload run --wait --name words -- printf '%s|' 'a b' \"$HOME\" '{x}' '*' '`id`'")
    assert "a b|$HOME|{x}|*|`id`|" in capsys.readouterr().out


def test_deleting_and_cleaning(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%offload run --wait --name gone -- true")
    run(shell, "%offload delete gone")
    with pytest.raises(UnknownName):
        run(shell, "%offload show gone")
    capsys.readouterr()
    run(shell, "%offload clean --older-than 1000d --dry-run")
    assert "would remove 0 jobs" in capsys.readouterr().out


def test_a_notebook_that_fails_comes_back_as_far_as_it_went(shell: InteractiveShell, home: Home) -> None:
    cells = [
        {
            "cell_type": "code",
            "id": f"c{place}",
            "metadata": {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for place, source in enumerate(["print(n)", "1 / 0", "print('never')"])
    ]
    Path("bad.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    with pytest.raises(OffloadError, match="cell 2 of 3"):
        run(shell, "%offload run bad.ipynb --wait -p n=5 -o out.ipynb")
    done = json.loads(Path("out.ipynb").read_text())["cells"]
    assert done[0]["outputs"][0]["text"] == "5\n"
    assert done[1]["outputs"][0]["ename"] == "ZeroDivisionError"
    assert done[2]["outputs"] == []


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ("%offload lst", UnknownName, "list"),
        ("%offload show", UsageError, "which job"),
        ("%offload show nothing-0000", UnknownName, "nothing-0000"),
        ("%offload --cpus 2", UsageError, "%%offload"),
        ("%offload run", UsageError, "notebook"),
        ("%offload run train.py", UsageError, "-- train.py"),
        ("%offload run a.ipynb -- x", UsageError, "either"),
        ("%offload run missing.ipynb", UsageError, "missing.ipynb"),
        ("%offload run --no-such -- x", UnknownName, "--no-such"),
        ("%%offload\n  \n", UsageError, "empty"),
        ("%%offload\nx = = 1", OffloadError, "line 1"),
    ],
)
def test_mistakes(shell: InteractiveShell, line: str, kind: type[OffloadError], says: str) -> None:
    with pytest.raises(kind) as caught:
        run(shell, line)
    assert says in str(caught.value)
    assert caught.value.hint


def test_a_missing_package_and_a_missing_name_are_told(shell: InteractiveShell) -> None:
    with pytest.raises(MissingRemotePackage, match="no_such_package"):
        run(shell, "%%offload --wait\nimport no_such_package")
    with pytest.raises(ResultUnavailable, match="nowhere"):
        run(shell, "%%offload -o nowhere\nx = 1")


def test_help(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    for line, words in (
        ("%%offload --help\npass", ["--cpus", "--no-rerun", "--secret"]),
        ("%offload help", ["doctor", "result", "--no-rerun"]),
        ("%offload run --help", ["train.py"]),
        ("%offload logs --help", ["--follow"]),
    ):
        run(shell, line)
        out = capsys.readouterr().out
        for word in words:
            assert word in out
