from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from jupyter_offload.kernel.follow import Events

PIECES = st.lists(
    st.one_of(
        st.text(st.characters(blacklist_characters="\x1e", blacklist_categories=("Cs",)), min_size=1, max_size=20),
        st.fixed_dictionaries({"offload": st.sampled_from(["display", "progress"]), "n": st.text(max_size=10)}),
    ),
    max_size=8,
)


@given(PIECES, st.integers(1, 7))
def test_text_and_records_come_apart_in_any_chunking(pieces: list[str | dict[str, str]], step: int) -> None:
    data = b"".join(
        piece.encode() if isinstance(piece, str) else b"\x1e" + json.dumps(piece).encode() + b"\n" for piece in pieces
    )
    events, found = Events(), []
    for place in range(0, len(data), step):
        found += events.feed(data[place : place + step])
    found += events.end()
    expected: list[object] = []
    for piece in pieces:
        if isinstance(piece, str) and expected and isinstance(expected[-1], str):
            expected[-1] += piece
        else:
            expected.append(piece)
    merged: list[object] = []
    for event in found:
        if isinstance(event, str) and merged and isinstance(merged[-1], str):
            merged[-1] += event
        else:
            merged.append(event)
    assert merged == expected


@given(st.binary(max_size=200))
def test_garbage_is_text(data: bytes) -> None:
    events = Events()
    found = [*events.feed(data), *events.end()]
    assert all(isinstance(event, (str, dict)) for event in found)
    if b"\x1e" not in data:
        assert "".join(map(str, found)) == data.decode("utf-8", "replace")


def test_what_only_looks_like_a_record_stays() -> None:
    events = Events()
    assert list(events.feed(b'\x1e{"a": 1}\nx')) == ['\x1e{"a": 1}\n', "x"]
