from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from parts.running import KEY

from jupyter_offload.errors import (
    CannotEncode,
    PythonMismatch,
    RemoteError,
    ResultError,
    ResultTampered,
    ResultTooLarge,
    UnknownName,
)
from jupyter_offload.payload import runner
from jupyter_offload.payload.bundle import BundleWriter
from jupyter_offload.payload.codecs import encode
from jupyter_offload.payload.results import read_result


class Watched:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "opened"

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.folder),))


class Rises:
    def __reduce__(self) -> tuple[object, ...]:
        return (int, ("no number",))


FACTS = {"python": "3.11.7", "host": "wn-1", "wall_seconds": 2.0, "cpu_seconds": 1.5, "max_rss_bytes": 7}


def write(folder: Path, values: dict[str, object], *, python: str | None = None, **main: Any) -> Path:
    writer = BundleWriter(
        folder / "result", python=python, main={"kind": "cell", "error": None, "problems": {}, "facts": FACTS, **main}
    )
    writer.add(
        "outputs", "outputs", "raw", json.dumps([{"output_type": "stream", "name": "stdout", "text": "hi"}]).encode()
    )
    for name, value in values.items():
        encoded = encode(value, name=name)
        writer.add("value", name, encoded.codec, encoded.data, encoded.meta)
    return writer.close(KEY)


def test_values_are_opened_only_when_they_are_asked_for(tmp_path: Path) -> None:
    result = read_result(write(tmp_path, {"a": [1], "w": Watched(tmp_path)}), KEY)
    assert (result.host, result.usage.cpu_seconds, result.error, result.notebook) == ("wn-1", 1.5, None, None)
    assert result.outputs[0]["text"] == "hi"
    assert (list(result.values), len(result.values), "w" in result.values) == (["a", "w"], 2, True)
    assert (result.values.type_of("w"), result.values.size_of("a")) == ("Watched", 3)
    assert result.values["a"] == [1]
    assert not (tmp_path / "opened").exists()
    result.values["w"]
    assert (tmp_path / "opened").exists()
    with pytest.raises(KeyError):
        result.values["z"]
    with pytest.raises(UnknownName):
        result.values.type_of("z")


def test_no_changed_byte_is_ever_unpickled(tmp_path: Path) -> None:
    path = write(tmp_path, {"w": Watched(tmp_path)})
    good = path.read_bytes()
    for place in range(len(good)):
        for mask in (0x01, 0x20):
            path.write_bytes(good[:place] + bytes([good[place] ^ mask]) + good[place + 1 :])
            with pytest.raises(ResultTampered):
                read_result(path, KEY).values["w"]
    assert not (tmp_path / "opened").exists()


def test_no_truncated_or_longer_result_is_ever_unpickled(tmp_path: Path) -> None:
    path = write(tmp_path, {"w": Watched(tmp_path)})
    good = path.read_bytes()
    for changed in [good[:end] for end in range(len(good))] + [good + b"x"]:
        path.write_bytes(changed)
        with pytest.raises(ResultError):
            read_result(path, KEY).values["w"]
    assert not (tmp_path / "opened").exists()


def test_a_result_that_changes_after_it_was_opened_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, {"w": Watched(tmp_path)})
    result = read_result(path, KEY)
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    with pytest.raises(ResultTampered):
        result.values["w"]
    assert not (tmp_path / "opened").exists()


def test_too_large(tmp_path: Path) -> None:
    with pytest.raises(ResultTooLarge):
        read_result(write(tmp_path, {"a": "x" * 1000}), KEY, max_bytes=500)


def test_code_of_another_python_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    result = read_result(write(tmp_path, {"f": lambda: 1, "w": Watched(tmp_path), "a": 1}, python="3.4"), KEY)
    with pytest.raises(PythonMismatch, match=rf"Python 3\.4 .*Python {runner.minor_version()}"):
        result.values["f"]
    assert result.values["a"] == 1
    result.values["w"]  # a pickle of data alone
    assert (tmp_path / "opened").exists()


def test_a_problem_with_one_value_is_raised_only_there(tmp_path: Path) -> None:
    problem = CannotEncode("b is a generator", hint="Make a list.").to_json()
    result = read_result(write(tmp_path, {"a": 1}, problems={"b": problem}), KEY)
    assert isinstance(result.error, CannotEncode)
    assert set(result.values) == {"a", "b"}
    assert result.values["a"] == 1
    with pytest.raises(CannotEncode, match="generator"):
        result.values["b"]


def test_a_value_that_does_not_open_here(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match=r"r .*cannot be opened here: ValueError"):
        read_result(write(tmp_path, {"r": Rises()}), KEY).values["r"]


@pytest.mark.parametrize(
    "main", [{"facts": None}, {"facts": {}}, {"error": 5}, {"problems": [1]}, {"facts": {**FACTS, "wall_seconds": "x"}}]
)
def test_a_signed_result_of_another_shape(tmp_path: Path, main: dict[str, Any]) -> None:
    with pytest.raises(ResultTampered, match="not one that our runner writes"):
        read_result(write(tmp_path, {}, **main), KEY)
