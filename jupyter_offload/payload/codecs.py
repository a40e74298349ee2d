"""Values as bytes and back. The codecs themselves live in the runner, which must have them where nothing else of ours is.

- ``raw``: `bytes` as they are.
- ``npy``: numpy arrays and scalars without objects in them (memory-mapped ones arrive as plain arrays); shape, order and byte order stay.
- ``arrow``: pandas data frames that come back from Arrow exactly as they were, and pyarrow tables. Used when pyarrow is installed on
  the side that encodes; the other side then needs it too (`MissingRemotePackage` says so). Preferred over pickle because pickled
  frames break between pandas versions.
- ``json``: everything made of None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset and dict of exactly these types,
  with arrays and frames attached. Types never change silently: what JSON lacks is tagged.
- ``pickle``: everything else, by cloudpickle. When code travels in it, only the same Python minor may open it (``python_bound``).

Each value is encoded by itself: two names for one object arrive as two objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jupyter_offload.errors import CannotEncode
from jupyter_offload.payload import runner
from jupyter_offload.payload.bundle import Buffer

__all__ = ["Encoded", "decode", "encode"]


@dataclass(frozen=True)
class Encoded:
    """A value as bytes; ``data`` are buffers to be written one after the other, kept and not copied."""

    codec: str
    data: tuple[Buffer, ...]
    meta: Mapping[str, Any]
    size: int
    """Bytes in all."""
    python_bound: bool
    """Whether only the same Python minor may open it."""


def encode(value: object, *, name: str, arrow: bool = True) -> Encoded:
    """Encode ``value``, called ``name`` in messages. Raises `CannotEncode`, naming the variable, the type and the inner path."""
    try:
        found = runner.encode_value(value, name, arrow)
    except runner.CannotEncode as error:
        raise CannotEncode(error.message, hint=error.hint, name=name, type=type(value).__qualname__) from error
    return Encoded(found.codec, tuple(found.chunks), found.meta, found.size, bool(found.meta.get("python_bound")))


def decode(codec: str, data: Buffer, meta: Mapping[str, Any]) -> object:
    """Return the value that `encode` encoded. Only for bytes whose checksum and origin were checked (see `results`)."""
    return runner.decode_value(codec, data, meta)
