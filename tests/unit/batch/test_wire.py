from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_offload.batch import base, wire
from jupyter_offload.batch.base import Batch, BatchInfo, Chunk, Fetched, Found, Handle, Status, Submission
from jupyter_offload.batch.wire import Client, Loopback, serve
from jupyter_offload.errors import BadSubmit, SiteUnreachable, UsageError
from jupyter_offload.job import State

HANDLE = Handle("7.0", "0" * 32, 0, "a", "/jobs/ä\n")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
HANDLES = st.builds(Handle, TEXT, TEXT, st.integers(0, 10**6), TEXT, TEXT)
STATUSES = st.builds(
    Status,
    HANDLES,
    st.sampled_from(State),
    reason=TEXT,
    hint=TEXT,
    error=TEXT,
    attempts=st.integers(0, 99),
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    host=st.none() | TEXT,
    started=st.none() | FLOATS,
    finished=st.none() | FLOATS,
)
DEMANDS = st.builds(
    base.Demand, st.integers(1, 9), gpu_model=st.none() | TEXT, time_seconds=st.none() | st.integers(1, 9)
)
SUBMISSIONS = st.builds(
    Submission,
    *[TEXT] * 6,
    inputs=st.lists(TEXT).map(tuple),
    task_inputs=st.lists(st.lists(TEXT).map(tuple)).map(tuple),
    tasks=st.integers(1, 10**5),
    demand=DEMANDS,
    rerun=st.booleans(),
    grace_seconds=st.integers(0, 999),
    expires=st.none() | FLOATS,
)
ANSWERS = {
    "submit": st.lists(st.lists(HANDLES)),
    "start": st.none(),
    "poll": st.lists(STATUSES),
    "read": st.builds(Chunk, st.binary(), st.integers(0), st.booleans()),
    "cancel": st.none(),
    "fetch": st.lists(st.builds(Fetched, HANDLES, st.none() | TEXT, st.none() | TEXT, st.none() | TEXT, TEXT)),
    "remove": st.none(),
    "find": st.lists(st.builds(Found, STATUSES, st.booleans())),
    "describe": st.builds(
        BatchInfo,
        TEXT,
        st.sampled_from(["live", "delayed", "at_end"]),
        gpus=st.lists(st.builds(base.GpuModel, TEXT, st.integers(), st.integers(), st.none(), st.none() | FLOATS)).map(
            tuple
        ),
        notes=st.lists(TEXT).map(tuple),
    ),
    "close": st.none(),
}
CALLS = {
    "submit": st.tuples(st.lists(SUBMISSIONS, max_size=3)),
    "start": st.tuples(st.lists(HANDLES)),
    "poll": st.tuples(st.lists(HANDLES)),
    "read": st.tuples(HANDLES, TEXT, st.integers(0), st.integers(0)),
    "cancel": st.tuples(st.lists(HANDLES), TEXT),
    "fetch": st.tuples(st.lists(HANDLES)),
    "remove": st.tuples(st.lists(HANDLES)),
    "find": st.tuples(st.lists(TEXT)),
    "describe": st.tuples(),
    "close": st.tuples(),
}


class Recorder:
    """Stands for a batch: says what it was asked, and answers what it is told (no real batch can be made to answer anything at will)."""

    def __init__(self, answer: object = None) -> None:
        self.answer = answer
        self.calls: list[tuple[str, dict[str, object]]] = []

    def __getattr__(self, name: str) -> Any:
        if name not in wire.METHODS:
            raise AttributeError(name)

        async def method(**arguments: object) -> object:
            self.calls.append((name, arguments))
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

        return method


def through(recorder: Recorder) -> Loopback:
    return Loopback(recorder)  # type: ignore[arg-type]


