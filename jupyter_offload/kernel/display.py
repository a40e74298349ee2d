"""Showing things in the cell: cards that change, replayed outputs, plain lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from jupyter_offload.kernel.future import Job

__all__ = ["CellSink", "show_bundle", "show_card"]


def show_card(job: Job) -> None:
    """Show the card of a job here, and keep it up to date while this kernel lives."""
    from IPython import get_ipython
    from IPython.display import display

    shell = get_ipython()
    handle = display(job.card(), raw=True, display_id=True)  # type: ignore[no-untyped-call]
    # Only a front end of a kernel can change what it has shown; a terminal would print it again.
    if handle is not None and hasattr(shell, "kernel"):
        job.show_on(_updater(handle.display_id))


def _updater(display_id: str) -> Callable[[dict[str, object]], None]:
    from IPython.display import update_display

    def update(data: dict[str, object]) -> None:
        update_display(data, display_id=display_id, raw=True)  # type: ignore[no-untyped-call]

    return update


def show_bundle(html: str, text: str) -> None:
    """Show HTML, or its text where there is no HTML."""
    from IPython.display import display

    display({"text/html": html, "text/plain": text}, raw=True)  # type: ignore[no-untyped-call]


class CellSink:
    """Shows a job's outputs in the cell that runs now, as if they had been made here."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def text(self, stream: str, text: str) -> None:
        """Print to the stream of this name."""
        target = sys.stderr if stream == "stderr" else sys.stdout
        target.write(text)
        target.flush()

    def output(self, output: Mapping[str, Any]) -> None:
        """Publish a rich output; the value of a remote cell's last expression is shown as a display."""
        data = {key: _joined(value) for key, value in (output.get("data") or {}).items()}
        self._shell.display_pub.publish(data, dict(output.get("metadata") or {}))


def _joined(value: Any) -> Any:
    # nbformat allows multi-line text as a list of lines; JSON types stay as they are.
    return (
        "".join(value) if isinstance(value, list) and value and all(isinstance(item, str) for item in value) else value
    )
