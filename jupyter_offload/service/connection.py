"""The connection file: where the service listens and with which token, readable by its user alone.

A kernel finds it by ``OFFLOAD_CONNECTION``, else as ``<Jupyter runtime folder>/jupyter-offload/service.json``. It appears complete or
not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from jupyter_core.paths import jupyter_runtime_dir

from jupyter_offload.service.folders import private_folder, write_private

__all__ = ["CONNECTION_VARIABLE", "Connection", "default_path"]

CONNECTION_VARIABLE = "OFFLOAD_CONNECTION"


def default_path() -> Path:
    """Return where kernels look that inherited no path."""
    return Path(jupyter_runtime_dir()) / "jupyter-offload" / "service.json"


@dataclass(frozen=True)
class Connection:
    """What the file says."""

    url: str
    token: str
    pid: int
    version: str

    def write(self, path: Path) -> None:
        """Write the file with mode 0600 into a folder of mode 0700."""
        private_folder(path.parent)
        write_private(path, json.dumps(asdict(self)).encode(), durable=False)

    @classmethod
    def read(cls, path: Path) -> Connection | None:
        """Return what the file says; None when there is none, or none of ours."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(data["url"]), str(data["token"]), int(data["pid"]), str(data["version"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove(self, path: Path) -> None:
        """Remove the file if it is still this one."""
        if Connection.read(path) == self:
            path.unlink(missing_ok=True)


def named_path(environ: Mapping[str, str]) -> Path:
    """Return the path that a kernel with this environment looks at."""
    named = environ.get(CONNECTION_VARIABLE)
    return Path(named) if named else default_path()
