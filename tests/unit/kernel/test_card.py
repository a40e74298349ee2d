from __future__ import annotations

import dataclasses
import html.parser
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_offload.job import Job, Kind, Request, Resources, Shipment, State, Task
from jupyter_offload.kernel import card

NOW = 1_000_000.0


def job(state: State = State.RUNNING, *, name: str = "svm", reason: str = "", **task: object) -> Job:
    request = Request(
        id="7f3a" + "0" * 28,
        name=name,
        kind=Kind.CELL,
        image="science",
        resources=Resources("2", "1GiB", None, 4, "A100", 600),
        ships=(Shipment("X", "value", "ndarray", 920_064),),
        created=NOW - 30,
    )
    made = Task(0, state, reason=reason, **{"attempts": 1, "started": NOW - 17, "host": "wn-212", **task})  # type: ignore[arg-type]
    return Job(request, "alice", "pool", tasks=(made,))


def test_the_bundle_says_everything_in_three_ways() -> None:
    data = card.bundle(job(), now=NOW)
    assert data[card.MIME] == {"id": "7f3a" + "0" * 28, "name": "svm", "state": "running"}
    for key in ("text/html", "text/plain"):
        for word in (
            "svm-7f3a",
            "running",
            "17 s",
            "X",
            "898 KiB",
            "2 cores",
            "1GiB",
            "4 GPUs (A100)",
            "pool",
            "science",
            "wn-212",
        ):
            assert word in str(data[key]), (key, word)
    json.dumps(data)


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.names.add(tag)


@given(st.text(max_size=60), st.text(max_size=20), st.text(max_size=20))
def test_nothing_of_the_users_becomes_markup(reason: str, name: str, kind: str) -> None:
    shown = job(reason=f"<script>alert(1)</script>{reason}", name=f"<img src=x>{name}")
    ships = (Shipment(f'"><script>{name}', f'" onload="{kind}', f"<b>{kind}", 3),)
    shown = dataclasses.replace(shown, request=dataclasses.replace(shown.request, ships=ships), files=("<i>f",))
    tags = Tags()
    tags.feed(str(card.bundle(shown, now=NOW, notes=["<u>note"])["text/html"]))
    assert tags.names <= {"style", "div", "span", "b", "code"}


@pytest.mark.parametrize("state", list(State))
def test_every_state_is_an_icon_and_a_word(state: State) -> None:
    shown = card.state_badge(state)
    assert shown == f"{card.ICONS[state]} {state.value}"
    assert shown in str(card.bundle(job(state), now=NOW)["text/html"])


def test_reruns_staleness_progress_and_hints_show() -> None:
    stale = dataclasses.replace(job(State.QUEUED, attempts=2, hint="wait"), stale_since=NOW)
    text = str(card.bundle(stale, now=NOW)["text/plain"])
    assert "started 2 times" in text
    assert "stale since" in text
    running = job(progress={"done": 3, "total": 12, "label": "cell 4 of 12"})
    shown = card.bundle(running, now=NOW)
    assert "width:25.0%" in str(shown["text/html"])
    assert "cell 4 of 12" in str(shown["text/plain"])
