"""The store: migrations from each old version, revisions, private files; and the ledger's group commits."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts.submissions import cell, command

from jupyter_offload.errors import ConfigError, ServiceError
from jupyter_offload.job import Job, State, Task
from jupyter_offload.service.record import Phase, Record, end_tasks, move
from jupyter_offload.service.store import migrations
from jupyter_offload.service.store.base import Store
from jupyter_offload.service.store.sqlite import SQLiteStore
from jupyter_offload.sites.base import SiteHandle


def record(owner="ann", revision=1, state=State.QUEUED, phase=Phase.STARTED, request=None, **fields):
    job = Job(request or command("true"), owner, "mem", tasks=(Task(0, state),), revision=revision)
    return Record(job, "00" * 32, "digest", phase, **fields)


def schema(connection):
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name")
    return rows.fetchall()


@pytest.mark.parametrize("version", range(len(migrations.MIGRATIONS) + 1))
def test_every_old_version_becomes_the_newest_and_keeps_its_jobs(tmp_path, monkeypatch, version):
    newest = sqlite3.connect(":memory:", isolation_level=None)
    migrations.migrate(newest)
    path = tmp_path / "jobs.sqlite"
    old = sqlite3.connect(path, isolation_level=None)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:version])
        migrations.migrate(old)
    kept = record()
    if version:
        job = kept.job
        values = (job.id, "ann", "mem", "try", "queued", 1, None, 0.0, None, 1, kept.dump())
        old.execute(f"INSERT INTO jobs VALUES ({','.join('?' * len(values))})", values)
    old.close()
    store = SQLiteStore(path)
    assert schema(store._db) == schema(newest)
    assert [found.id for found in store.live("ann")] == ([kept.id] if version else [])
    assert store._db.execute("PRAGMA user_version").fetchone()[0] == len(migrations.MIGRATIONS)
    store.close()
    newest.close()


def test_a_step_that_fails_leaves_the_old_version(monkeypatch):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, ("CREATE TABLE x (a)", "CREATE nonsense")))
    with pytest.raises(sqlite3.Error):
        migrations.migrate(connection)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == len(migrations.MIGRATIONS) - 1
    assert "x" not in [row[1] for row in schema(connection)]
    connection.close()


def test_a_store_of_a_newer_release_is_refused(tmp_path):
    connection = sqlite3.connect(tmp_path / "jobs.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigError, match="schema 99"):
        SQLiteStore(tmp_path / "jobs.sqlite")


@pytest.fixture
def store(tmp_path):
    made: Store = SQLiteStore(tmp_path / "jobs.sqlite")
    yield made
    made.close()


def test_it_is_private_and_safe_on_nfs(store, tmp_path):
    assert stat.S_IMODE((tmp_path / "jobs.sqlite").stat().st_mode) == 0o600
    assert store._db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
    assert store._db.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_every_method_takes_the_owner(store):
    ann, bob = record("ann", 1, request=cell(fingerprint="f")), record("bob", 2, request=cell(fingerprint="f"))
    store.save(None, [ann, bob])
    store.save("bob", [replace(ann, key="11" * 32)])  # not his
    assert store.get(None, ann.id).key == ann.key
    for owner, mine, other in (("ann", ann, bob), ("bob", bob, ann)):
        assert store.get(owner, mine.id) == mine
        assert store.get(owner, other.id) is None
        assert store.candidates(owner, other.id[:6]) == []
        assert [found.id for found in store.candidates(owner, "try")] == [mine.id]
        assert [found.id for found in store.twins(owner, "f")] == [mine.id]
        assert [found.id for found in store.listing(owner, 0, None).records] == [mine.id]
        assert [found.id for found in store.live(owner)] == [mine.id]
        assert store.ids(owner) == {mine.id}
        assert [summary.id for summary in store.summaries(owner)] == [mine.id]
    store.delete("bob", [ann.id], 10**14)
    assert store.get(None, ann.id) is not None
    store.delete("ann", [ann.id], 10**14)
    assert store.deleted_ids("ann") == {ann.id}
    assert store.deleted_ids("bob") == set()
    assert store.listing("ann", 0, None).deleted == (ann.id,)
    assert store.listing("bob", 0, None).deleted == ()


def test_only_what_changed_since_is_listed(store):
    base = store.revision()
    records = [record(revision=base + place) for place in (1, 2, 3)]
    store.save(None, records)
    listing = store.listing("ann", base + 1, None)
    assert listing.revision == base + 3
    assert {found.id for found in listing.records} == {records[1].id, records[2].id}
    assert len(store.listing("ann", 0, 2).records) == 2


def test_a_new_store_counts_on_from_later_than_an_old_one(tmp_path):
    first = SQLiteStore(tmp_path / "a")
    first.save(None, [record(revision=first.revision() + 5)])
    old = first.revision()
    first.close()
    import time

    time.sleep(0.02)
    second = SQLiteStore(tmp_path / "b")
    assert second.revision() > old
    second.close()


def test_wildcards_in_names_mean_themselves(store):
    store.save(None, [record()])
    for text in ("%", "_" * 32, "t%", "", " "):
        assert [found for found in store.candidates("ann", text) if text.strip()] == []


def test_sites_are_remembered(store):
    store.note_site("pool", "{}")
    store.note_site("pool", '{"a":1}')
    assert store.site_notes() == {"pool": '{"a":1}'}


@given(st.sampled_from(State), st.sampled_from(Phase), st.text(max_size=30), st.none() | st.floats(0, 1e12))
def test_records_survive_being_written(state, phase, reason, expires):
    handle = SiteHandle("a" * 32, 0, reason, reason, "/x")
    before = record(state=state, phase=phase, handles=(handle,), cancel=reason, expires=expires)
    before = before.with_job(notes=(reason,), tasks=(Task(0, state, reason=reason, error={"message": reason}),))
    assert Record.load(before.dump()) == before


def test_states_only_move_as_they_may():
    done = Task(0, State.SUCCEEDED)
    assert move(done, State.RUNNING, host="x").state is State.SUCCEEDED
    assert move(Task(0, State.RUNNING), State.PREPARING).state is State.RUNNING
    assert move(Task(0, State.LOST), State.RUNNING).state is State.RUNNING
    ended = end_tasks(record(state=State.SUCCEEDED), State.CANCELLED, 5.0)
    assert ended.job.state is State.SUCCEEDED


async def test_changes_under_a_write_go_together_in_the_next(bench, monkeypatch):
    writes = []
    original = bench.service._ledger._save

    def save(records):
        writes.append(len(records))
        original(records)

    monkeypatch.setattr(bench.service._ledger, "_save", save)
    ledger = bench.service._ledger
    await asyncio.gather(*(ledger.insert(record(state=State.PREPARING, phase=Phase.CLOSED)) for _ in range(50)))
    assert sum(writes) == 50
    assert len(writes) <= 3
    assert len((await bench.service.jobs("ann")).jobs) == 50


def full(*_):
    raise OSError(28, "No space left on device")


async def test_a_disk_that_is_full_is_told_to_whoever_waits_and_no_change_is_lost(bench, monkeypatch):
    ledger = bench.service._ledger
    first = await ledger.insert(record(state=State.PREPARING, phase=Phase.STARTED))
    with monkeypatch.context() as patch:
        patch.setattr(ledger._store, "save", full)
        with pytest.raises(OSError, match="No space left"):
            await ledger.change([first.id], lambda old: replace(old, cancel="no more"))
    await ledger.insert(record(state=State.PREPARING, phase=Phase.STARTED))
    assert (await ledger.run(ledger._store.get, "ann", first.id)).cancel == "no more"


async def test_a_job_that_could_not_be_written_is_not_there_now_or_later(bench, monkeypatch):
    request = command("true", fingerprint="same")
    with monkeypatch.context() as patch:
        patch.setattr(bench.service._ledger._store, "save", full)
        # two of one cell at once: the second must not be told that it has the first one's job
        answers = await asyncio.gather(
            bench.submit(request), bench.submit(command("true", fingerprint="same")), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [ServiceError] * 2
        assert "No space left" in answers[0].message
        assert "clean" in answers[0].hint
        assert dict(bench.service._ledger.live) == {}
        assert list(bench.folders.jobs.iterdir()) == []
    later = await bench.submit(command("true", fingerprint="same"))
    assert later.created
    await bench.restart()
    assert [job.id for job in (await bench.service.jobs("ann")).jobs] == [later.job.id]
    assert request.id not in {entry.work.job_id for entry in bench.site.entries.values()}


async def test_a_record_that_could_not_be_written_leaves_no_file_to_rebuild_from(bench, monkeypatch):
    ledger = bench.service._ledger
    first = record(state=State.PREPARING, phase=Phase.STARTED)
    with monkeypatch.context() as patch:
        patch.setattr(ledger._store, "save", full)
        with pytest.raises(ServiceError):
            await ledger.insert(first)
    assert not (bench.folders.job(first.id) / "job.json").exists()
    await ledger.insert(record(state=State.PREPARING, phase=Phase.STARTED))
    assert await ledger.run(ledger._store.get, "ann", first.id) is None


async def test_a_full_disk_while_the_folder_is_made_is_told_with_a_way_out(bench, monkeypatch):
    monkeypatch.setattr("jupyter_offload.service.intake.split_bundle", lambda *_, **__: full())
    with pytest.raises(ServiceError, match="its folder cannot be written") as caught:
        await bench.submit(command("true"))
    assert "clean" in caught.value.hint
    assert list(bench.folders.jobs.iterdir()) == []


async def test_ten_thousand_ended_jobs_cost_no_memory(bench):
    ledger = bench.service._ledger
    request = command("true")
    ended = [
        record(
            revision=place + 1, state=State.SUCCEEDED, phase=Phase.CLOSED, request=replace(request, id=f"{place:032x}")
        )
        for place in range(10_000)
    ]
    await ledger.run(ledger._store.save, None, ended)
    await bench.restart()
    assert len(bench.service._ledger.live) == 0
    assert len((await bench.service.jobs("ann", limit=20)).jobs) == 20
    assert (await bench.service.job("ann", f"{77:032x}")).state is State.SUCCEEDED
    many = [command("true") for _ in range(300)]
    await asyncio.gather(*(bench.submit(request) for request in many))
    for request in many:
        await bench.until(request.id, State.QUEUED)
    assert len([call for call, _ in bench.site.calls if call == "submit"]) < 60  # what queued up went together
    for entry in list(bench.site.entries.values()):
        entry.status = replace(entry.status, state=State.FINISHING)
    for request in many:
        await bench.until(request.id)
    while bench.service._ledger.live:
        await asyncio.sleep(0.01)
    assert bench.service._ledger._written == {}
