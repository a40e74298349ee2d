"""A real kernel (ipykernel), driven as a notebook drives it: cells in, outputs out, cards updated where they stand."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

CARD = "application/vnd.jupyter-offload.job.v1+json"


@dataclass
class Cell:
    """What a cell showed, in order, and when each thing came (seconds since the cell began)."""

    outputs: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def text(self, stream: str = "stdout") -> str:
        """All that was printed to one stream."""
        return "".join(item["text"] for item in self.outputs if item.get("name") == stream)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error output, if there is one."""
        return next((item for item in self.outputs if item["output_type"] == "error"), None)

    @property
    def cards(self) -> list[dict[str, Any]]:
        """The MIME bundles of job cards."""
        return [item["data"] for item in self.outputs if CARD in item.get("data", {})]

    @property
    def result(self) -> str | None:
        """The text of the value of the cell's last expression."""
        return next(
            (item["data"]["text/plain"] for item in self.outputs if item["output_type"] == "execute_result"), None
        )


class Home:
    """Folders of its own for kernels, services and the notebook."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "work"
        self.folder.mkdir(parents=True)
        names = {
            "OFFLOAD_DATA_DIR": "data",
            "JUPYTER_DATA_DIR": "jupyter",
            "JUPYTER_RUNTIME_DIR": "run",
            "JUPYTER_CONFIG_DIR": "config",
            "IPYTHONDIR": "ipython",
        }
        self.environ = {key: value for key, value in os.environ.items() if not key.startswith("OFFLOAD_")}
        self.environ.update({key: str(root / value) for key, value in names.items()})
        self.environ["JUPYTER_NO_CONFIG"] = "1"

    def service_pid(self) -> int | None:
        """The process of the service that kernels find here."""
        try:
            found = json.loads((self.root / "run" / "jupyter-offload" / "service.json").read_text())
            return int(found["pid"])
        except (OSError, ValueError, KeyError):
            return None

    def end_service(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the service and wait for its end; jobs go on."""
        pid = self.service_pid()
        if pid is None or not Path(f"/proc/{pid}").exists():
            return
        os.kill(pid, how)
        until = time.monotonic() + 15
        while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
            if _ended(pid):
                return
            time.sleep(0.02)


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class Notebook:
    """One kernel and its cells."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client
        self._shown: dict[str, list[dict[str, Any]]] = {}

    def run(
        self, source: str, *, seconds: float = 90, on_output: Callable[[dict[str, Any]], None] | None = None
    ) -> Cell:
        """Execute a cell and return what it showed; ``on_output`` sees each output as it comes."""
        cell, begun = Cell(), time.monotonic()
        message = self.client.execute(source, allow_stdin=False)
        while True:
            left = seconds - (time.monotonic() - begun)
            assert left > 0, f"the cell did not end within {seconds} s: {cell.outputs}"
            found = self.client.get_iopub_msg(timeout=left)
            kind, content = found["msg_type"], found["content"]
            mine = found["parent_header"].get("msg_id") == message
            if kind == "status" and mine and content["execution_state"] == "idle":
                cell.seconds = time.monotonic() - begun
                return cell
            output = self._output(kind, content)
            if output is not None and mine:
                cell.outputs.append(output)
                cell.times.append(time.monotonic() - begun)
                if on_output is not None:
                    on_output(output)

    def _output(self, kind: str, content: dict[str, Any]) -> dict[str, Any] | None:
        display_id = content.get("transient", {}).get("display_id")
        if kind == "update_display_data":
            for item in self._shown.get(display_id, []):
                item["data"] = content["data"]
            return None
        if kind not in ("stream", "display_data", "execute_result", "error"):
            return None
        output = {"output_type": kind, **content}
        if display_id:
            self._shown.setdefault(display_id, []).append(output)
        return output

    def settle(self, true: Callable[[], bool], seconds: float = 20) -> None:
        """Take what threads of the kernel still show until it is as expected."""
        until = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < until, "the kernel did not show what was expected"
            try:
                found = self.client.get_iopub_msg(timeout=0.1)
            except Exception:
                continue
            self._output(found["msg_type"], found["content"])

    def kill(self) -> None:
        """SIGKILL the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def _open_loops() -> list[asyncio.BaseEventLoop]:
    found = [item for item in gc.get_objects() if isinstance(item, asyncio.BaseEventLoop)]
    return [loop for loop in found if not loop.is_closed() and not loop.is_running()]


@contextmanager
def notebook(home: Home) -> Iterator[Notebook]:
    """Start a kernel with the extension loaded; shut it down afterwards."""
    before = {id(loop) for loop in _open_loops()}
    manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(home.root / "k"))
    manager.start_kernel(env=home.environ, cwd=str(home.folder))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        book = Notebook(manager, client)
        assert book.run("%load_ext jupyter_offload").error is None
        yield book
    finally:
        client.stop_channels()
        if manager.is_alive():
            manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
        for loop in _open_loops():  # jupyter_client makes event loops and leaves them open
            if id(loop) not in before:
                with contextlib.suppress(OSError, ValueError):  # half closed already
                    loop.close()
