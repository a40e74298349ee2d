"""Records: exact inverses, ids, states."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_offload.errors import UnknownName, UsageError
from jupyter_offload.job import (
    TERMINAL,
    Job,
    Kind,
    Request,
    Resources,
    Shipment,
    State,
    Task,
    check_name,
    derive_state,
    new_id,
    resolve_id,
    short_ids,
    transition_allowed,
)


def job(job_id: str, name: str = "svm", **values) -> Job:
    return Job(Request(job_id, name, Kind.CELL), owner="alice", site="local", **values)


def test_a_record_survives_json():
    record = Job(
        Request(
            new_id(), "svm", Kind.COMMAND, site="pool", resources=Resources(cpus="500m", gpus=2, gpu_model="A100", time_seconds=60),
            command=("python", "a b.py"), env={"B": "x y"}, fetch=("*.png",), ships=(Shipment("X", "value", "ndarray", 12),), fingerprint="f", created=1.5,
        ),
        owner="alice", site="pool", tasks=(Task(0, State.HELD, "why", "how", 2, error={"error": "JobHeld"}), Task(1)), notes=("n",), files=("a",),
    )  # fmt: skip
    data = json.loads(json.dumps(record.to_json()))
    assert Job.from_json(data) == record
    assert (data["state"], data["name"]) == ("preparing", "svm")


def test_unknown_keys_are_refused():
    data = job(new_id()).to_json()
    with pytest.raises(UsageError, match="unknown key 'colour'"):
        Job.from_json({**data, "colour": "red"})


def test_ids_are_shown_by_their_shortest_unique_prefix():
    one, two, three = job("abcd1" + "0" * 27), job("abcd2" + "0" * 27), job("ffff" + "0" * 28, "fit")
    assert set(short_ids([one, two, three]).values()) == {"svm-abcd1", "svm-abcd2", "fit-ffff"}
    assert resolve_id("svm-abcd1", [one, two, three]) is one
    assert resolve_id("ff", [one, two, three]) is three
    assert resolve_id("fit", [one, two, three]) is three
    with pytest.raises(UnknownName, match="could be any of 2"):
        resolve_id("svm", [one, two, three])
    with pytest.raises(UnknownName, match="no job"):
        resolve_id("fit-0", [one, two, three])


@given(st.lists(st.uuids(version=4), min_size=1, max_size=40, unique=True))
def test_every_shown_id_is_accepted_again(uuids):
    jobs = [job(uuid.hex) for uuid in uuids]
    for job_id, shown in short_ids(jobs).items():
        assert resolve_id(shown, jobs).id == job_id


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a" * 41, "a b", "a\n", "ä"])
def test_bad_names_are_refused(name):
    with pytest.raises(UsageError, match="is not a job name"):
        check_name(name)


def test_states():
    assert derive_state([State.SUCCEEDED, State.RUNNING, State.FAILED]) is State.RUNNING
    assert derive_state([State.SUCCEEDED, State.FAILED, State.CANCELLED]) is State.FAILED
    assert derive_state([State.SUCCEEDED, State.SUCCEEDED]) is State.SUCCEEDED
    assert derive_state([State.HELD, State.QUEUED]) is State.QUEUED
    assert transition_allowed(State.RUNNING, State.QUEUED)
    assert transition_allowed(State.LOST, State.RUNNING)
    for ended in TERMINAL - {State.LOST}:
        assert not any(transition_allowed(ended, state) for state in State if state is not ended)
    assert not any(transition_allowed(state, State.PREPARING) for state in State if state is not State.PREPARING)


def test_reason_and_hint_come_from_the_deciding_task():
    record = job(
        new_id(), tasks=(Task(0, State.SUCCEEDED, "fine"), Task(1, State.FAILED, "exit code 3", "read the log"))
    )
    assert (record.reason, record.hint) == ("exit code 3", "read the log")
    assert dataclasses.replace(record, tasks=(Task(0),)).reason == ""
