"""The user's files that travel: ``--file`` paths, taken from below the current folder, and secrets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from jupyter_offload.errors import FileRefused
from jupyter_offload.payload.work import check_path
from jupyter_offload.quantity import show_bytes

__all__ = ["SECRET_BYTES", "find_files", "find_secrets"]

SECRET_BYTES = 1 << 20
"""Kubernetes keeps at most 1 MiB in a Secret."""
_SKIPPED = frozenset({"__pycache__", ".ipynb_checkpoints", ".git"})


def find_files(paths: Iterable[str], folder: Path) -> list[tuple[str, Path, int]]:
    """Return ``(relative path under which it arrives, file, mode)`` for files and whole folders below ``folder``.

    Raises `FileRefused` for a path that is missing, a link, a device, or outside ``folder``.
    """
    found: dict[str, tuple[str, Path, int]] = {}
    for path in paths:
        for file in _expand(path, folder):
            name = check_path(file.relative_to(folder).as_posix())
            found[name] = (name, file, _mode(file, path))
    return list(found.values())


def _expand(path: str, folder: Path) -> Iterator[Path]:
    if "\0" in path or not path:
        raise FileRefused(f"--file: {path!r} is not a path", hint="Give the path of a file or folder.", path=path)
    place = Path(os.path.normpath(folder / Path(path).expanduser()))
    if not place.is_relative_to(folder):
        raise FileRefused(
            f"--file: {path} is outside the current folder {folder}",
            hint="Only what lies below it can arrive under the same path: copy it here, or change the folder.",
            path=path,
        )
    for above in [place, *place.parents]:
        if above == folder:
            break
        if above.is_symlink():
            raise FileRefused(f"--file: {path} is or goes through a link", hint="Name what it points to.", path=path)
    if not place.exists():
        raise FileRefused(f"--file: {path} does not exist", hint=f"The current folder is {folder}.", path=path)
    if not place.is_dir():
        yield place
        return
    for here, folders, files in os.walk(place):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        for name in sorted(files):
            file = Path(here, name)
            if file.is_symlink():
                raise FileRefused(
                    f"--file: {file.relative_to(folder)} is a link", hint="Name what it points to.", path=path
                )
            yield file


def _mode(file: Path, path: str) -> int:
    about = file.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise FileRefused(f"--file: {path} is not an ordinary file", hint="Only files and folders travel.", path=path)
    return stat.S_IMODE(about.st_mode)


def find_secrets(secrets: Mapping[str, str], folder: Path) -> dict[str, bytes]:
    """Return the content of each secret's file, by name. Raises `FileRefused`; no message shows a content."""
    found = {}
    for name, path in secrets.items():
        place = folder / Path(path).expanduser()
        try:
            with place.open("rb") as file:
                data = file.read(SECRET_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a path"
            raise FileRefused(
                f"--secret {name}: {path}: {reason}", hint="Give the path of the file that holds it.", path=path
            ) from error
        if len(data) > SECRET_BYTES:
            limit = show_bytes(SECRET_BYTES)
            raise FileRefused(
                f"--secret {name}: {path} is larger than {limit}", hint="Send data with --file.", path=path
            )
        found[name] = data
    return found
