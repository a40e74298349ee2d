from __future__ import annotations

import io
import math
import pickle
import socket
import sqlite3
import threading
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from jupyter_offload.errors import CannotEncode
from jupyter_offload.payload.codecs import decode, encode

surrogates = st.text(st.characters() | st.characters(categories=["Cs"]))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers().map(lambda number: number << 5000)
    | st.floats()
    | st.complex_numbers()
    | surrogates
    | st.binary()
)
hashable = scalars | st.lists(scalars, max_size=2).map(tuple) | st.frozensets(scalars, max_size=2)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(hashable, max_size=3)
        | st.dictionaries(surrogates, inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$tuple", "$int", "$", "$attached", "x"]), inner, max_size=2)
        | st.dictionaries(hashable, inner, max_size=3)
    ),
    max_leaves=12,
)
arrays = st_numpy.arrays(
    st_numpy.boolean_dtypes()
    | st_numpy.integer_dtypes(endianness="?")
    | st_numpy.floating_dtypes(endianness="?")
    | st_numpy.complex_number_dtypes(endianness="?")
    | st_numpy.byte_string_dtypes()
    | st_numpy.unicode_string_dtypes(endianness="?")
    | st_numpy.datetime64_dtypes()
    | st_numpy.timedelta64_dtypes()
    | st_numpy.array_dtypes(st_numpy.integer_dtypes()),
    st_numpy.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=4),
)


def round_trip(value: object) -> tuple[str, object]:
    encoded = encode(value, name="x")
    data = b"".join(bytes(buffer) for buffer in encoded.data)
    assert len(data) == encoded.size
    assert encoded.meta["type"] == type(value).__qualname__
    return encoded.codec, decode(encoded.codec, bytearray(data), encoded.meta)


