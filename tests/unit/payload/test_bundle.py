from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_offload.errors import FileRefused, ResultTampered, ResultTooLarge, ResultUnavailable, UsageError
from jupyter_offload.job import Kind, Request
from jupyter_offload.payload.bundle import Bundle, BundleWriter

KEY = "00ff" * 16
REQUEST = Request(id="a" * 32, name="fit", kind=Kind.CELL, env={"A": "é\ud800\n"}, command=("x",))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0123456789" * 1000)
    writer = BundleWriter(
        tmp_path / "b", python="3.12", request=REQUEST, key=KEY, main={"source": "1\n"}, limits={"result_bytes": 5}
    )
    parts = [
        writer.add("value", "x", "json", b"[1]", {"type": "list"}),
        writer.add("value", "y", "npy", [b"ab", memoryview(b"cd"), bytearray(b"")]),
        writer.add("file", "data/é\n.txt", "raw", file, {"mode": 0o644}),
        writer.add("value", "empty", "raw", b""),
    ]
    path = writer.close()
    bundle = Bundle.open(path)
    assert (bundle.request, bundle.key, bundle.python) == (REQUEST, KEY, "3.12")
    assert (bundle.main, bundle.header["limits"]) == ({"source": "1\n"}, {"result_bytes": 5})
    assert [(part.role, part.name, part.size, part.meta) for part in bundle.parts] == [
        (part.role, part.name, part.size, part.meta) for part in parts
    ]
    assert [bytes(bundle.read(part)) for part in bundle.parts] == [b"[1]", b"abcd", file.read_bytes(), b""]
    bundle.copy(bundle.of("file")[0], tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600
    assert sorted(item.name for item in tmp_path.iterdir()) == ["b", "copy", "file"]


def test_the_documented_format(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path / "b", python="3.11", main={"k": 1})
    writer.add("value", "x", "raw", b"ab")
    writer.add("value", "y", "raw", b"c")
    data = writer.close().read_bytes()
    magic, header, blobs = data.split(b"\n", 2)
    assert magic == b"offload-bundle 1"
    assert json.loads(header) == {
        "format": 1,
        "python": "3.11",
        "main": {"k": 1},
        "parts": [
            {
                "role": "value",
                "name": "x",
                "codec": "raw",
                "size": 2,
                "sha256": hashlib.sha256(b"ab").hexdigest(),
                "meta": {},
            },
            {
                "role": "value",
                "name": "y",
                "codec": "raw",
                "size": 1,
                "sha256": hashlib.sha256(b"c").hexdigest(),
                "meta": {},
            },
        ],
    }
    assert blobs == b"abc"


def small(tmp_path: Path, key: str | None = KEY) -> Path:
    writer = BundleWriter(tmp_path / "b", main={"é": "\ud800/ABC"})
    writer.add("value", "x", "raw", b"payload")
    return writer.close(key)


def read_first(path: Path) -> bytes:
    bundle = Bundle.open(path, hmac_key=KEY)
    return bytes(bundle.read(bundle.parts[0]))


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    path = small(tmp_path)
    good = path.read_bytes()
    assert read_first(path) == b"payload"
    for place in range(len(good)):
        for mask in (0x01, 0x20, 0xFF):
            path.write_bytes(good[:place] + bytes([good[place] ^ mask]) + good[place + 1 :])
            with pytest.raises(ResultTampered):
                read_first(path)


def test_every_truncation_and_anything_extra_is_found(tmp_path: Path) -> None:
    path = small(tmp_path)
    good = path.read_bytes()
    for end in range(len(good)):
        path.write_bytes(good[:end])
        with pytest.raises(ResultTampered):
            Bundle.open(path, hmac_key=KEY)
    for extra in (b"\n", b"x", good):
        path.write_bytes(good + extra)
        with pytest.raises(ResultTampered):
            Bundle.open(path, hmac_key=KEY)


def test_another_key_or_none_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path)
    with pytest.raises(ResultTampered, match="signature"):
        Bundle.open(path, hmac_key="11" * 32)
    with pytest.raises(ResultTampered, match="not signed"):
        Bundle.open(small(tmp_path, None), hmac_key=KEY)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}",
        b"nonsense",
        b"[" * 100_000,
        b'{"format":2,"python":"3","main":{},"parts":[]}',
        b'{"format":1,"main":{},"parts":[]}',
        b'{"format":1,"python":"3","main":[],"parts":[]}',
        b'{"format":1,"python":"3","main":{},"parts":[1]}',
        b'{"format":1,"python":"3","main":{},"parts":[{"role":"v","name":"n","codec":"c","size":-1,"sha256":"'
        + b"0" * 64
        + b'","meta":{}}]}',
        b'{"format":1,"python":"3","main":{},"parts":[{"role":"v","name":"n","codec":"c","size":true,"sha256":"'
        + b"0" * 64
        + b'","meta":{}}]}',
        b'{"format":1,"python":"3","main":{},"parts":[{"role":"v","name":"n","codec":"c","size":1e300,"sha256":"'
        + b"0" * 64
        + b'","meta":{}}]}',
        b'{"format":1,"python":"3","main":{},"parts":[{"role":"v","name":"n","codec":"c","size":99999999999999,"sha256":"'
        + b"0" * 64
        + b'","meta":{}}]}',
        b'{"format":1,"python":"3","main":{},"parts":[{"role":"v","name":"n","codec":"c","size":0,"sha256":"x","meta":{}}]}',
        b'{"format":1,"python":"3","main":{},"parts":[{"role":"v","name":1,"codec":"c","size":0,"sha256":"'
        + b"0" * 64
        + b'","meta":{}}]}',
    ],
)
def test_malformed_headers_of_submissions(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "b"
    path.write_bytes(b"offload-bundle 1\n" + header + b"\n")
    with pytest.raises(UsageError, match="not a sound bundle"):
        Bundle.open(path)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_a_typed_error(tmp_path_factory: pytest.TempPathFactory, data: bytes, magic: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes((b"offload-bundle 1\n" if magic else b"") + data)
    with pytest.raises(UsageError):
        Bundle.open(path)


def test_size_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with path.open("wb") as stream:
        stream.truncate(10_000_000_000)
    with pytest.raises(ResultTooLarge, match="10,000,000,000 bytes"):
        Bundle.open(path, hmac_key=KEY, max_bytes=1000)
    with pytest.raises(ResultTampered):
        Bundle.open(path, hmac_key=KEY)


def test_a_missing_bundle(tmp_path: Path) -> None:
    with pytest.raises(ResultUnavailable):
        Bundle.open(tmp_path / "none")


def test_nothing_stays_of_a_bundle_that_fails(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"before")
    writer = BundleWriter(tmp_path / "b")
    writer.add("file", "file", "raw", file)
    file.write_bytes(b"after!")
    with pytest.raises(FileRefused, match="changed"):
        writer.close()
    file.unlink()
    with pytest.raises(FileRefused):
        writer.add("file", "file", "raw", file)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_goes_nowhere_it_should_not(tmp_path: Path) -> None:
    bundle = Bundle.open(small(tmp_path), hmac_key=KEY)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        bundle.copy(bundle.parts[0], tmp_path / "link")
    path = tmp_path / "b"
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    with pytest.raises(ResultTampered):
        bundle.copy(bundle.parts[0], tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_large_part_is_copied_in_bounded_memory(tmp_path: Path) -> None:
    import tracemalloc

    file = tmp_path / "file"
    with file.open("wb") as stream:
        stream.truncate(200_000_000)
    tracemalloc.start()
    writer = BundleWriter(tmp_path / "b")
    writer.add("file", "file", "raw", file)
    bundle = Bundle.open(writer.close())
    bundle.copy(bundle.parts[0], tmp_path / "copy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
    assert (tmp_path / "copy").stat().st_size == 200_000_000
