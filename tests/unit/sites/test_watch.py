"""The pace of looking and what the watcher yields."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from jupyter_offload.errors import SiteUnreachable
from jupyter_offload.job import State
from jupyter_offload.sites import watch
from jupyter_offload.sites.base import SiteHandle, TaskStatus


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_pause_follows_the_waiting_and_stays_in_bounds():
    clock = Clock()
    pace = watch.Pace(clock, random.Random(1))
    for waited, low, high in [(0, 0.08, 0.12), (2, 0.16, 0.24), (30, 2.4, 3.6), (10_000, 4.0, 6.0)]:
        clock.now = 100.0 + waited
        assert all(low <= pace.pause_seconds() <= high for _ in range(50))
    pace.changed()
    assert pace.pause_seconds() <= 0.12


async def test_only_changes_are_yielded(monkeypatch):
    monkeypatch.setattr(watch, "SHORTEST_SECONDS", 0.001)
    handle = SiteHandle("j", 0, "a", "1", "/f")
    states = iter([State.QUEUED, State.QUEUED, State.RUNNING])
    looks = 0

    async def look(handles: Sequence[SiteHandle]) -> list[TaskStatus]:
        nonlocal looks
        looks += 1
        assert handles == [handle]
        return [TaskStatus(handle, next(states))]

    stream = watch.poll(look, lambda: [handle], watch.Pace(Clock(), random.Random(1)))
    seen = [await anext(stream) for _ in range(3)]
    assert [[status.state for status in batch] for batch in seen] == [[State.QUEUED], [], [State.RUNNING]]
    assert looks == 3


async def test_nothing_active_asks_nothing_and_errors_reach_the_caller(monkeypatch):
    monkeypatch.setattr(watch, "SHORTEST_SECONDS", 0.001)
    active: list[SiteHandle] = []

    async def look(handles: Sequence[SiteHandle]) -> list[TaskStatus]:
        raise SiteUnreachable("away")

    stream = watch.poll(look, lambda: active, watch.Pace(Clock(), random.Random(1)))
    assert await anext(stream) == []
    active.append(SiteHandle("j", 0, "a", "1", "/f"))
    with pytest.raises(SiteUnreachable):
        await anext(stream)


async def test_a_change_ends_a_long_pause():
    clock = Clock()
    pace = watch.Pace(clock, random.Random(1))
    clock.now += 1000
    waiting = asyncio.create_task(pace.pause())
    await asyncio.sleep(0)
    pace.changed()
    await asyncio.wait_for(waiting, 1)


async def test_a_pause_without_news_ends_by_itself(monkeypatch):
    monkeypatch.setattr(watch, "SHORTEST_SECONDS", 0.01)
    await asyncio.wait_for(watch.Pace(Clock(), random.Random(1)).pause(), 1)
