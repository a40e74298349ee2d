"""The lease: one holder, whatever clocks and file systems say."""

from __future__ import annotations

import asyncio
import json

import pytest

from jupyter_offload.service import lease as module
from jupyter_offload.service.connection import Connection
from jupyter_offload.service.folders import Folders
from jupyter_offload.service.lease import Lease


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.04)


def made(tmp_path, **options):
    return Lease(Folders(tmp_path), watch_seconds=0.2, **options)


async def test_one_holds_it_and_the_next_gets_it_when_it_is_released(tmp_path):
    first, second = made(tmp_path), made(tmp_path)
    assert await first.acquire()
    first.publish("http://a", "t", "1")
    assert not await second.acquire()
    assert second.holder().url == "http://a"
    first.release()
    assert second.holder() is None
    assert await second.acquire()
    second.release()


async def test_a_dead_holder_of_this_host_is_not_waited_for(tmp_path):
    first, second = made(tmp_path), made(tmp_path)
    await first.acquire()
    first.publish("http://a", "t", "1")
    first._unlock()  # as the kernel does when it dies
    begun = asyncio.get_running_loop().time()
    assert await second.acquire()
    assert asyncio.get_running_loop().time() - begun < 2
    second.release()


async def test_where_locks_do_not_reach_the_other_host_its_heartbeat_decides(tmp_path):
    other = made(tmp_path, host="other")
    await other.acquire()
    other.publish("http://other", "t", "1")
    other._lock_path.unlink()  # this host does not see the other one's lock

    async def beat():
        while True:
            other._write(other._mine)
            other._mine = module.replace(other._mine, counter=other._mine.counter + 1)
            await asyncio.sleep(0.03)

    beating = asyncio.create_task(beat())
    here = made(tmp_path)
    assert not await here.acquire()
    beating.cancel()
    assert await here.acquire()  # its counter stands still
    here.publish("http://here", "t", "1")
    assert not other.beat()  # and when it comes back it steps down
    assert here.beat()
    here.release()
    other.release()
    assert here.holder() is None


async def test_clocks_are_not_compared(tmp_path, monkeypatch):
    first, second = made(tmp_path), made(tmp_path)
    await first.acquire()
    first.publish("http://a", "t", "1")
    monkeypatch.setattr("time.time", lambda: 300.0)
    assert first.beat()
    assert not await second.acquire()
    first.release()


async def test_a_holder_whose_lock_file_was_deleted_steps_down(tmp_path):
    first, second = made(tmp_path), made(tmp_path)
    await first.acquire()
    first.publish("http://a", "t", "1")
    (tmp_path / "service.lock").unlink()
    assert await second.acquire()
    assert not first.beat()
    second.publish("http://b", "t", "1")
    first.release()
    assert second.holder().url == "http://b"  # a release takes nothing from the next one
    second.release()


def test_a_lease_file_of_another_release_is_no_holder(tmp_path):
    lease = made(tmp_path)
    for content in ("", "{", "[]", json.dumps({"nonce": "x"}), json.dumps({"more": 1})):
        (tmp_path / "lease.json").write_text(content)
        assert lease.holder() is None


def test_a_connection_file_is_whole_private_and_removed_by_its_owner_alone(tmp_path):
    path = tmp_path / "deep" / "service.json"
    mine, other = Connection("http://a", "t", 1, "0"), Connection("http://b", "t", 2, "0")
    mine.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert Connection.read(path) == mine
    other.remove(path)
    assert Connection.read(path) == mine
    other.write(path)
    mine.remove(path)
    assert Connection.read(path) == other
    assert list(path.parent.iterdir()) == [path]
    path.write_text("{")
    assert Connection.read(path) is None
