"""The live copies of logs: resumed, begun anew after an eviction, never written where they do not belong."""

from __future__ import annotations

import json
from pathlib import Path

from jupyter_offload.sites.mirror import LogMirror, log_file, read_file


def frame(data: bytes, offset: int, container: str = "main", stream: str = "stdout") -> bytes:
    head = json.dumps({"c": container, "s": stream, "o": offset, "n": len(data), "t": 1.5})
    return b"\x1e" + head.encode() + b"\n" + data + b"\n"


class Output:
    """The script's standard output as a batch system gives it: a piece at a time, or from its beginning when it became shorter."""

    def __init__(self) -> None:
        self.data = b""
        self.reads = 0

    async def __call__(self, offset: int) -> tuple[bytes, int]:
        self.reads += 1
        start = 0 if offset > len(self.data) else offset
        return self.data[start : start + 37], start


def content(folder: Path, name: str = "main.stdout") -> bytes:
    return (folder / "logs" / name).read_bytes()


async def test_frames_become_files_piece_by_piece(tmp_path):
    output = Output()
    mirror = LogMirror(tmp_path, output)
    output.data = frame(b"hello\n", 0) + frame(b"oops\n", 0, stream="stderr")
    await mirror.refresh()
    output.data += frame(b"binary \x1e\x00\n", 6) + b'\x1e{"status":{"phase":"Running"}}\n'
    await mirror.refresh()
    assert content(tmp_path) == b"hello\nbinary \x1e\x00\n"
    assert content(tmp_path, "main.stderr") == b"oops\n"
    assert mirror.status == {"phase": "Running"}
    assert (tmp_path / "logs" / "main.stdout").stat().st_mode & 0o777 == 0o600


async def test_a_new_process_writes_the_same_bytes_again(tmp_path):
    output = Output()
    output.data = frame(b"one\n", 0) + frame(b"two\n", 4)
    await LogMirror(tmp_path, output).refresh()
    output.data += frame(b"three\n", 8)
    await LogMirror(tmp_path, output).refresh()
    assert content(tmp_path) == b"one\ntwo\nthree\n"


async def test_after_an_eviction_the_copy_begins_anew(tmp_path):
    output = Output()
    mirror = LogMirror(tmp_path, output)
    output.data = frame(b"first attempt, a long line\n", 0)
    await mirror.refresh()
    output.data = frame(b"second\n", 0)
    await mirror.refresh()
    assert content(tmp_path) == b"second\n"


async def test_frames_that_lie_are_not_believed(tmp_path):
    output = Output()
    output.data = (
        frame(b"x", 0, container="../../escape")
        + frame(b"x", 0, stream="../s")
        + frame(b"far", 1 << 40)
        + frame(b"ok\n", 0)
    )
    await LogMirror(tmp_path, output).refresh()
    assert content(tmp_path) == b"ok\n"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["logs", "main.stdout"]


def test_reading_from_an_offset(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"0123456789")
    assert read_file(path, 4, 3, end=True) == type(read_file(path, 0, 1, end=False))(b"456", 4, end=False)
    assert read_file(path, 7, 100, end=True).end
    assert not read_file(path, 7, 100, end=False).end
    assert read_file(path, 99, 10, end=False).offset == 10
    assert read_file(None, 5, 10, end=True).end
    assert log_file(tmp_path, "a/b", "stdout") is None
    assert log_file(tmp_path, "main", "out") is None
