"""Quantities and durations: exact, and refused with a hint."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_offload.errors import BadQuantity
from jupyter_offload.quantity import (
    parse_bytes,
    parse_cpus,
    parse_duration,
    parse_gpus,
    parse_quantity,
    show_bytes,
    show_duration,
    whole,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", Fraction(1, 2)), ("1.5Gi", 3 * 2**29), ("2e3", 2000), ("1E", 10**18), ("1e", None), ("0.1", Fraction(1, 10)), (".5", Fraction(1, 2)),
        ("1GiB", 2**30), ("500MB", 5 * 10**8), ("12n", Fraction(12, 10**9)), ("-1", -1), ("1 Gi", None), ("1gi", None), ("", None), ("1e-3", Fraction(1, 1000)),
        ("٣", None), ("nan", None), ("0x10", None), ("1B", None), (3, 3), ("1k", 1000), ("1K", None), ("5.", 5),
    ],
)  # fmt: skip
def test_quantities(text, value):
    if value is None:
        with pytest.raises(BadQuantity):
            parse_quantity(text)
    else:
        assert parse_quantity(text) == value


@given(st.integers(0, 10**12), st.sampled_from(["", "Ki", "Mi", "Gi", "k", "M", "G", "m", "u", "n"]))
def test_every_written_quantity_is_exact(number, suffix):
    scale = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 10**3, "M": 10**6, "G": 10**9}.get(suffix)
    scale = Fraction(scale) if scale else Fraction(1, {"m": 10**3, "u": 10**6, "n": 10**9}[suffix])
    assert parse_quantity(f"{number}{suffix}") == number * scale


@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_a_typed_error(text):
    try:
        assert whole(parse_quantity(text)) >= parse_quantity(text)
    except BadQuantity as error:
        assert error.hint


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("14d", 1209600),
        ("0.5h", 1800),
        ("1500ms", 2),
        (60, 60),
        ("1 h", 3600),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "10 minutes", "-5m", "0s", "1h30", "m"])
def test_bad_durations_are_refused(text):
    with pytest.raises(BadQuantity, match="is not a duration"):
        parse_duration(text)


def test_gpus():
    assert parse_gpus("A100:4") == (4, "A100")
    assert parse_gpus(2) == (2, None)
    for bad in ("A100", ":2", "A100:", "two", "-1", "a$b:1"):
        with pytest.raises(BadQuantity):
            parse_gpus(bad)


@pytest.mark.parametrize("parse", [parse_bytes, parse_cpus])
def test_zero_is_no_request(parse):
    with pytest.raises(BadQuantity, match="not more than zero"):
        parse("0")


def test_shown_to_people():
    assert [show_bytes(value) for value in (0, 1023, 1536, 5 << 20, 200 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "200 GiB",
    ]
    assert [show_duration(value) for value in (0.42, 12, 192, 3600, 7500, 273600)] == [
        "0.4 s",
        "12 s",
        "3 m 12 s",
        "1 h",
        "2 h 5 m",
        "3 d 4 h",
    ]
