"""Finding the service: the connection file, and a headless service where there is none.

The Jupyter server extension puts the path of its file into the environment that kernels inherit. Without a Jupyter server, or when it has
ended, the file lies in the Jupyter runtime folder; when nobody answers there either, a headless service is started. Any number
of processes may do so at once: of their services one stays, and all find its file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jupyter_offload.errors import ServiceUnreachable

__all__ = ["Connection", "candidates", "start_headless"]

START_SECONDS = 10.0
"""How long a service that was started may take until it answers."""
_TAIL_BYTES = 2000


@dataclass(frozen=True)
class Connection:
    """Where a service listens and with which token; the token never shows in a repr."""

    url: str
    token: str
    pid: int

    def __repr__(self) -> str:
        return f"Connection({self.url!r}, pid={self.pid})"

    @classmethod
    def read(cls, path: Path) -> Connection | None:
        """Return what the file says; None when there is none, or none of ours."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(data["url"]), str(data["token"]), int(data["pid"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def candidates(environ: Mapping[str, str]) -> list[Path]:
    """Return where the connection file may lie, nearest first."""
    named = environ.get("OFFLOAD_CONNECTION")
    found = [Path(named)] if named else []
    return [*found, _runtime(environ) / "jupyter-offload" / "service.json"]


def _runtime(environ: Mapping[str, str]) -> Path:
    named = environ.get("JUPYTER_RUNTIME_DIR")
    if named:
        return Path(named)
    from jupyter_core.paths import jupyter_runtime_dir

    return Path(jupyter_runtime_dir())


def start_headless(
    environ: Mapping[str, str], *, answers: Callable[[Connection], bool], seconds: float = START_SECONDS
) -> Connection:
    """Start a service and return its connection when it answers.

    Raises `ServiceUnreachable` with the end of what the service wrote when it does not answer within ``seconds``.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_offload.service.headless"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=dict(environ),
            start_new_session=True,
            close_fds=True,
        )
        # The service outlives us; until then somebody has to take note of its end.
        threading.Thread(target=process.wait, name="offload-service-reaper", daemon=True).start()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for path in candidates(environ):
                connection = Connection.read(path)
                if connection is not None and answers(connection):
                    return connection
            if process.returncode not in (None, 0):
                break
            time.sleep(0.05)
        raise ServiceUnreachable(
            f"the service did not start within {seconds:.0f} s{_tail(errors.fileno(), environ)}",
            hint="Run `jupyter offload serve` in a terminal to see why; [server] must be installed where the kernel runs.",
        )


def _tail(descriptor: int, environ: Mapping[str, str]) -> str:
    size = os.fstat(descriptor).st_size
    text = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode("utf-8", "replace").strip()
    if not text:
        folder = environ.get("OFFLOAD_DATA_DIR")
        log = Path(folder) / "service.log" if folder else None
        if log is None or not log.is_file():
            return ""
        text = log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").strip()
    return ":\n  " + "\n  ".join(text.splitlines()[-12:])
