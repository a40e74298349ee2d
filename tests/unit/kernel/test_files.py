from __future__ import annotations

import os
from pathlib import Path

import pytest

from jupyter_offload.errors import FileRefused
from jupyter_offload.kernel.files import SECRET_BYTES, find_files, find_secrets


def test_files_and_folders_keep_their_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "a" / "__pycache__").mkdir(parents=True)
    (tmp_path / "a" / "__pycache__" / "x.pyc").touch()
    (tmp_path / "a" / "b c.txt").write_text("1")
    (tmp_path / "run.sh").write_text("2")
    (tmp_path / "run.sh").chmod(0o755)
    found = find_files(["a/", "./run.sh", "a/b c.txt"], tmp_path)
    assert [(name, mode & 0o100) for name, _, mode in found] == [("a/b c.txt", 0), ("run.sh", 0o100)]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("missing", "does not exist"),
        ("../outside", "outside"),
        ("/etc/hostname", "outside"),
        ("link", "link"),
        ("folder/inner", "link"),
        ("linked/x", "link"),
        ("pipe", "ordinary"),
        ("a\0b", "path"),
        ("", "path"),
    ],
)
def test_what_cannot_travel_is_named(tmp_path: Path, path: str, says: str) -> None:
    here = tmp_path / "here"
    (here / "folder").mkdir(parents=True)
    (tmp_path / "outside").write_text("x")
    (here / "link").symlink_to(tmp_path / "outside")
    (here / "folder" / "inner").symlink_to("/etc/hostname")
    (here / "linked").symlink_to(tmp_path)
    (tmp_path / "x").touch()
    os.mkfifo(here / "pipe")
    with pytest.raises(FileRefused) as caught:
        find_files([path], here)
    assert says in caught.value.message
    if path == "folder/inner":
        with pytest.raises(FileRefused, match="link"):
            find_files(["folder"], here)


def test_secrets_are_read_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2")
    assert find_secrets({"TOKEN": "token"}, tmp_path) == {"TOKEN": b"hunter2"}
    (tmp_path / "large").write_bytes(b"hunter2" * SECRET_BYTES)
    for path in ("large", "missing", "."):
        with pytest.raises(FileRefused) as caught:
            find_secrets({"TOKEN": path}, tmp_path)
        assert "hunter2" not in str(caught.value)
        assert "TOKEN" in caught.value.message
