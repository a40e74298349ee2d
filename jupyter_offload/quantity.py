"""Kubernetes quantities and durations: the one place where they are parsed and written.

Quantities follow the Kubernetes API ("Quantity", apimachinery ``resource.Quantity``): a decimal number, optionally in
scientific notation, with an optional suffix ``n u m k M G T P E`` (powers of ten) or ``Ki Mi Gi Ti Pi Ei`` (powers of two).
They are exact: arithmetic is on `Fraction`, and only `whole` rounds (up, as Kubernetes does).
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from jupyter_offload.errors import BadQuantity

__all__ = [
    "parse_bytes",
    "parse_cpus",
    "parse_duration",
    "parse_gpus",
    "parse_quantity",
    "show_bytes",
    "show_duration",
    "whole",
]

_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_QUANTITY = re.compile(
    r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:([eE][+-]?[0-9]{1,3})|(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]))?"
)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")
_SECONDS = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
    "w": Fraction(604800),
}


def parse_quantity(text: str | int | float, *, field: str = "quantity") -> Fraction:
    """Return the exact value of a Kubernetes quantity, such as ``"500m"``, ``"1.5Gi"`` or ``"2e3"``.

    A trailing ``B`` as people write it (``1GiB``, ``500MB``) is accepted. Raises `BadQuantity`, naming ``field``.
    """
    raw = str(text).strip()
    trimmed = raw[:-1] if re.search(r"(?:[KMGTPE]i|[kMGTPE])B$", raw) else raw
    match = _QUANTITY.fullmatch(trimmed)
    if match is None or not raw.isascii():
        raise BadQuantity(
            f"{field}: {raw!r} is not a quantity", hint="Write a number with a unit, such as 2, 500m, 512MiB or 1.5GiB."
        )
    number, exponent, suffix = match.groups()
    value = Fraction(number)
    if exponent:
        return value * _power(10, int(exponent[1:]))
    if suffix in _BINARY:
        return value * _power(2, _BINARY[suffix])
    return value * _power(10, _DECIMAL[suffix or ""])


def _power(base: int, exponent: int) -> Fraction:
    return Fraction(base**exponent) if exponent >= 0 else Fraction(1, base**-exponent)


def whole(value: Fraction) -> int:
    """Round up to a whole number of units, as Kubernetes does for bytes and cores."""
    return math.ceil(value)


def parse_bytes(text: str | int | float, *, field: str = "memory") -> int:
    """Return a positive number of bytes. Raises `BadQuantity`."""
    value = whole(parse_quantity(text, field=field))
    if value <= 0:
        raise BadQuantity(f"{field}: {text!r} is not more than zero", hint="Ask for a positive amount, such as 1GiB.")
    return value


def parse_cpus(text: str | int | float, *, field: str = "cpus") -> Fraction:
    """Return a positive number of cores (``"500m"`` is one half). Raises `BadQuantity`."""
    value = parse_quantity(text, field=field)
    if value <= 0:
        raise BadQuantity(
            f"{field}: {text!r} is not more than zero", hint="Ask for a positive number, such as 2 or 500m."
        )
    return value


def parse_gpus(text: str | int, *, field: str = "gpus") -> tuple[int, str | None]:
    """Return ``(count, model)`` of ``"2"`` or ``"A100:4"``. Raises `BadQuantity`."""
    model, _, count = str(text).strip().rpartition(":")
    if not re.fullmatch(r"[0-9]{1,4}", count) or (
        ":" in str(text) and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]*", model)
    ):
        raise BadQuantity(f"{field}: {text!r} is not a number of GPUs", hint="Write --gpus 2 or --gpus A100:4.")
    return int(count), model or None


def parse_duration(text: str | int | float, *, field: str = "time") -> int:
    """Return a positive number of seconds, rounded up, of ``90``, ``"10m"``, ``"1h30m"`` or ``"14d"``. Raises `BadQuantity`."""
    raw = str(text).strip().replace(" ", "")
    value = Fraction(0)
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", raw):
        value = Fraction(raw)
    elif raw and _DURATION.sub("", raw) == "":
        value = sum((Fraction(number) * _SECONDS[unit] for number, unit in _DURATION.findall(raw)), Fraction(0))
    if value <= 0:
        raise BadQuantity(f"{field}: {text!r} is not a duration", hint="Write it as 90s, 10m, 1h30m or 2d.")
    return math.ceil(value)


def show_bytes(count: int) -> str:
    """Write a number of bytes for people: ``"1.5 GiB"``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError(count)  # pragma: no cover


def show_duration(seconds: float) -> str:
    """Write a number of seconds for people: ``"0.4 s"``, ``"3 m 12 s"``, ``"2 h 5 m"``, ``"3 d 4 h"``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    total = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if total >= size:
            rest = total % size // part
            return f"{total // size} {unit} {rest} {smaller}" if rest else f"{total // size} {unit}"
    return f"{total} s"
