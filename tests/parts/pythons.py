"""The CPythons of this machine: on the PATH, below pyenv or uv, and the system's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

OLDEST, NEWEST = (3, 8), (3, 14)


def candidates() -> Iterator[Path]:
    for minor in range(OLDEST[1], NEWEST[1] + 1):
        found = shutil.which(f"python3.{minor}")
        if found:
            yield Path(found)
    roots = [
        os.environ.get("PYENV_ROOT"),
        Path.home() / ".pyenv",
        Path.home() / ".local/share/uv/python",
        "/opt/python",
    ]
    for root in filter(None, roots):
        for folder in ("versions/*/bin/python3", "*/bin/python3"):
            yield from sorted(Path(root).glob(folder))
    yield Path("/usr/bin/python3")


def pythons() -> list[Path]:
    """One interpreter of each minor version that runs here."""
    found: dict[str, Path] = {}
    for path in candidates():
        if not path.exists():
            continue
        asked = subprocess.run(
            [path, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
        )
        numbers = asked.stdout.split()
        if asked.returncode == 0 and len(numbers) == 2 and OLDEST <= (int(numbers[0]), int(numbers[1])) <= NEWEST:
            found.setdefault(".".join(numbers), path)
    return [found[version] for version in sorted(found, key=lambda version: int(version.partition(".")[2]))]
