from __future__ import annotations

from pathlib import Path

from parts.running import run

from jupyter_offload.errors import RemoteError


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
