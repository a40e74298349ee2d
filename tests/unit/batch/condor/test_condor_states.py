"""The state mapper on real job ads (`golden-ads.jsonl`, one schedd of HTCondor 25.14) and on their combinations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_offload.batch.base import Handle, Status
from jupyter_offload.batch.condor import states
from jupyter_offload.batch.condor.holds import hold_words, vacate_words
from jupyter_offload.job import State

HANDLE = Handle("ap#12.0", "a" * 32, 0, "b", "/nowhere")
STAMPS = {
    "ClusterId": 12,
    "ProcId": 0,
    "OffloadJob": "a" * 32,
    "OffloadAttempt": "b",
    "OffloadIndex": 0,
    "SUBMIT_Iwd": "/nowhere/task-0",
}


def _golden() -> dict[str, dict[str, Any]]:
    ads = {}
    for line in (Path(__file__).parent / "golden-ads.jsonl").read_text().splitlines():
        ad = json.loads(line)
        # The worker leaves out what is undefined.
        ads[f"{ad['case']}/{ad['src']}"] = {key: value for key, value in ad.items() if value != "<undefined>"}
    return ads


GOLDEN = _golden()
EXPECTED: dict[str, tuple[State, str, int, int | None, int | None, str]] = {
    # case: state, error, attempts, exit code, signal, a piece of the reason
    "RUNNING(example)/queue": (State.RUNNING, "", 1, None, None, ""),
    "user_rm_running (+0.0)/queue": (State.CANCELLING, "", 1, None, None, "user said so"),
    "user_rm_running/history": (State.CANCELLED, "JobCancelled", 1, None, 15, "user said so"),
    "user_hold/queue": (State.HELD, "JobHeld", 1, None, None, "hold text (by user alice)"),
    "vacate_rerun/queue": (State.RUNNING, "", 2, None, None, ""),
    "user_released/queue": (State.RUNNING, "", 2, None, None, ""),
    "exit0/queue": (State.FINISHING, "", 1, 0, None, ""),
    "exit3/queue": (State.FINISHING, "", 1, 3, None, ""),
    "sig9/queue": (State.FINISHING, "", 1, None, 9, "signal 9"),
    "segv/queue": (State.FINISHING, "", 1, None, 11, "signal 11"),
    "badinterp/queue": (State.FINISHING, "JobFailed", 1, None, None, "invalid interpreter"),
    "missing_output/queue": (State.FINISHING, "JobFailed", 1, None, None, "could not be transferred"),
    "missing_output_exit3/queue": (State.FINISHING, "JobFailed", 1, None, None, "could not be transferred"),
    "allowed_execute_duration/queue": (State.FINISHING, "TimeExceeded", 1, None, 15, "00:03"),
    "allowed_job_duration/queue": (State.FINISHING, "TimeExceeded", 1, None, 15, "00:03"),
    "max_retries2/queue": (State.FINISHING, "", 3, 5, None, ""),
    "memory_no_policy/queue": (State.FINISHING, "", 1, 0, None, ""),
    "bad_url_input/queue": (State.RUNNING, "", 1, None, None, ""),
    "no_match/queue": (State.QUEUED, "", 0, None, None, "waiting for a slot"),
    "disk/queue": (State.FINISHING, "", 1, 0, None, ""),
    # Its HoldReasonCode is still 16, from before the schedd was killed.
    "schedd_kill9/queue": (State.FINISHING, "", 1, 0, None, ""),
    "ap_container_restart/queue": (State.FINISHING, "", 1, 0, None, ""),
    "ep_killed/queue": (State.QUEUED, "", 1, None, None, "contact with the worker node was lost"),
}


def _status(ad: dict[str, Any], **options: Any) -> Status:
    return states.status(HANDLE, {**STAMPS, **ad}, **options)


def test_every_golden_ad_has_an_expectation() -> None:
    assert set(GOLDEN) == set(EXPECTED)


@pytest.mark.parametrize("case", EXPECTED)
def test_golden(case: str) -> None:
    ad = GOLDEN[case]
    state, error, attempts, exit_code, signal, reason = EXPECTED[case]
    status = _status(ad, history=ad["src"] == "history")
    assert (status.state, status.error, status.attempts) == (state, error, attempts)
    assert (status.exit_code, status.signal) == (exit_code, signal)
    assert reason in status.reason
    assert bool(reason) == bool(status.reason)
    if error:
        assert status.hint


MEMORY = {"JobStatus": 5, "NumShadowStarts": 1, "HoldReasonSubCode": 102, "HoldReason": "Error from slot1: too much"}


@pytest.mark.parametrize("code", [21, 34])
def test_memory_is_held_by_the_execute_node_or_by_cgroups(code: int) -> None:
    status = _status({**MEMORY, "HoldReasonCode": code})
    assert (status.state, status.error) == (State.FINISHING, "MemoryExceeded")
    assert "--memory" in status.hint
    assert "too much" in status.reason


def test_an_execute_nodes_other_hold_is_the_sites() -> None:
    status = _status({**MEMORY, "HoldReasonCode": 21, "HoldReasonSubCode": 3})
    assert (status.state, status.error) == (State.HELD, "JobHeld")


@pytest.mark.parametrize(
    ("ad", "runnable"),
    [
        ({"HoldReasonCode": 16}, False),
        ({"HoldReasonCode": 15}, False),
        ({"StageInFinish": 5}, False),
        ({"HoldReasonCode": 16, "StageInFinish": 5, "JobStatusOnRelease": 5}, False),
        ({"HoldReasonCode": 16, "JobStatusOnRelease": 1}, False),
        ({"HoldReasonCode": 1, "StageInFinish": 5}, True),
        ({"HoldReasonCode": 1, "NumShadowStarts": 1}, True),
        ({"JobStatus": 1}, True),
        ({"JobStatus": 4, "HoldReasonCode": 16}, True),
    ],
)
def test_what_was_never_started_is_not_runnable(ad: dict[str, Any], runnable: bool) -> None:
    full = {**STAMPS, "JobStatus": 5, **ad}
    found = states.found(full, "ap", skew=0.0, history=False, spool=True)
    assert found.runnable is runnable
    assert found.status.handle == HANDLE
    assert (found.status.state is State.PREPARING) is (not runnable)


def test_attempts_are_shadow_starts_without_reconnects() -> None:
    ad = {"JobStatus": 2, "NumJobStarts": 0, "NumShadowStarts": 5, "NumJobReconnects": 3}
    assert _status(ad).attempts == 2


def test_times_are_on_our_clock() -> None:
    ad = {"JobStatus": 4, "ExitCode": 0, "NumShadowStarts": 1, "JobCurrentStartDate": 1000, "CompletionDate": 1010}
    status = _status(ad, skew=300.0)
    assert (status.started, status.finished) == (700.0, 710.0)


def test_a_lost_node_is_said_while_the_job_is_still_called_running() -> None:
    status = _status({"JobStatus": 2, "NumShadowStarts": 1, "JobDisconnectedDate": 5})
    assert status.state is State.RUNNING
    assert "reconnect" in status.reason


def test_no_rerun_ends_with_an_eviction() -> None:
    evicted = {"JobStatus": 1, "NumShadowStarts": 1, "VacateReasonCode": 1013}
    assert _status({**evicted, "OffloadRerun": True}).state is State.QUEUED
    status = _status({**evicted, "OffloadRerun": False})
    assert (status.state, status.error) == (State.FAILED, "JobFailed")
    assert "shut down" in status.reason


def test_what_left_the_queue_unfetched_has_failed_unless_its_result_is_here(tmp_path: Path) -> None:
    ad = {**STAMPS, "JobStatus": 3, "NumJobCompletions": 1, "ExitCode": 0, "NumShadowStarts": 1}
    handle = Handle("ap#12.0", "a" * 32, 0, "b", str(tmp_path))
    assert states.status(handle, ad, history=True).error == "ResultUnavailable"
    assert states.status(handle, ad, history=True, spool=False).state is State.FINISHING
    (tmp_path / "task-0").mkdir()
    (tmp_path / "task-0" / "output.tar").touch()
    status = states.status(handle, ad, history=True)
    assert (status.state, status.exit_code) == (State.FINISHING, 0)


@pytest.mark.parametrize(
    ("code", "subcode", "done", "waited", "expected"),
    [
        (11, 0, 0, 31, True),
        (11, 0, 0, 29, False),
        (11, 0, 1, 121, True),
        (11, 0, 1, 119, False),
        (11, 0, 2, 9999, False),
        (13, 62, 0, 31, True),
        (13, 2, 0, 31, False),
        (6, 12, 0, 31, True),
        (1, 0, 0, 9999, False),
        (34, 102, 0, 9999, False),
        (4, 0, 0, 9999, False),
    ],
)
def test_passing_faults_are_released_twice_with_a_pause(
    code: int, subcode: int, done: int, waited: int, expected: bool
) -> None:
    ad = {
        "JobStatus": 5,
        "HoldReasonCode": code,
        "HoldReasonSubCode": subcode,
        "NumShadowStarts": 1,
        "OffloadReleases": done,
        "EnteredCurrentStatus": 1000,
    }
    assert states.releasable(ad, 1000 + waited) is expected


MANUAL = [*range(1, 28), 32, 33, 34, 35, 36, 43, 44, 45, 46, 47, 48]


@pytest.mark.parametrize("code", [code for code in MANUAL if code != 2])
def test_every_hold_code_of_the_manual_has_words_and_a_way_out(code: int) -> None:
    words = hold_words(code, 0)
    assert f"code {code}" not in words.words
    if code not in (15, 16):
        assert words.hint
        assert words.error


def test_unknown_codes_show_the_sites_own_text() -> None:
    assert hold_words(999, None).kind == "site"
    assert hold_words(999, None).hint
    assert vacate_words(4242, "own words") == "own words"
    assert vacate_words(None) == "an eviction"


@pytest.mark.parametrize("code", range(1000, 1037))
def test_every_vacate_code_has_words(code: int) -> None:
    assert "code" not in vacate_words(code)


@given(
    st.fixed_dictionaries(
        {"JobStatus": st.integers(1, 7)},
        optional={
            "HoldReasonCode": st.integers(0, 60),
            "HoldReasonSubCode": st.integers(-2000, 2000),
            "HoldReason": st.text(),
            "NumShadowStarts": st.integers(0, 9),
            "NumJobReconnects": st.integers(0, 9),
            "NumJobCompletions": st.integers(0, 3),
            "ExitBySignal": st.booleans(),
            "ExitCode": st.integers(0, 255),
            "ExitSignal": st.integers(1, 64),
            "JobStatusOnRelease": st.sampled_from([1, 5]),
            "StageInFinish": st.integers(1, 9),
            "EnteredCurrentStatus": st.integers(0, 9),
            "OffloadRerun": st.booleans(),
            "VacateReasonCode": st.integers(0, 1100),
        },
    ),
    st.booleans(),
    st.booleans(),
)
def test_any_ad_gives_one_consistent_status(ad: dict[str, Any], history: bool, spool: bool) -> None:
    status = _status(ad, history=history, spool=spool)
    assert status.attempts >= 0
    assert status.exit_code is None or status.signal is None
    if status.state in (State.QUEUED, State.RUNNING, State.PREPARING):
        assert status.finished is None
        assert status.exit_code is None
    if status.state in (State.FAILED, State.CANCELLED):
        assert status.error
        assert status.reason