def same(left: object, right: object) -> bool:
    """Equal, of the same types all the way down, in the same order, with nan equal to itself and -0.0 not to 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return (math.copysign(1, left) == math.copysign(1, right) and left == right) or (
            math.isnan(left) and math.isnan(right)
        )
    if isinstance(left, complex):
        return same(left.real, right.real) and same(left.imag, right.imag)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, (set, frozenset)):
        return len(left) == len(right) and all(any(same(item, other) for other in right) for item in left)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    return left == right


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(plain)
def test_plain_data_comes_back_exactly_without_pickle(value: object) -> None:
    codec, back = round_trip(value)
    assert codec in ("json", "raw")
    assert same(value, back)


def test_two_surrogates_do_not_become_one_character() -> None:
    pair = "\ud83d" + "\ude00"
    for value in (pair, [pair], {pair: pair}, {"k": (pair,)}):
        assert round_trip(value) == ("json", value)


@settings(max_examples=200, deadline=None)
@given(arrays, st.sampled_from(["C", "F", "reversed", "strided"]))
def test_arrays_come_back_exactly(array: np.ndarray, order: str) -> None:
    if order == "F":
        array = np.asfortranarray(array) if array.ndim else array
    elif array.ndim and order == "reversed":
        array = array[::-1]
    elif array.ndim and order == "strided":
        array = array[::2]
    codec, back = round_trip(array)
    assert codec == "npy" or array.dtype.names  # the format has Latin-1 names only
    assert same(array, back)
    assert back.flags.writeable
    if array.size > 1 and (array.flags.f_contiguous or array.flags.c_contiguous):
        assert back.flags.f_contiguous == array.flags.f_contiguous
        assert back.flags.c_contiguous == array.flags.c_contiguous


@pytest.mark.parametrize(
    "scalar",
    [
        np.float32(1.5),
        np.int8(-3),
        np.bool_(1),
        np.datetime64("2026-01-01"),
        np.str_("é"),
        np.complex64(1j),
        np.bytes_(b"a"),
    ],
)
def test_numpy_scalars_keep_their_type(scalar: np.generic) -> None:
    codec, back = round_trip(scalar)
    assert codec == "npy"
    assert type(back) is type(scalar)
    assert back == scalar


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, [("a", ">i4"), ("b", "f8", (2,))]),
        np.zeros((2, 2), np.dtype([("x", "i1"), ("y", "f8")], align=True)),
        np.array([(1, 2)], [("é", "i4"), ("漢", "i4")]),
        np.array([{"x": 1}, None], dtype=object),
        np.ma.masked_array([1, 2, 3], [0, 1, 0]),
        np.zeros(2, np.dtype("f8", metadata={"unit": "GeV"})),
    ],
)
def test_unusual_arrays(array: np.ndarray) -> None:
    _, back = round_trip(array)
    assert type(back) is type(array)
    assert back.dtype == array.dtype
    assert np.array_equal(np.ma.getmaskarray(back), np.ma.getmaskarray(array))
    assert repr(back.tolist()) == repr(array.tolist())
    assert back.dtype.metadata == array.dtype.metadata


def test_text_dtype_of_numpy_2() -> None:
    array = np.array(["a", "bcé"], dtype=np.dtypes.StringDType())
    _, back = round_trip(array)
    assert back.dtype == array.dtype
    assert back.tolist() == array.tolist()


def test_a_memory_mapped_array_is_not_copied_and_arrives_plain(tmp_path: Path) -> None:
    array = np.memmap(tmp_path / "array", "f8", "w+", shape=(100, 100))
    array[:] = 7
    encoded = encode(array, name="x")
    assert np.shares_memory(np.frombuffer(encoded.data[1], np.uint8), array)
    _, back = round_trip(array)
    assert type(back) is np.ndarray
    assert back.shape == (100, 100)
    assert (back == 7).all()


def test_a_large_array_is_neither_copied_nor_pickled_inside_containers() -> None:
    array = np.zeros(1_000_000)
    for value in ({"train": (array, [1, 2])}, {"frame": pd.DataFrame({"a": [1.0, 2.0]}), "x": array}):
        encoded = encode(value, name="x")
        assert encoded.codec == "json"
        assert any(
            np.shares_memory(np.frombuffer(buffer, np.uint8), array)
            for buffer in encoded.data
            if len(buffer) == 8_000_000
        )


def test_arrays_inside_containers_come_back() -> None:
    value = {"t": (np.arange(3), np.float32(2), b"x" * 5000), "f": pd.DataFrame({"a": [1]}), "empty": np.zeros((0, 3))}
    codec, back = round_trip(value)
    assert codec == "json"
    assert same(back["t"], value["t"])
    assert back["f"].equals(value["f"])
    assert same(back["empty"], value["empty"])


frames = [
    pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": [1.5, float("nan")]}),
    pd.DataFrame({"t": pd.to_datetime(["2026-01-01", None]), "k": pd.Categorical(["a", "b"])}),
    pd.DataFrame({"n": pd.array([1, None], dtype="Int64")}, index=pd.Index([5, 9], name="event")),
    pd.DataFrame({"a": [1, 2]}, index=pd.MultiIndex.from_tuples([(1, "x"), (2, "y")], names=["i", "j"])),
    pd.DataFrame({("a", "b"): [1], ("a", "c"): [2]}),
    pd.DataFrame({0: [1], 1: [2]}),
    pd.DataFrame({"o": [[1, 2], [3]]}),
    pd.DataFrame({"o": pd.Series([1, "mixed", None], dtype=object)}),
    pd.DataFrame({"o": pd.Series([b"bytes", None], dtype=object)}),
    pd.DataFrame({"s": pd.Series(["text", None], dtype=object)}),
    pd.DataFrame({"s": pd.Series(["text", float("nan")], dtype=object)}),
    pd.DataFrame(),
    pd.DataFrame(index=[1, 2]),
    pd.DataFrame({"c": [1j]}),
    pd.DataFrame([[1, 2]], columns=["same", "same"]),
    pd.DataFrame({"p": pd.period_range("2026", periods=2, freq="D")}),
    pd.DataFrame({"f": np.zeros(2, "f4"), "u": np.zeros(2, "u1")}),
]


@pytest.mark.parametrize("frame", frames)
def test_data_frames_come_back_exactly(frame: pd.DataFrame) -> None:
    _, back = round_trip(frame)
    pd.testing.assert_frame_equal(back, frame, check_exact=True, check_freq=True, check_flags=True)
    assert [[type(item) for item in row] for row in back.values.tolist()] == [
        [type(item) for item in row] for row in frame.values.tolist()
    ]


def test_ordinary_frames_travel_by_arrow_and_attributes_are_kept() -> None:
    assert round_trip(frames[0])[0] == "arrow"
    frame = pd.DataFrame({"a": [1]})
    frame.attrs["unit"] = "GeV"
    codec, back = round_trip(frame)
    assert codec == "pickle"
    assert back.attrs == {"unit": "GeV"}
    assert encode(frames[0], name="x", arrow=False).codec == "pickle"


def test_arrow_tables() -> None:
    table = pa.table({"a": [1, None], "b": ["x", "y"]})
    codec, back = round_trip(table)
    assert codec == "arrow"
    assert back.equals(table)


Point = namedtuple("Point", "x y")


class Number(int):
    pass


@pytest.mark.parametrize(
    "value",
    [
        Point(1, 2),
        Number(3),
        OrderedDict(a=1),
        [Number(1)],
        {"k": Point(1, 2)},
        range(3),
        Path("a"),
        ValueError("x"),
        np.dtype("f4"),
    ],
)
def test_other_types_do_not_change(value: object) -> None:
    codec, back = round_trip(value)
    assert codec == "pickle"
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_shared_and_circular_objects_stay_so() -> None:
    inner: list[object] = [1]
    _, back = round_trip([inner, inner])
    assert back[0] is back[1]
    inner.append(inner)
    _, back = round_trip(inner)
    assert back[1] is back
    deep: list[object] = []
    for _ in range(300):
        deep = [deep]
    assert round_trip(deep)[1] == deep


def test_only_code_is_bound_to_a_python() -> None:
    assert encode(lambda: 1, name="f").python_bound
    assert encode({"f": [lambda: 1]}, name="f").python_bound
    assert not encode(Point(1, 2), name="p").python_bound
    assert not encode([1, 2], name="p").python_bound
    assert round_trip(lambda: 5)[1]() == 5


def test_pickles_keep_large_arrays_out_of_band() -> None:
    array = np.zeros(100_000)
    encoded = encode(Point(array, 1), name="p")
    assert encoded.codec == "pickle"
    assert np.shares_memory(np.frombuffer(encoded.data[1], np.uint8), array)
    _, back = round_trip(Point(array, 1))
    assert back.x.flags.writeable


class Holder:
    def __init__(self, inner: object) -> None:
        self.inner = inner


class Broken:
    def __reduce__(self) -> str:
        raise RuntimeError("will not")


@pytest.mark.parametrize(
    ("make", "path", "kind", "hint"),
    [
        (lambda: (i for i in ()), "job", "generator", "list("),
        (lambda: threading.Lock(), "job", "lock", "in the cell"),
        (lambda: [1, {"key": Holder(threading.Lock())}], "job[1]['key'].inner", "lock", "in the cell"),
        (lambda: Path("/dev/null").open(), "job", "TextIOWrapper", "--file"),  # noqa: SIM115
        (lambda: Path("/dev/null").open("rb"), "job", "BufferedReader", "--file"),  # noqa: SIM115
        (lambda: sqlite3.connect(":memory:"), "job", "Connection", "Open the connection"),
        (lambda: (1, socket.socket()), "job[1]", "socket", "Open the connection"),
        (lambda: {"b": Broken()}, "job['b']", "Broken", "plain data"),
        (lambda: (lambda lock: lambda: lock)(threading.Lock()), "lock in job", "lock", "in the cell"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_cannot_travel_is_named(make: object, path: str, kind: str, hint: str) -> None:
    value = make()
    with pytest.raises(CannotEncode) as caught:
        encode(value, name="job")
    assert path in caught.value.message
    assert kind in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.name == "job"
    for item in (value, *(value if isinstance(value, tuple) else ())):
        if hasattr(item, "close"):
            item.close()


def test_the_search_for_the_culprit_is_bounded() -> None:
    value = [[i] for i in range(100_000)]
    value[99_999].append(threading.Lock())
    with pytest.raises(CannotEncode, match="job"):
        encode(value, name="job")


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown codec"):
        decode("marshal", b"", {})


def test_npy_does_not_unpickle() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([Broken], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError):
        decode("npy", stream.getvalue(), {})
    assert pickle.loads(pickle.dumps(Broken)) is Broken
