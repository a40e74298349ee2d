"""Jobs that have left the queue are found in the history, however many there are and whatever else lies between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from jupyter_offload.batch.base import Handle
from jupyter_offload.batch.condor.batch import CondorBatch
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.job import State

classad2 = pytest.importorskip("classad2")


async def test_others_between_them_do_not_use_up_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ad(cluster: int, job: str) -> dict[str, object]:
        stamps = {"OffloadJob": job, "OffloadAttempt": "a", "OffloadIndex": 0}
        return {"ClusterId": cluster, "ProcId": 0, "JobStatus": 4, "ExitCode": 0, "ExitBySignal": False, **stamps}

    ours = [ad(cluster, f"{cluster:032x}") for cluster in range(0, 1000, 2)]
    theirs = [ad(cluster, "f" * 32) for cluster in range(1, 1000, 2)]
    newest_first = sorted(ours + theirs, key=lambda one: -int(str(one["ClusterId"])))

    async def look(constraint: str, projection: Sequence[str], each: Callable[[Mapping[str, object]], None]) -> None:
        pass  # the queue is empty

    async def history(constraint: str, projection: Sequence[str], match: int) -> list[Mapping[str, object]]:
        wanted = classad2.ExprTree(constraint)
        return [one for one in newest_first if wanted.eval(classad2.ClassAd(one)) is True][:match]

    batch = CondorBatch(CondorConfig(collector="cm:9618", schedd="ap"), environ={})
    monkeypatch.setattr(batch.schedd, "look", look)
    monkeypatch.setattr(batch.schedd, "history", history)
    handles = [Handle(f"ap#{one['ClusterId']}.0", str(one["OffloadJob"]), 0, "a", str(tmp_path)) for one in ours]
    try:
        statuses = await batch.poll(handles)
    finally:
        await batch.close()
    assert [status.handle for status in statuses] == handles
    assert State.LOST not in {status.state for status in statuses}
