from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_offload.batch.processes import spool as module
from jupyter_offload.batch.processes.spool import (
    Entry,
    LockTimeout,
    Spool,
    read_record,
    remove_file,
    remove_tree,
    touch,
    write_file,
    write_record,
)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(str(tmp_path / "spool"))
    spool.create()
    (tmp_path / "spool/jobs/job~1/state").mkdir(parents=True)
    return spool


def test_an_entry_is_read_from_its_name() -> None:
    entry = Entry("00000000000000000007~3~abc~try-1~42")
    assert (entry.cpus, entry.job_id, entry.attempt, entry.index) == (3, "abc", "try-1", 42)
    assert (entry.group, entry.task) == ("abc~try-1", "abc~try-1~42")


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["reason", "folder", "name"]), st.text(st.characters(exclude_characters="\0"))))
def test_a_record_gives_back_any_text(tmp_path_factory: pytest.TempPathFactory, record: dict[str, str]) -> None:
    path = str(tmp_path_factory.getbasetemp() / "record")
    encodable = {key: value.encode("utf-8", "replace").decode() for key, value in record.items()}
    write_record(path, encodable)
    assert read_record(path) == encodable


def test_a_record_keeps_names_that_are_not_utf8_and_drops_nul(tmp_path: Path) -> None:
    path = str(tmp_path / "record")
    write_record(path, {"folder": os.fsdecode(b"/home/\xff=\\n"), "reason": "a\0b"}, durable=True)
    assert read_record(path) == {"folder": os.fsdecode(b"/home/\xff=\\n"), "reason": "ab"}
    assert read_record(str(tmp_path / "none")) is None


def test_files_are_private_and_folders_too(spool: Spool, tmp_path: Path) -> None:
    os.umask(os.umask(0o022))
    path = tmp_path / "file"
    write_file(str(path), b"x")
    touch(str(tmp_path / "empty"))
    touch(str(path))
    assert path.read_bytes() == b"x"
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "empty")} == {0o600}
    assert {stat.S_IMODE(Path(folder).stat().st_mode) for folder in (spool.root, spool.queue, spool.jobs)} == {0o700}
    assert [item.name for item in tmp_path.iterdir() if item.name.endswith(".new")] == []


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "file")
    write_file(path, b"old")

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "write", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"new")
    monkeypatch.undo()
    assert Path(path).read_bytes() == b"old"


def test_the_lock_is_held_by_one_and_shared_by_readers(spool: Spool) -> None:
    exclusive = spool.lock()
    for shared in (True, False):
        with pytest.raises(LockTimeout):
            spool.lock(shared=shared, timeout=0.05)
    os.close(exclusive)
    readers = [spool.lock(shared=True, timeout=0.05) for _ in range(2)]
    with pytest.raises(LockTimeout):
        spool.lock(timeout=0.05)
    for reader in readers:
        os.close(reader)
    os.close(spool.lock(timeout=0.05))


def test_a_task_is_supervised_for_as_long_as_a_process_holds_its_lock(spool: Spool) -> None:
    assert not spool.supervised("job~1", 0)
    claim = spool.claim("job~1", 0)
    assert claim is not None
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[claim])
    os.close(claim)  # the supervisor's copy is enough
    try:
        assert spool.supervised("job~1", 0)
        assert spool.claim("job~1", 0) is None
        assert not spool.supervised("job~1", 1)
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdin is not None
        holder.stdin.close()
    assert not spool.supervised("job~1", 0)
    again = spool.claim("job~1", 0)
    assert again is not None
    os.close(again)


def test_a_claim_waits_for_a_look_to_end(spool: Spool) -> None:
    # A look takes the lock shared for microseconds; that must not be taken for a supervisor.
    claim = spool.claim("job~1", 0)
    assert claim is not None
    os.close(claim)
    program = (
        "import sys; sys.path.append(sys.argv[1])\nfrom processes.spool import Spool\nspool = Spool(sys.argv[2])\n"
        "print(flush=True)\nfor _ in range(20000): spool.supervised('job~1', 0)"
    )
    folder = str(Path(module.__file__).parent.parent)
    look = subprocess.Popen([sys.executable, "-c", program, folder, spool.root], stdout=subprocess.PIPE)
    assert look.stdout is not None
    look.stdout.readline()
    for _ in range(300):
        claim = spool.claim("job~1", 0)
        assert claim is not None
        os.close(claim)
    look.kill()
    look.communicate()


def test_a_tree_is_removed_also_without_permissions_and_without_following_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "closed").mkdir(parents=True)
    (tree / "closed/file").write_text("x")
    (tree / "link").symlink_to(outside)
    (tree / "closed").chmod(0)
    remove_tree(str(tree))
    assert not tree.exists()
    assert (outside / "kept").read_text() == "kept"
    remove_tree(str(tree))
    assert not remove_file(str(tree))


def test_slots_are_what_the_last_service_said(spool: Spool) -> None:
    write_file(f"{spool.root}/slots", b"8")
    assert spool.slots() == 8
