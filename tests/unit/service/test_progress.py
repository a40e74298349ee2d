"""Progress that the runner reports, among bytes that are the user's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts.submissions import bundle

from jupyter_offload.job import Kind, Request, State, new_id
from jupyter_offload.service import progress as module
from jupyter_offload.service.progress import latest


def test_the_last_whole_report_counts():
    first = b'\x1e{"offload":"progress","done":1,"total":3,"label":"cell 2 of 3"}\n'
    assert latest(b"text" + first + b"more\n") == {"done": 1, "total": 3, "label": "cell 2 of 3"}
    second = first.replace(b'"done":1', b'"done":2')
    assert latest(first + b"x" + second)["done"] == 2
    assert latest(first + second[:-1])["done"] == 1  # cut off: not yet
    assert latest(b'\x1e{"offload":"result"}\n') is None


@pytest.mark.parametrize(
    "line",
    [b"\x1e\n", b"\x1e{\n", b"\x1e[]\n", b'\x1e{"offload":1}\n', b'\x1e{"offload":"progress","done":"x","label":5}\n'],
)
def test_what_is_none_does_no_harm(line):
    assert not latest(line)


@given(st.binary())
def test_any_bytes_are_survived(data):
    latest(data)
    latest(b"\x1e" + data + b"\n")


async def test_a_notebooks_progress_is_looked_at_though_nobody_reads(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    await bench.restart()
    request = Request(new_id(), "nb", Kind.NOTEBOOK, python="3.11")
    await bench.service.submit("ann", request.id, bundle(tmp_path, request, "{}"))
    await bench.until(request.id, State.QUEUED)
    bench.site.set(request.id, State.RUNNING)
    entry = bench.site.of(request.id)[0]
    entry.log = b'\x1e{"offload":"progress","done":1,"total":3,"la'
    await bench.until(request.id, State.RUNNING)
    entry.log += b'bel":"cell 2 of 3"}\n'
    job = await bench.when(request.id, lambda job: job.tasks[0].progress is not None)
    assert job.tasks[0].progress == {"done": 1, "total": 3, "label": "cell 2 of 3"}
    entry.log += b'text\n\x1e{"offload":"progress","done":2,"total":3,"label":"cell 3 of 3"}\n'
    await bench.when(request.id, lambda job: job.tasks[0].progress["done"] == 2)
    bench.site.finish(request.id)
    assert (await bench.until(request.id)).tasks[0].progress is None
