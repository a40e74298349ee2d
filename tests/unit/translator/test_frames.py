"""The parser of the script's output: any chunking gives the same logs, and garbage does no harm."""

from __future__ import annotations

import json
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from jupyter_offload.translator.frames import Frame, FrameParser, LogFrame, StatusFrame


def log(container: str, stream: str, offset: int, data: bytes) -> bytes:
    header = json.dumps({"c": container, "s": stream, "o": offset, "n": len(data), "t": 12.5})
    return b"\x1e" + header.encode() + b"\n" + data + b"\n"


def status(phase: str) -> bytes:
    return b'\x1e{"status": ' + json.dumps({"format": 1, "phase": phase}).encode() + b"}\n"


def parse(chunks: Iterable[bytes]) -> list[Frame]:
    parser = FrameParser()
    return [frame for chunk in chunks for frame in parser.feed(chunk)]


def logs(frames: Iterable[Frame]) -> dict[tuple[str, str], bytes]:
    """The log files as the frames tell them; pieces must follow each other without a gap."""
    found: dict[tuple[str, str], bytes] = {}
    for frame in frames:
        if isinstance(frame, LogFrame):
            key = (frame.container, frame.stream)
            assert frame.offset == len(found.get(key, b""))
            found[key] = found.get(key, b"") + frame.data
    return found


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    chunks, place = [], 0
    for size in sizes:
        chunks.append(data[place : place + size])
        place += size
    return [*chunks, data[place:]]


# What a log holds is often what frames are made of.
PIECES = st.lists(
    st.sampled_from([b"\x1e", b"\n", b"{", b'{"status": {}}\n', b"\0", b"\xff", b"text", status("X")]), min_size=1
).map(b"".join)
# Garbage between frames: anything without the mark of a frame.
GARBAGE = st.binary(max_size=20).map(lambda data: data.replace(b"\x1e", b""))


@given(st.data())
def test_any_chunking_gives_the_logs_and_statuses(data: st.DataObject) -> None:
    stream, sent, phases = b"", {}, []
    for _ in range(data.draw(st.integers(0, 6))):
        stream += data.draw(GARBAGE)
        if data.draw(st.booleans()):
            phases.append(data.draw(st.sampled_from(["Running", "Failed"])))
            stream += status(phases[-1])
        else:
            key = (data.draw(st.sampled_from(["a", "b-1"])), data.draw(st.sampled_from(["stdout", "stderr"])))
            piece = data.draw(PIECES)
            stream += log(*key, len(sent.get(key, b"")), piece)
            sent[key] = sent.get(key, b"") + piece
    frames = parse(cut(stream, data.draw(st.lists(st.integers(0, 40)))))
    assert logs(frames) == sent
    assert [frame.status["phase"] for frame in frames if isinstance(frame, StatusFrame)] == phases


@given(
    st.lists(
        st.binary(max_size=30)
        | st.sampled_from([b"\x1e{", b'"c":"a",', b'"n":9', b"}\n", log("a", "stdout", 0, b"x"), status("Y")])
    )
)
def test_garbage_never_raises_and_a_good_frame_is_found_after_it(chunks: list[bytes]) -> None:
    parser = FrameParser()
    for chunk in chunks:
        parser.feed(chunk)
    whole = parse([b"".join(chunks)])
    assert logs_loose(parse(chunks)) == logs_loose(whole)
    # However the garbage ends, at most the announced bytes of one log frame hide what comes.
    assert StatusFrame({"format": 1, "phase": "Z"}) in parser.feed(b"\n" * 100 + status("Z"))


def logs_loose(frames: list[Frame]) -> list[tuple[str, int, bytes]]:
    """Frames with neighbouring pieces joined."""
    found: list[tuple[str, int, bytes]] = []
    for frame in frames:
        if isinstance(frame, StatusFrame):
            found.append(("status", 0, json.dumps(frame.status).encode()))
        elif found and found[-1][0] == frame.container and found[-1][1] + len(found[-1][2]) == frame.offset:
            found[-1] = (frame.container, found[-1][1], found[-1][2] + frame.data)
        else:
            found.append((frame.container, frame.offset, frame.data))
    return found


def test_a_log_frame_is_handed_on_as_it_arrives() -> None:
    parser = FrameParser()
    stream = log("main", "stdout", 7, b"0123456789")
    at = stream.index(b"0123") + 4
    first = parser.feed(stream[:at])
    assert first == [LogFrame("main", "stdout", 7, b"0123", 12.5)]
    assert parser.feed(stream[at:]) == [LogFrame("main", "stdout", 11, b"456789", 12.5)]


def test_headers_with_wrong_types_are_garbage() -> None:
    for header in (b'{"c":1,"s":"stdout","o":0,"n":3,"t":1}', b'{"c":"a","s":"out","o":0,"n":3,"t":1}', b'{"c":"a","s":"stdout","o":-1,"n":3,"t":1}',
                   b'{"c":"a","s":"stdout","o":0,"n":true,"t":1}', b'{"c":"a","s":"stdout","o":0,"n":3,"t":NaN}', b"[" * 100_000, b"[]", b'{"status": 3}'):  # fmt: skip
        assert parse([b"\x1e" + header + b"\n" + status("Running")]) == [
            StatusFrame({"format": 1, "phase": "Running"})
        ], header[:60]


def test_a_header_that_was_cut_off_does_not_hide_the_next_one() -> None:
    assert parse([b'\x1e{"c":"main","s":"std' + status("Running")]) == [StatusFrame({"format": 1, "phase": "Running"})]
    assert parse([b"\x1e" + b"x" * (2 << 20), status("Running")]) == [StatusFrame({"format": 1, "phase": "Running"})]
