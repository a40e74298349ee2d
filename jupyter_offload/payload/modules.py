"""User modules as source: what a cell imports from beside the notebook or from an editable install.

An installed package is the site's business (an image, ``--pip``); a module of the user's own tree exists nowhere else
and travels. Nothing of the user's is imported or run here: files are found by the import system's finders and read as
text, so what travels is what is on disk, even when the kernel still holds an older version.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jupyter_offload.errors import CaptureError

__all__ = ["Limits", "SourceFile", "user_modules"]

INSTALLED = frozenset({"site-packages", "dist-packages"})
OWN = frozenset({"jupyter_offload"})
"""This package is never the user's, even in an editable install; the runner brings what it needs."""

COMPILED = frozenset({".pyc", ".pyo", ".so", ".pyd", ".dylib", ".dll", ".o", ".a"})


@dataclass(frozen=True, slots=True)
class Limits:
    """How much source may travel, in bytes and files. Data files over `data_bytes` stay behind, silently.

    A package folder may hold a large table that the code does not need; what is needed is named by ``--file``.
    """

    data_bytes: int = 1 << 20
    total_bytes: int = 50 << 20
    files: int = 5000


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file that travels: ``path`` is relative to a folder on the other side's ``sys.path``, with slashes."""

    path: str
    origin: Path
    data: bytes
    module: str


def user_modules(
    wanted: Iterable[str | types.ModuleType],
    *,
    sys_modules: Mapping[str, types.ModuleType] | None = None,
    sys_path: Sequence[str] | None = None,
    limits: Limits | None = None,
) -> list[SourceFile]:
    """Return the files of the user's modules among `wanted` (names or modules) and of all that these import.

    Packages come whole, sorted by path; installed, built-in and unknown modules are left out. The process's own
    modules and path are looked at unless others are given. Raises `CaptureError` when the limits are exceeded or a
    module is compiled for this machine.
    """
    search = _Search(sys.modules if sys_modules is None else sys_modules, sys.path if sys_path is None else sys_path)
    limits = limits or Limits()
    found: dict[str, SourceFile] = {}
    waiting = [item.__name__ if isinstance(item, types.ModuleType) else item for item in wanted]
    seen = set(OWN) | {"__main__", "__mp_main__"} | set(sys.builtin_module_names)
    total = 0
    while waiting:
        name = waiting.pop().partition(".")[0]
        if name in seen or not name:
            continue
        seen.add(name)
        for file in search.files(name, limits):
            found[file.path] = file
            total += len(file.data)
            if total > limits.total_bytes or len(found) > limits.files:
                raise _too_much(name, list(found.values()), limits)
            if file.path.endswith(".py"):
                waiting += _imported(file.data)
    return [found[path] for path in sorted(found)]


class _Search:
    """Finds modules the way an import would, without importing."""

    def __init__(self, modules: Mapping[str, types.ModuleType], path: Sequence[str]) -> None:
        self.modules = modules
        self.path = list(path)
        self.system = _system_folders()

    def files(self, name: str, limits: Limits) -> Iterator[SourceFile]:
        """Yield the files of the top-level module `name` when it is the user's."""
        origin, folders = self._places(name)
        if origin is not None and self._is_users(origin):
            if origin.suffix not in (".py", ".pyw"):
                raise CaptureError(
                    f"module {name} is compiled ({origin}) and cannot travel as source",
                    hint="Build it into the site's image, or install it there with --pip.",
                    module=name,
                )
            if origin.name != "__init__.py":
                yield SourceFile(f"{name}.py", origin, origin.read_bytes(), name)
                return
        for folder in folders:
            if self._is_users(folder):
                yield from _folder(name, folder, limits, namespace=origin is None)

    def _places(self, name: str) -> tuple[Path | None, list[Path]]:
        """Return the file of a module and the folders of a package (several for a namespace package)."""
        module = self.modules.get(name)
        if module is not None:
            file = getattr(module, "__file__", None)
            folders = [str(item) for item in getattr(module, "__path__", [])]
            return _file(file), [Path(item) for item in folders if Path(item).is_dir()]
        spec = importlib.machinery.PathFinder.find_spec(name, self.path)
        if spec is None and self.path == sys.path:
            spec = importlib.util.find_spec(name)  # the finders of editable installs; a top-level name runs no import
        if spec is None:
            return None, []
        folders = [str(item) for item in spec.submodule_search_locations or []]
        return _file(spec.origin if spec.has_location else None), [Path(item) for item in folders]

    def _is_users(self, path: Path) -> bool:
        for place in {path.absolute(), path.resolve()}:
            if INSTALLED & set(place.parts) or any(place.is_relative_to(folder) for folder in self.system):
                return False
        return True


def _file(origin: str | None) -> Path | None:
    """Return an existing file; a module in a zip file has none and is left to the site."""
    return Path(origin) if origin and Path(origin).is_file() else None


def _system_folders() -> list[Path]:
    """Return where the interpreter and its packages live."""
    paths = sysconfig.get_paths()
    found = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib") if key in paths}
    for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix):
        found |= {f"{prefix}/lib", f"{prefix}/lib64"}
    return [Path(item).resolve() for item in found]


def _folder(name: str, folder: Path, limits: Limits, *, namespace: bool) -> Iterator[SourceFile]:
    """Yield the files of a package folder, hidden ones and links out of it left aside.

    A namespace package may be any folder that happens to have the name: only its folders that hold Python are taken.
    """
    root = folder.resolve()
    looked_at = 0
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(item for item in folders if not item.startswith(".") and item != "__pycache__")
        python = any(item.endswith(".py") for item in files)
        for item in sorted(files):
            looked_at += 1
            if looked_at > 4 * limits.files:
                raise CaptureError(
                    f"the folder of module {name} holds more than {4 * limits.files} files ({folder})",
                    hint="Move the data out of the package's folder and name the files needed with --file.",
                    module=name,
                )
            path = Path(here, item)
            if item.startswith(".") or path.suffix in COMPILED or (namespace and not python):
                continue
            if not path.resolve().is_relative_to(root) or not path.is_file():
                continue
            if path.suffix != ".py" and path.stat().st_size > limits.data_bytes:
                continue
            relative = Path(name, path.relative_to(folder)).as_posix()
            yield SourceFile(relative, path, path.read_bytes(), name)


def _imported(data: bytes) -> list[str]:
    """Return the absolute imports anywhere in a file; relative ones stay in its package, which travels whole."""
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError):
        return []  # a template or another version's code: where it is imported it raises its own error
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append(node.module)
    return found


def _too_much(name: str, files: list[SourceFile], limits: Limits) -> CaptureError:
    largest = max(files, key=lambda file: len(file.data))
    total = sum(len(file.data) for file in files)
    return CaptureError(
        f"the user's modules are too large to travel: {len(files)} files with {total:,} bytes up to module {name} "
        f"(limits: {limits.files} files, {limits.total_bytes:,} bytes; largest: {largest.origin})",
        hint="Move data out of the package's folder, or install the package in the site's image.",
        module=name,
        path=str(largest.origin),
    )
