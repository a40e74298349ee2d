"""Strings that were chosen to be misunderstood, and as many examples of them as a test wants, always the same ones."""

from __future__ import annotations

from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

T = TypeVar("T")

CANARY = "o_canary"
FRAGMENTS = [
    "'", '"', "`", "$", "\\", "\n", "\r", "\t", " ", ";", "&", "|", "<", ">", "(", ")", "{", "}", "[", "]", "*", "?", "~", "!", "#", "%", "=", "-", "--", "\x01", "\x7f",
    "\x1b[31m", "\x1e", f"$(touch {CANARY})", f"`touch {CANARY}`", f"; touch {CANARY} #", f"\ntouch {CANARY}\n", f"'; touch {CANARY}; '", f'"; touch {CANARY}; "', f">{CANARY}",
    "${IFS}", "$((1+1))", "$HOME", "${o_root}", "$o_index", "$$", "$@", "\\'", "$'\\n'", "EOF\n", "<%= 7*7 %>", "<# x #>", "{{ 7*7 }}", "{% raw %}", "é", "☃", "𝔘", "\u2028", "\ufeff", "\x85",
    "\u202e", "%s%n", "%(x)s", "$(OFFLOAD_TASK_INDEX)", "$(PATH)", "() { :;}; touch o_canary", "a[$(touch o_canary)]", "-n", "-e", "--help", "\\\n", "~root", "{a,b}", "!!", "^a^b", "'\\''",
]  # fmt: skip
TEXT = st.lists(
    st.sampled_from(FRAGMENTS) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6),
    max_size=6,
).map("".join)
NAME = (
    st.lists(TEXT.map(str.encode) | st.binary(max_size=6), min_size=1, max_size=3)
    .map(b"".join)
    .map(lambda name: name.replace(b"\0", b"").replace(b"/", b"")[:200])
    .filter(lambda name: name not in (b"", b".", b".."))
)


def examples(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """The first `count` different examples that hypothesis makes of a strategy."""
    found: dict[Any, T] = {}

    @settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(strategy)
    def collect(value: T) -> None:
        found[value] = value

    collect()
    return list(found.values())


def escaped(text: str) -> str:
    """What a client writes so that Kubernetes' own ``$(NAME)`` leaves the text alone."""
    return text.replace("$", "$$")
