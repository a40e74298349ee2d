"""Reading a manifest strictly: every value is asked for with its type, and every complaint names its path.

``null`` and empty lists, mappings and texts count as absent, as clients of Kubernetes write them for fields that nobody set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NoReturn

from jupyter_offload.errors import BadQuantity, ManifestError
from jupyter_offload.quantity import parse_quantity

__all__ = ["Reader", "dns_label", "refuse"]

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_./-]+")


def refuse(path: str, what: str, hint: str = "Mend the manifest; nothing was submitted.") -> NoReturn:
    """Raise `ManifestError` for the field at ``path``."""
    raise ManifestError(f"{path}: {what}", hint=hint, path=path)


def dns_label(text: str, path: str) -> str:
    """Return ``text`` when it is a DNS label (RFC 1123), as Kubernetes wants names of containers and volumes."""
    if _LABEL.fullmatch(text) is None:
        refuse(path, f"{text!r} is not a name of at most 63 lower-case letters, digits and dashes")
    return text


class Reader:
    """One mapping of a manifest and its path."""

    __slots__ = ("data", "path")

    def __init__(self, data: object, path: str) -> None:
        if not isinstance(data, Mapping):
            refuse(path or "manifest", f"must be a mapping, not {_kind(data)}")
        self.data: Mapping[object, object] = data
        self.path = path

    def at(self, key: str) -> str:
        """Return the path of a key."""
        shown = key if _PLAIN_KEY.fullmatch(key) else repr(key)
        return f"{self.path}.{shown}" if self.path else shown

    def check(self, handled: Iterable[str], harmless: Mapping[str, str] | None = None) -> None:
        """Refuse every key that is neither honoured nor known to mean nothing here, unless it is unset."""
        for key, value in self.data.items():
            if not isinstance(key, str):
                refuse(self.path, f"the key {key!r} is not text")
            if key in handled or (harmless and key in harmless) or value is None or value in (False, "", [], {}, ()):
                continue
            refuse(
                self.at(key),
                "is not supported and would change what the Pod does",
                "Leave the field out; docs/pods.md lists what is honoured.",
            )

    def text(self, key: str, default: str | None = None) -> str | None:
        """Return a text, or ``default`` when the key is absent."""
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            refuse(self.at(key), f"must be text, not {_kind(value)}")
        return sound(value, self.at(key))

    def required(self, key: str) -> str:
        """Return a text that must not be absent or empty."""
        value = self.text(key)
        if not value:
            refuse(self.at(key), "is missing")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts; empty when the key is absent."""
        value = self.data.get(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            refuse(self.at(key), f"must be a list of texts, not {_kind(value)}")
        found = []
        for place, item in enumerate(value):
            if not isinstance(item, str):
                refuse(f"{self.at(key)}[{place}]", f"must be text, not {_kind(item)}")
            found.append(sound(item, f"{self.at(key)}[{place}]"))
        return tuple(found)

    def integer(self, key: str, *, lowest: int, highest: int = 1 << 53) -> int | None:
        """Return a whole number within limits, or ``None`` when the key is absent."""
        value = self.data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            refuse(self.at(key), f"must be a whole number, not {_kind(value)}")
        if not lowest <= value <= highest:
            refuse(self.at(key), f"{value} is not between {lowest} and {highest}")
        return value

    def boolean(self, key: str) -> bool:
        """Return a truth value, ``False`` when the key is absent."""
        value = self.data.get(key)
        if value is not None and not isinstance(value, bool):
            refuse(self.at(key), f"must be true or false, not {_kind(value)}")
        return bool(value)

    def quantity(self, key: str) -> Fraction | None:
        """Return an exact amount that is not negative, or ``None`` when the key is absent."""
        value = self.data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            refuse(self.at(key), f"must be a quantity such as 2, 500m or 1.5Gi, not {_kind(value)}")
        try:
            amount = parse_quantity(value, field=self.at(key))
        except BadQuantity as error:
            refuse(self.at(key), f"{value!r} is not a quantity", error.hint)
        if amount < 0:
            refuse(self.at(key), f"{value!r} is less than nothing")
        return amount

    def child(self, key: str) -> Reader | None:
        """Return a mapping inside, or ``None`` when the key is absent."""
        value = self.data.get(key)
        return None if value is None else Reader(value, self.at(key))

    def children(self, key: str) -> list[Reader]:
        """Return a list of mappings; empty when the key is absent."""
        value = self.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            refuse(self.at(key), f"must be a list, not {_kind(value)}")
        return [Reader(item, f"{self.at(key)}[{place}]") for place, item in enumerate(value)]

    def strings(self, key: str) -> dict[str, str]:
        """Return a mapping of texts to texts; empty when the key is absent."""
        inner = self.child(key)
        if inner is None:
            return {}
        return {name: inner.text(name) or "" for name in map(_text_key(inner), inner.data)}


def _text_key(reader: Reader) -> _KeyCheck:
    return _KeyCheck(reader.path)


class _KeyCheck:
    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, key: object) -> str:
        if not isinstance(key, str):
            refuse(self.path, f"the key {key!r} is not text")
        return key


def sound(value: str, path: str) -> str:
    """Return ``value`` when a process can get it: no NUL, no half of a surrogate pair."""
    if "\0" in value:
        refuse(path, "holds a NUL character, which no process can get")
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(path, "is not text that UTF-8 can carry")
    return value


def _kind(value: object) -> str:
    names = {
        "str": "text",
        "dict": "a mapping",
        "list": "a list",
        "int": "a number",
        "float": "a number",
        "bool": "true or false",
    }
    return "nothing" if value is None else names.get(type(value).__name__, type(value).__name__)
