"""Reading YAML so that an error can name the line: the values, and for each key path the line where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jupyter_offload.errors import ConfigError

__all__ = ["Document", "read_document"]


@dataclass(frozen=True)
class Document:
    """One YAML file: its values and the line (from 1) of every key path, as in ``("sites", "pool", "batch")``."""

    file: Path
    values: dict[str, Any]
    lines: dict[tuple[str, ...], int]

    def line(self, path: tuple[str, ...]) -> int:
        """Return the line of the deepest known ancestor of this path."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_document(file: Path) -> Document:
    """Read one file with safe types only. Raises `ConfigError` with the line for bad syntax, a duplicate key or a non-mapping."""
    try:
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file}: cannot be read: {error}", hint="Check the file's permissions.", file=str(file)
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            f"{file}:{line}: {problem}", hint="Mend the YAML syntax.", file=str(file), line=line
        ) from error
    if node is None:
        return Document(file, {}, {})
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{file}:1: not a mapping", hint="The file begins with `sites:`.", file=str(file), line=1)
    return Document(file, values, dict(_lines(file, node, ())))


def _lines(file: Path, node: yaml.Node, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            if name in seen:
                raise ConfigError(
                    f"{file}:{line}: {name!r} stands twice",
                    hint="Keep one of the two.",
                    file=str(file),
                    line=line,
                    key=name,
                )
            seen.add(name)
            yield from _lines(file, value, (*path, name))
            yield (*path, name), line
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _lines(file, item, (*path, str(index)))
