"""Opening the archive that a job brings back: nothing in it is trusted.

Only regular files and folders are taken, only below the target folder, within limits of number and size. The archive is a plain POSIX tar
that the job script wrote (`jupyter_offload.translator`): ``status.json``, ``logs/…``, ``files/…``.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from jupyter_offload.errors import ResultError, ResultTooLarge
from jupyter_offload.quantity import show_bytes

__all__ = ["MAX_MEMBERS", "extract"]

MAX_MEMBERS = 100_000
LOG_BYTES = 2 << 30
"""A log that is larger stays behind; logs never cost the result."""


def extract(
    archive: Path, target: Path, *, max_bytes: int, allowed: Iterable[str] = ("status.json", "logs", "files")
) -> list[str]:
    """Extract into ``target`` (made with mode 0700, files 0600) and return notes on members that were left out.

    Raises `ResultError` for an archive that is truncated or no tar, `ResultTooLarge` above ``max_bytes`` or `MAX_MEMBERS`. What was
    extracted before an error stays, so that logs of a broken result can still be read.
    """
    notes: list[str] = []
    total = 0
    roots = frozenset(allowed)
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with tarfile.open(archive, "r:") as tar:
            for number, member in enumerate(tar):
                if number >= MAX_MEMBERS:
                    raise ResultTooLarge(
                        f"the result has more than {MAX_MEMBERS} files", hint="Pack them into one file in the job."
                    )
                parts = PurePosixPath(member.name).parts
                if (
                    not parts
                    or parts[0] not in roots
                    or ".." in parts
                    or member.name.startswith("/")
                    or "\0" in member.name
                ):
                    notes.append(f"left out {member.name!r}: it would lie outside the result")
                    continue
                if not (member.isreg() or member.isdir()):
                    notes.append(f"left out {member.name!r}: a link or special file")
                    continue
                if parts[0] == "logs":
                    if member.size > LOG_BYTES:
                        notes.append(f"left out {member.name!r}: a log of {show_bytes(member.size)}")
                        continue
                else:
                    total += member.size
                if total > max_bytes:
                    raise ResultTooLarge(
                        f"the result is larger than {show_bytes(max_bytes)}",
                        hint="Fetch fewer files, or write them to storage that the site and you can both reach.",
                    )
                _place(tar, member, target.joinpath(*parts), target)
    except (tarfile.TarError, EOFError) as error:
        raise ResultError(
            f"{archive.name}: truncated or no tar archive ({error})", hint="Run the job again; its log may say more."
        ) from error
    return notes


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, target: Path) -> None:
    folder = path if member.isdir() else path.parent
    for parent in reversed([folder, *folder.parents]):
        if parent == target or target not in parent.parents:
            continue
        if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
            parent.unlink()
        parent.mkdir(mode=0o700, exist_ok=True)
    if member.isdir():
        return
    source = tar.extractfile(member)
    if source is None:
        raise tarfile.ReadError(member.name)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    temporary = path.with_name(f".{os.getpid()}.partial")
    with (
        source,
        os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as sink,
    ):
        shutil.copyfileobj(source, sink, 1 << 20)
        if sink.tell() != member.size:
            raise tarfile.ReadError(member.name)
    temporary.replace(path)
