"""Where a benchmark's kernel runs: folders and an environment of its own, as this user or as the pool's."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["HERE", "Client", "Place", "as_user", "place"]

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Place:
    """A root folder, the environment that keeps the service there, and the user who owns it (``None``: ourselves)."""

    root: Path
    environ: dict[str, str]
    user: int | None

    @property
    def jobs(self) -> Path:
        """Where the service keeps the job folders."""
        return self.root / "data" / "jobs"

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start one of our programs here."""
        return subprocess.Popen(
            [*as_user(self.user), sys.executable, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environ,
            cwd=self.root,
        )


def as_user(user: int | None) -> list[str]:
    """Return the words before a command that make it another user's, who may read this checkout wherever it lies (root's home …)."""
    if user is None:
        return []
    who = ["--reuid", str(user), "--regid", str(user), "--clear-groups"]
    return ["setpriv", *who, "--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]


@contextmanager
def place(root: Path, sites: dict[str, Any] | None, user: int | None = None) -> Iterator[Place]:
    """Make the folders, and end the service and remove everything afterwards."""
    shutil.rmtree(root, ignore_errors=True)
    for path in (root, root / "config", root / "run", root / "home"):
        path.mkdir(mode=0o700, parents=True)
    environ = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OFFLOAD_", "JUPYTER", "_CONDOR", "CONDOR", "XDG_", "COV_"))
    }
    environ.update(
        HOME=str(root / "home"),
        OFFLOAD_DATA_DIR=str(root / "data"),
        JUPYTER_RUNTIME_DIR=str(root / "run"),
        JUPYTER_CONFIG_DIR=str(root / "config"),
        JUPYTER_NO_CONFIG="1",
        IPYTHONDIR=str(root / "home" / "ipython"),
        PYTHONPATH=str(HERE.parent),
    )
    if sites is not None:
        (root / "sites.yaml").write_text(json.dumps(sites))  # JSON is YAML
        environ["OFFLOAD_CONFIG"] = str(root / "sites.yaml")
    if user is not None:
        for path in (root, *root.rglob("*")):
            os.chown(path, user, user)
    made = Place(root, environ, user)
    try:
        yield made
    finally:
        _stop_service(made)
        shutil.rmtree(root, ignore_errors=True)


def _stop_service(where: Place) -> None:
    try:
        told = json.loads((where.root / "run" / "jupyter-offload" / "service.json").read_text())
        os.kill(int(told["pid"]), signal.SIGTERM)
    except (OSError, ValueError, KeyError):
        return
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and Path(f"/proc/{told['pid']}").exists():
        time.sleep(0.05)


class Client:
    """A program of ours that takes orders as JSON lines and answers each with one."""

    def __init__(self, where: Place, script: str, first: dict[str, Any]) -> None:
        self._script = script
        self.process = where.start(str(HERE / script))
        self.hello = self.ask(**first)

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._script} ended with {self.process.wait()}")
        return dict(json.loads(line))

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
