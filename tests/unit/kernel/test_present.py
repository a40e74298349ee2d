from __future__ import annotations

import pickle

import pytest

from jupyter_offload import options
from jupyter_offload.errors import JobFailed, MissingRemotePackage, RemoteError, UnknownName
from jupyter_offload.job import Job as Record
from jupyter_offload.job import Kind, Request
from jupyter_offload.kernel.future import CancelledJob, Job, still_running
from jupyter_offload.kernel.present import presentable


def shown(error: Exception) -> str:
    return "\n".join(error._render_traceback_())  # type: ignore[attr-defined]


def test_a_remote_error_is_its_remote_traceback_and_a_hint() -> None:
    error = RemoteError("ZeroDivisionError: division by zero", hint="mend it", traceback="File cell, line 2\n1/0")
    text = shown(presentable(error))
    assert "line 2" in text
    assert "mend it" in text
    assert "RemoteError" not in text
    assert "coloured" in shown(presentable(error, ["coloured"]))


def test_a_missing_package_is_named_as_well() -> None:
    text = shown(presentable(MissingRemotePackage("the package x is not there", hint="--pip x", traceback="T")))
    assert "the package x is not there" in text
    assert "--pip x" in text


def test_a_job_that_was_ended_shows_no_traceback() -> None:
    assert "KeyboardInterrupt" not in shown(presentable(JobFailed("ended", hint="h", traceback="KeyboardInterrupt")))


def test_mistakes_show_the_users_line_and_none_of_ours() -> None:
    with pytest.raises(UnknownName) as caught:
        options(memroy="1GiB")
    text = shown(caught.value)
    assert 'options(memroy="1GiB")' in text
    assert "make_options" not in text
    assert pickle.loads(pickle.dumps(caught.value)).message == caught.value.message


def test_a_cancelled_job_is_both_errors() -> None:
    assert CancelledJob("gone").to_json()["error"] == "JobCancelled"


def test_what_an_interrupt_says() -> None:
    job = Job(Record(Request(id="7f3a" + "0" * 28, name="svm", kind=Kind.CELL), "me", "local"), None)  # type: ignore[arg-type]
    assert "%offload cancel svm-7f3a" in still_running(job)
    assert "goes on" in still_running(job)
