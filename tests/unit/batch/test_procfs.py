from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jupyter_offload.batch.processes import procfs

TREE = (
    "import os, subprocess, sys, time\n"
    "x = b'x' * (50 << 20)\n"
    "children = [subprocess.Popen(['sh', '-c', 'sleep 600 & sleep 600']) for _ in range(2)]\n"
    "if not os.fork():\n    time.sleep(600)\n"
    "print('ready', flush=True); time.sleep(600)\n"
)


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", TREE], stdout=subprocess.PIPE, env={"MARK": "a b", "PATH": os.environ["PATH"]}
    )
    assert process.stdout is not None
    process.stdout.readline()
    deadline = time.monotonic() + 10
    while len(psutil.Process(process.pid).children(recursive=True)) < 7:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield process
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.wait()
    process.stdout.close()


def test_an_identity_is_of_one_process_only() -> None:
    mine = procfs.identity(os.getpid())
    assert mine is not None
    assert mine == procfs.identity(os.getpid())
    pid, start, boot, namespace = mine
    assert pid == os.getpid()
    assert abs(start / os.sysconf("SC_CLK_TCK") - (psutil.Process().create_time() - psutil.boot_time())) < 2
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert namespace.startswith("pid:[")
    assert procfs.identity(os.getpid(), "another boot") != mine


def test_an_identity_survives_a_name_with_blanks_and_parentheses(tmp_path: Path) -> None:
    program = tmp_path / "a) (b 1 2"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(program), "600"])
    try:
        found = procfs.identity(process.pid)
        assert found is not None
        assert found[1] >= (procfs.identity(os.getpid()) or found)[1]
    finally:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert procfs.identity(process.pid) is None  # a zombie
        process.wait()
    assert procfs.identity(process.pid) is None


def test_descendants_are_all_of_them_by_either_way(tree: subprocess.Popen[bytes]) -> None:
    expected = sorted(child.pid for child in psutil.Process(tree.pid).children(recursive=True))
    assert len(expected) == 7
    assert sorted(procfs.descendants(tree.pid)) == expected
    assert sorted(procfs._descendants_by_scan(tree.pid)) == expected
    assert procfs.descendants(2**22 + 1) == []


def test_a_kernel_without_lists_of_children_is_scanned(
    tree: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_pid: int) -> list[int]:
        raise procfs._NoChildrenFile

    expected = sorted(procfs.descendants(tree.pid))
    monkeypatch.setattr(procfs, "_children", none)
    assert sorted(procfs.descendants(tree.pid)) == expected


def test_memory_is_resident_memory_and_shared_pages_count_once(tree: subprocess.Popen[bytes]) -> None:
    pids = [tree.pid, *procfs.descendants(tree.pid)]
    resident = {pid: psutil.Process(pid).memory_info().rss for pid in pids}
    for pid in pids:
        assert abs(procfs.resident_bytes(pid) - resident[pid]) < 1 << 20
    plain = procfs.memory_bytes(pids, 1 << 40)
    assert plain > 2 * (50 << 20)  # the forked child has the same 50 MiB
    exact = procfs.memory_bytes(pids, 1)
    assert 50 << 20 < exact < 80 << 20
    assert procfs.resident_bytes(2**22 + 1) == 0
    assert procfs._proportional_bytes(2**22 + 1) == 0


def test_marked_processes_are_found_with_all_that_they_started(tree: subprocess.Popen[bytes]) -> None:
    assert procfs.marked(b"MARK=a b") == sorted([tree.pid, *procfs.descendants(tree.pid)])
    assert procfs.marked(b"MARK=a") == []


def test_processes_are_found_by_what_they_write_to_but_not_by_what_they_read(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as out, path.open("rb") as reader:
        programs = [
            subprocess.Popen(["sleep", "600"], stdout=out, stderr=subprocess.DEVNULL),
            subprocess.Popen(["sleep", "600"], stderr=out),
            subprocess.Popen(["sleep", "600"], stdin=reader),
        ]
    try:
        assert procfs.marked(b"MARK=none", str(path)) == sorted(program.pid for program in programs[:2])
        assert procfs.marked(b"MARK=none") == []
    finally:
        for program in programs:
            program.kill()
            program.wait()


def test_a_signal_to_a_process_that_is_gone_is_no_error() -> None:
    process = subprocess.Popen(["sleep", "600"])
    procfs.send(process.pid, procfs.SIGKILL)
    assert process.wait() == -9
    procfs.send(process.pid, procfs.SIGKILL)


def test_the_size_of_folders_counts_blocks_once_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"x" * (1 << 20))
    folder = tmp_path / "folder"
    (folder / "deep/er").mkdir(parents=True)
    empty = procfs.folder_bytes(str(folder))
    (folder / "deep/er/file").write_bytes(b"x" * 100_000)
    os.link(folder / "deep/er/file", folder / "again")
    (folder / "link").symlink_to(outside)
    (folder / "folder").symlink_to(tmp_path)
    with (folder / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
    used = procfs.folder_bytes(str(folder), str(folder)) - empty
    assert 100_000 <= used < 200_000
    assert procfs.folder_bytes(str(tmp_path / "none")) == 0
