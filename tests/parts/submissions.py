"""Submissions as a kernel would send them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from jupyter_offload.job import Kind, Request, new_id
from jupyter_offload.payload.bundle import BundleWriter

KEY = "5e" * 32
_count = itertools.count()


def command(*words: str, **fields: Any) -> Request:
    """Return the request of a command."""
    return Request(fields.pop("id", new_id()), fields.pop("name", "try"), Kind.COMMAND, command=words, **fields)


def cell(**fields: Any) -> Request:
    """Return the request of a cell."""
    return Request(fields.pop("id", new_id()), fields.pop("name", "try"), Kind.CELL, python="3.11", **fields)


def bundle(folder: Path, request: Request, source: str = "", secrets: dict[str, bytes] | None = None) -> Path:
    """Write the submission into ``folder``; return its path."""
    main = (
        {} if request.kind is Kind.COMMAND else {"source": source, "filename": "cell", "outputs": list(request.outputs)}
    )
    writer = BundleWriter(folder / f"{next(_count)}.bundle", request=request, key=KEY, main=main)
    for name, data in (secrets or {}).items():
        writer.add("secret", name, "raw", data)
    if source:
        writer.add("source", "cell", "raw", source.encode())
    return writer.close()
