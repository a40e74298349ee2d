"""Writing the script and its inputs: modes, names, and files that are not what they were."""

from __future__ import annotations

import os
import tarfile
import threading
from pathlib import Path

import pytest
from parts.job_script import HOST, pod, shell, work

from jupyter_offload.errors import FileRefused
from jupyter_offload.pod import WorkFile
from jupyter_offload.translator import Translation, translate, write


def given(*files: WorkFile, tasks: int = 1) -> Translation:
    return translate(work(pod(shell("true")), *files, tasks=tasks), HOST)


def test_what_is_written_is_private_and_the_tar_is_plain(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("content")
    name = os.fsdecode(b"n\xff\n '$(x)'")
    folder = tmp_path / "job"
    folder.mkdir(mode=0o755)
    written = write(given(WorkFile("work", f"a/{name}", str(tmp_path / "f"), mode=0o755)), folder, clock=lambda: 1000.5)
    assert (written.script, written.inputs, written.task_inputs) == ("job.sh", ("inputs.tar",), ())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "job.sh": 0o600,
        "inputs.tar": 0o600,
    }
    with tarfile.open(folder / "inputs.tar", encoding="utf-8", errors="surrogateescape") as tar:
        members = {member.name: member for member in tar}
        file = members[f"volumes/work/a/{name}"]
        content = tar.extractfile(file)
        assert content is not None
        assert content.read() == b"content"
    assert file.mode == 0o755
    assert members["volumes/work/a"].isdir()
    assert members["volumes/work/a"].mode == 0o700
    assert members["volumes/work"].mtime == 1000
    assert list(members)[-1] == "complete", "the mark of completeness must come last"


def test_every_task_has_a_tar_when_one_has(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("content")
    folder = tmp_path / "job"
    folder.mkdir()
    written = write(given(WorkFile("work", "x", str(tmp_path / "f"), task=1), tasks=3), folder)
    assert written.task_inputs == (("inputs-0.tar",), ("inputs-1.tar",), ("inputs-2.tar",))
    for index, expected in enumerate(
        (["complete-0"], ["volumes", "volumes/work", "volumes/work/x", "complete-1"], ["complete-2"])
    ):
        with tarfile.open(folder / f"inputs-{index}.tar") as tar:
            assert tar.getnames() == expected


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_not_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    (tmp_path / "job").mkdir()
    with pytest.raises(FileRefused, match="x") as caught:
        write(given(WorkFile("work", "x", str(path))), tmp_path / "job")
    assert caught.value.hint


@pytest.mark.parametrize("change", ["grows", "shrinks"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, change: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(20_000_000))
    (tmp_path / "job").mkdir()
    stop = threading.Event()

    def meddle() -> None:
        output = tmp_path / "job" / "inputs.tar"
        while not stop.is_set():
            if output.exists() and output.stat().st_size > 1_000_000:  # reading has begun
                with path.open("ab") as file:
                    file.write(b"x") if change == "grows" else file.truncate(100)
                return

    thread = threading.Thread(target=meddle)
    thread.start()
    try:
        with pytest.raises(FileRefused):
            write(given(WorkFile("work", "x", str(path))), tmp_path / "job")
    finally:
        stop.set()
        thread.join()
