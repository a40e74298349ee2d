"""How a value becomes a word of a bash script: the only place where that happens.

A word is a tuple of literal texts and of `Variable`s, the few values that only the running script knows. A literal stands in single
quotes, where bash gives no character a meaning (bash manual, "Single Quotes"); control characters stand in ``$'…'`` as three octal
digits, so that a terminal or an editor that shows the script does no harm.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable

__all__ = ["Variable", "Word", "comment", "map_text", "quote", "quote_word", "word_size"]


class Variable(enum.Enum):
    """A value that only the running script knows; the value is the name of the script's variable."""

    INDEX = "o_index"
    """The task's index."""
    ROOT = "o_root"
    """Absolute path of the task's work folder."""
    WORKDIR = "o_workdir"
    """Absolute path of the container's working directory with the host runtime."""


Word = tuple["str | Variable", ...]

_BARE = re.compile(r"[A-Za-z0-9_%+:,./-][A-Za-z0-9_@%+=:,./-]*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SPECIAL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\\']")
_UNPRINTABLE = re.compile(r"[^ -~]")


def quote(text: str) -> str:
    """Return ``text`` as one bash word that means exactly its characters."""
    if _BARE.fullmatch(text):
        return text
    if _CONTROL.search(text):
        return "$'" + _SPECIAL.sub(lambda match: f"\\{ord(match.group()):03o}", text) + "'"
    return "'" + text.replace("'", "'\\''") + "'"


def quote_word(word: Word) -> str:
    """Return a word with its variables as one bash word; the variables' values are not split and not evaluated."""
    if not any(word):
        return "''"
    return "".join(f'"${{{part.value}}}"' if isinstance(part, Variable) else quote(part) for part in word if part)


def map_text(change: Callable[[str], str], word: Word) -> Word:
    """Return the word with its literal texts changed."""
    return tuple(change(part) if isinstance(part, str) else part for part in word)


def word_size(word: Word) -> int:
    """Return the bytes that the word takes in an argument list, with an upper limit for its variables (a path: 4096)."""
    return 1 + sum(4096 if isinstance(part, Variable) else len(part.encode()) for part in word)


def comment(text: str) -> str:
    """Return ``text`` so that it can stand in a comment: one line of printable ASCII."""
    return _UNPRINTABLE.sub("?", text)[:200]
