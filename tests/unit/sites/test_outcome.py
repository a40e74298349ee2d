"""How a task ended: states, words and typed errors."""

from __future__ import annotations

import pytest

from jupyter_offload import errors
from jupyter_offload.batch.base import Handle, Status
from jupyter_offload.job import State
from jupyter_offload.sites.outcome import judge, read_status

HANDLE = Handle("1.0", "a" * 32, 0, "x", "/f")


def container(**values):
    return {
        "name": "main",
        "init": False,
        "state": "terminated",
        "exit_code": 0,
        "signal": None,
        "reason": "",
        **values,
    }


def failed(reason="", message="", **values):
    return {
        "format": 1,
        "phase": "Failed",
        "reason": reason,
        "message": message,
        "host": "wn1",
        "containers": [container(**values)],
    }


def test_success():
    verdict = judge(
        "j", {"phase": "Succeeded", "host": "wn1", "started": 1, "finished": 2.5, "containers": [container()]}, None, ""
    )
    assert (verdict.state, verdict.error, verdict.host, verdict.started, verdict.finished) == (
        State.SUCCEEDED,
        None,
        "wn1",
        1.0,
        2.5,
    )


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (failed(exit_code=3), errors.JobFailed, "exit code 3"),
        (failed(exit_code=137, signal=9), errors.JobFailed, "SIGKILL"),
        (failed("DeadlineExceeded", exit_code=143), errors.TimeExceeded, "longer than the requested time"),
        (failed("DiskFull"), errors.DiskExceeded, "disk was full"),
        (failed("CommandNotFound", exit_code=127), errors.JobFailed, "command was not found"),
        (failed("ImageNotFound", "no such file", exit_code=255), errors.JobFailed, "no such file"),
        (failed("RuntimeMissing", exit_code=127), errors.JobFailed, "no container runtime"),
        (failed(exit_code=1, reason="CommandNotFound"), errors.JobFailed, "command was not found"),
    ],
)
def test_failures_are_typed_and_have_hints(status, kind, words):
    verdict = judge("j", status, None, "")
    assert verdict.state is State.FAILED
    assert type(verdict.error) is kind
    assert words in verdict.error.message
    assert verdict.error.hint


def test_what_the_batch_system_says_goes_first():
    held = Status(
        HANDLE, State.FINISHING, "asked 1 GiB, used 1.2 GiB", "Ask for 2 GiB.", "MemoryExceeded", exit_code=137
    )
    verdict = judge("j", failed(exit_code=137, signal=9), held, "")
    assert isinstance(verdict.error, errors.MemoryExceeded)
    assert verdict.error.message == "asked 1 GiB, used 1.2 GiB"


def test_cancelled_wins_over_what_came_back():
    verdict = judge("j", {"phase": "Failed", "containers": []}, Status(HANDLE, State.CANCELLED, "removed by alice"), "")
    assert (verdict.state, verdict.reason) == (State.CANCELLED, "removed by alice")


@pytest.mark.parametrize(
    ("status", "words"), [({"exit_code": 7}, "exit code 7"), ({"signal": 11}, "SIGSEGV"), ({}, "exit code None")]
)
def test_without_a_status_file_the_scripts_own_end_is_told(status, words):
    verdict = judge("j", None, Status(HANDLE, State.FINISHING, **status), "no output.tar")
    assert verdict.state is State.FAILED
    assert words in verdict.reason
    assert "no output.tar" in verdict.reason


def test_an_unreadable_status_file_is_none(tmp_path):
    path = tmp_path / "status.json"
    assert read_status(path) is None
    for text in ("", "[]", '{"a": '):
        path.write_text(text)
        assert read_status(path) is None
