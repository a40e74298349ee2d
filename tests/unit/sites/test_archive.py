"""Archives that come back are not trusted."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jupyter_offload.errors import OffloadError, ResultError, ResultTooLarge
from jupyter_offload.sites.archive import extract


def make_tar(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_files_arrive_private(tmp_path):
    archive = make_tar(tmp_path / "a.tar", ("status.json", b"{}"), ("files/plots/ä b.png", b"x" * 10))
    assert extract(archive, tmp_path / "out", max_bytes=100) == []
    arrived = tmp_path / "out" / "files" / "plots" / "ä b.png"
    assert arrived.read_bytes() == b"x" * 10
    assert arrived.stat().st_mode & 0o777 == 0o600
    assert arrived.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "member",
    [
        ("../escaped", b"x"),
        ("files/../../escaped", b"x"),
        ("/tmp/escaped", b"x"),
        ("elsewhere", b"x"),
        special("files/link", tarfile.SYMTYPE, "/etc/passwd"),
        special("files/hard", tarfile.LNKTYPE, "status.json"),
        special("files/pipe", tarfile.FIFOTYPE),
        special("files/device", tarfile.CHRTYPE),
    ],
)
def test_what_would_escape_is_left_out_and_said(tmp_path, member):
    archive = make_tar(tmp_path / "a.tar", member, ("status.json", b"{}"))
    notes = extract(archive, tmp_path / "out" / "deep", max_bytes=100)
    assert len(notes) == 1
    assert notes[0].startswith("left out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if not path.is_dir()) == ["status.json"]


def test_a_link_that_is_already_there_is_not_followed(tmp_path):
    target = tmp_path / "out"
    (target / "files").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (target / "files" / "plots").symlink_to(outside)
    extract(make_tar(tmp_path / "a.tar", ("files/plots/p", b"x")), target, max_bytes=10)
    assert list(outside.iterdir()) == []
    assert (target / "files" / "plots" / "p").read_bytes() == b"x"


def test_too_large_is_a_typed_error(tmp_path):
    archive = make_tar(tmp_path / "a.tar", ("status.json", b"{}"), ("files/a", b"x" * 60), ("files/b", b"x" * 60))
    with pytest.raises(ResultTooLarge, match="larger than 100 B"):
        extract(archive, tmp_path / "out", max_bytes=100)
    assert (tmp_path / "out" / "status.json").exists()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, derandomize=True)
@given(cut=st.integers(0, 10239), data=st.binary(max_size=64))
def test_truncated_or_damaged_archives_give_typed_errors_or_the_true_bytes(tmp_path, cut, data):
    whole = make_tar(tmp_path / "whole.tar", ("status.json", b"{}"), ("files/a", b"x" * 5000)).read_bytes()
    archive = tmp_path / "cut.tar"
    archive.write_bytes(whole[:cut] + data)
    target = tmp_path / f"out-{cut}-{data.hex()}"
    try:
        extract(archive, target, max_bytes=10_000)
    except OffloadError as error:
        assert isinstance(error, ResultError)
    for path in target.glob("files/a"):
        assert len(path.read_bytes()) == 5000


def test_no_archive_at_all_is_a_typed_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no tar")
    with pytest.raises(ResultError, match="truncated or no tar"):
        extract(tmp_path / "a.tar", tmp_path / "out", max_bytes=10)
