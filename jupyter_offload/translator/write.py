"""`write`: a Translation becomes files in the job's folder."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jupyter_offload.errors import FileRefused
from jupyter_offload.translator.script import INPUTS, SCRIPT, Translation, task_inputs_name
from jupyter_offload.translator.volumes import Entry

__all__ = ["WrittenScript", "write"]


@dataclass(frozen=True)
class WrittenScript:
    """File names in the job's folder, as the batch seam wants them."""

    script: str
    inputs: tuple[str, ...]
    task_inputs: tuple[tuple[str, ...], ...]
    """Per task its own files; empty when no task has any."""


def write(translation: Translation, folder: str | Path, *, clock: Callable[[], float] = time.time) -> WrittenScript:
    """Write job.sh, inputs.tar and the tasks' own tars (all mode 0600) into an existing folder (made 0700).

    Files that travel by reference are streamed into the tar. Raises `FileRefused` for one that vanished, is not a regular file or
    changed its size while it was read.
    """
    root = Path(folder)
    root.chmod(0o700)
    with _private_file(root / SCRIPT) as script:
        script.write(translation.script.encode())
    now = int(clock())
    _write_tar(root / INPUTS, translation.entries, now)
    own = []
    for index, entries in enumerate(translation.task_entries):
        _write_tar(root / task_inputs_name(index), entries, now)
        own.append((task_inputs_name(index),))
    return WrittenScript(SCRIPT, (INPUTS,), tuple(own))


def _private_file(path: Path) -> BinaryIO:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")  # noqa: PTH123


def _write_tar(path: Path, entries: Iterable[Entry], now: int) -> None:
    # The GNU format carries names as they are, whatever the worker's locale; tar of every age reads it.
    with (
        _private_file(path) as raw,
        tarfile.open(
            fileobj=raw, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
        ) as tar,
    ):
        for entry in entries:
            _add(tar, entry, now)


def _add(tar: tarfile.TarFile, entry: Entry, now: int) -> None:
    member = tarfile.TarInfo(entry.path)
    member.mode = entry.mode
    member.mtime = now
    if entry.kind == "folder":
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
    elif entry.kind == "link":
        member.type = tarfile.SYMTYPE
        member.linkname = entry.target
        tar.addfile(member)
    elif entry.source is None:
        member.size = len(entry.data)
        tar.addfile(member, io.BytesIO(entry.data))
    else:
        _add_file(tar, member, entry.source)


def _add_file(tar: tarfile.TarFile, member: tarfile.TarInfo, source: str) -> None:
    try:
        with open(os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as content:  # noqa: PTH123
            before = os.fstat(content.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise FileRefused(f"{source!r} is not a regular file", hint="Send regular files only.", file=source)
            member.size = before.st_size
            member.mtime = int(before.st_mtime)
            tar.addfile(member, content)
            after = os.fstat(content.fileno())
    except OSError as error:  # tarfile's own complaint about a file that became shorter is one of these, too
        raise FileRefused(
            f"{source!r} cannot be sent: {error.strerror or error}",
            hint="Check the file and send the job again.",
            file=source,
        ) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise FileRefused(
            f"{source!r} changed while it was read", hint="Send the job again when the file is complete.", file=source
        )