def test_the_table_is_the_seam() -> None:
    methods = {name for name, value in vars(Batch).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert set(wire.METHODS) == methods - {"_no_init_or_replace_init"}
    for name in wire.METHODS:
        seam, client = inspect.signature(getattr(Batch, name)), inspect.signature(getattr(Client, name))
        assert seam == client
        assert set(wire.METHODS[name][0].model_fields) == set(seam.parameters) - {"self"}
    assert isinstance(through(Recorder()), Batch)


@settings(max_examples=150, deadline=None)
@given(st.data())
async def test_any_call_and_any_answer_arrive_as_they_were(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(wire.METHODS)))
    arguments, answer = data.draw(CALLS[name]), data.draw(ANSWERS[name])
    recorder = Recorder(answer)
    assert await getattr(through(recorder), name)(*arguments) == answer
    names = [parameter for parameter in inspect.signature(getattr(Batch, name)).parameters if parameter != "self"]
    assert recorder.calls == [(name, dict(zip(names, arguments, strict=True)))]


async def test_an_error_keeps_its_type_its_hint_and_its_details() -> None:
    error = BadSubmit("no «such» thing\n", hint="Do this.", job_id="0" * 32, code=3)
    with pytest.raises(BadSubmit) as caught:
        await through(Recorder(error)).submit([])
    assert caught.value.to_json() == error.to_json()


async def test_a_fault_of_the_batch_itself_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        await through(Recorder(ZeroDivisionError())).start([])


def call(method: str, arguments: object) -> str:
    return json.dumps({"method": method, "arguments": arguments})


PLAIN = {"id": "", "job_id": "", "index": 0, "attempt": "", "folder": ""}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (call("explode", {}), "explode"),
        (call("__init__", {}), "__init__"),
        (call("describe", {"deep": True}), "deep"),
        (call("poll", {}), "handles"),
        (call("poll", {"handles": [{**PLAIN, "more": 1}]}), "handles.0.more"),
        (call("poll", {"handles": [{**PLAIN, "index": "0"}]}), "handles.0.index"),
        (call("poll", {"handles": [{**PLAIN, "index": 0.5}]}), "handles.0.index"),
        (call("poll", {"handles": PLAIN}), "handles"),
        (call("cancel", {"handles": [], "reason": None}), "reason"),
        (call("submit", {"submissions": [{"demand": {"cores": 2}}]}), "submissions.0"),
        ('{"method": "describe", "arguments": {}, "also": 1}', "also"),
        ('{"method": "describe"}', "arguments"),
        ("[]", "object"),
        ("describe", "JSON"),
        ("", "JSON"),
    ],
)
async def test_what_the_seam_does_not_have_is_refused_before_anything_is_called(text: str, named: str) -> None:
    recorder = Recorder()
    answer = json.loads(await serve(recorder, text))  # type: ignore[arg-type]
    assert set(answer) == {"error"}
    assert answer["error"]["error"] == UsageError.__name__
    assert named in answer["error"]["message"]
    assert answer["error"]["hint"]
    assert recorder.calls == []


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "null",
        "{}",
        '{"result": 3}',
        '{"result": [], "more": 1}',
        '{"result": [{"state": "running"}]}',
        '{"error": 1}',
    ],
)
async def test_an_answer_that_makes_no_sense_says_nothing_of_the_tasks(answer: str) -> None:
    async def carry(_call: str) -> str:
        return answer

    with pytest.raises(SiteUnreachable, match="cannot be read"):
        await Client(carry).poll([HANDLE])


async def test_a_state_that_this_version_does_not_know_is_refused() -> None:
    async def carry(_call: str) -> str:
        text = await serve(Recorder([Status(HANDLE, State.RUNNING)]), call("poll", {"handles": []}))  # type: ignore[arg-type]
        return text.replace("running", "dreaming")

    with pytest.raises(SiteUnreachable, match="state"):
        await Client(carry).poll([HANDLE])


async def test_bytes_travel_as_base64() -> None:
    recorder: Sequence[Any] = [Recorder(Chunk(b"\xfb\xff", 0))]
    text = await serve(recorder[0], call("read", {"handle": PLAIN, "file": "out", "offset": 0, "limit": 9}))
    assert json.loads(text) == {"result": {"data": "-_8=", "offset": 0, "end": False}}


def test_the_records_stay_plain() -> None:
    assert replace(HANDLE, index=1).index == 1
    assert Handle("a", "b", "not checked", "c", "d").index == "not checked"  # type: ignore[arg-type, comparison-overlap]
