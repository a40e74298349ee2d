"""Constraints for jobs, group commit, and the spooling of many into few."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_offload.batch.base import Handle
from jupyter_offload.batch.condor import selection
from jupyter_offload.batch.condor.coalesce import Coalescer
from jupyter_offload.errors import BatchNotFound

JOB = "a" * 32


def _handle(cluster: int, proc: int, job: str = JOB) -> Handle:
    return Handle(f"ap#{cluster}.{proc}", job, proc, "b", "/f")


def _holds(constraint: str, cluster: int, proc: int, job: str) -> bool:
    classad2 = pytest.importorskip("classad2")
    ad = classad2.ClassAd({"ClusterId": cluster, "ProcId": proc, "OffloadJob": job})
    expression = classad2.ExprTree(constraint)
    return bool(expression.eval(ad) is True)


_IDS = st.sets(st.tuples(st.integers(1, 400), st.integers(0, 5)), min_size=1, max_size=300)


@given(_IDS, _IDS)
def test_an_action_meets_exactly_what_it_names(chosen: set[tuple[int, int]], others: set[tuple[int, int]]) -> None:
    constraints = selection.exactly([_handle(*one) for one in chosen])
    for cluster, proc in list(chosen)[:20] + list(others)[:20]:
        met = [_holds(constraint, cluster, proc, JOB) for constraint in constraints]
        assert sum(met) == ((cluster, proc) in chosen)
        assert not any(_holds(constraint, cluster, proc, "c" * 32) for constraint in constraints)


@given(_IDS)
def test_a_look_meets_at_least_what_it_names(chosen: set[tuple[int, int]]) -> None:
    constraint = selection.by_handles([_handle(*one) for one in chosen])
    assert all(_holds(constraint, cluster, proc, JOB) for cluster, proc in list(chosen)[:30])
    assert len(constraint) < 20_000


def test_many_jobs_in_one_cluster_are_one_short_range() -> None:
    constraint = selection.by_handles([_handle(7, proc, f"{proc:032x}") for proc in range(1000)])
    assert len(constraint) < 150
    assert _holds(constraint, 7, 999, "x")
    assert not _holds(constraint, 7, 1000, "x")


def test_strange_handles_name_nothing() -> None:
    strange = [
        Handle("", JOB, 0, "b", "/f"),
        Handle("1.0", 'x" || true', 0, "b", "/f"),
        Handle("local:5", JOB, 0, "", ""),
    ]
    assert selection.exactly(strange) == []
    assert selection.known(strange) == []
    for handle in strange:
        assert selection.key(handle)
    with pytest.raises(BatchNotFound):
        selection.by_jobs(['x" || true'])


async def test_callers_that_come_while_a_call_is_under_way_share_the_next() -> None:
    rounds: list[list[int]] = []
    gate = asyncio.Event()

    async def run(items: Sequence[int]) -> list[int | Exception]:
        rounds.append(list(items))
        if len(rounds) == 1:
            await gate.wait()
        return [ValueError(str(item)) if item == 13 else item * 2 for item in items]

    coalescer: Coalescer[int, int] = Coalescer(run)
    first = asyncio.create_task(coalescer(1))
    while not rounds:
        await asyncio.sleep(0)
    others = [asyncio.create_task(coalescer(number)) for number in range(10, 20)]
    given_up = asyncio.create_task(coalescer(99))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.sleep(0)
    gate.set()
    assert await first == 2
    answers = await asyncio.gather(*others, return_exceptions=True)
    assert rounds == [[1], list(range(10, 20))]
    assert answers[0] == 20
    assert isinstance(answers[3], ValueError)
    assert coalescer.rounds == 2


async def test_a_failed_round_fails_its_callers_only() -> None:
    calls = 0

    async def run(items: Sequence[int]) -> list[int | Exception]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("broken")
        return list(items)

    coalescer: Coalescer[int, int] = Coalescer(run)
    answers = await asyncio.gather(coalescer(1), coalescer(2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [OSError, OSError]
    assert await coalescer(3) == 3
    await coalescer.close()
