"""Tab completion of ``%%offload`` and ``%offload``: options, commands, sites, images, GPU models, job ids, names, files.

What the service knows is asked for at most every few seconds and never waited for longer than a tenth of a second.
"""

from __future__ import annotations

import glob
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from jupyter_offload.errors import OffloadError
from jupyter_offload.job import short_ids
from jupyter_offload.kernel.client import Client
from jupyter_offload.kernel.lines import COMMANDS, JOB_COMMANDS
from jupyter_offload.kernel.options import CELL_FLAGS

__all__ = ["Completer"]

PATIENCE_SECONDS = 0.1
FRESH_SECONDS = 5.0
_T = TypeVar("_T")
_EXAMPLES = {
    "--memory": ("512MiB", "1GiB", "4GiB", "16GiB"),
    "--disk": ("1GiB", "10GiB"),
    "--time": ("10m", "1h", "12h"),
    "--cpus": ("1", "2", "4", "8"),
}


class _Cached:
    """The last answer to a question that is asked again in the background."""

    def __init__(self, ask: Callable[[], list[Any]]) -> None:
        self._ask = ask
        self._value: list[Any] = []
        self._at = float("-inf")
        self._thread: threading.Thread | None = None

    def get(self) -> list[Any]:
        """Return a fresh answer if it comes at once, else the last one."""
        if time.monotonic() - self._at > FRESH_SECONDS and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._run, name="offload-complete", daemon=True)
            self._thread.start()
        if self._thread is not None:
            self._thread.join(PATIENCE_SECONDS)
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._ask()
        except OffloadError:
            return  # no service: nothing of it to complete
        self._at = time.monotonic()


class Completer:
    """A hook of IPython's ``complete_command``."""

    def __init__(self, client: Client) -> None:
        self._sites = _Cached(client.sites)
        self._jobs = _Cached(lambda: client.jobs(limit=200)[1])

    def __call__(self, shell: Any, event: Any) -> list[str]:
        """Return what the word at the cursor may become."""
        words = str(getattr(event, "text_until_cursor", event.line)).split()
        symbol = str(event.symbol)
        before = words[1:] if not symbol else words[1:-1]
        cell = bool(words) and words[0].startswith("%%")
        # A word such as "-i X,y" is completed after its last comma, --site= after the sign.
        return sorted(dict.fromkeys(self.complete(before, words[-1] if symbol and words else "", shell, cell=cell)))

    def complete(self, before: Sequence[str], word: str, shell: Any, *, cell: bool) -> Iterable[str]:
        """Return candidates for ``word`` behind the words ``before``."""
        command = before[0] if before and not cell else ""
        if not cell and not before:
            return _starting(COMMANDS, word)
        if "--" in before:
            return _files(word)
        if word.startswith("-"):
            return _starting(self._flags(command, cell=cell), word)
        if command in JOB_COMMANDS:
            return _starting(self._ids(), word)
        if command == "doctor":
            return _starting(self._names(), word)
        return self._values(before, word, shell)

    @staticmethod
    def _flags(command: str, *, cell: bool) -> Sequence[str]:
        if cell:
            return CELL_FLAGS
        flags = {
            "run": (
                *(flag for flag in CELL_FLAGS if flag not in ("-i", "--inputs", "--outputs")),
                "--output",
                "--parameter",
            ),
            "logs": ("-f", "--follow", "--stderr"),
            "clean": ("--older-than", "--max-size", "--dry-run"),
            "list": ("-n",),
        }
        return flags.get(command, ("--help",))

    def _values(self, before: Sequence[str], word: str, shell: Any) -> Iterable[str]:
        flag = next((item for item in reversed(before) if item.startswith("-")), "")
        if flag in ("-i", "--inputs", "-o", "--outputs"):
            head, comma, last = word.rpartition(",")
            names = [name for name in shell.user_ns if not name.startswith("_") and name not in shell.user_ns_hidden]
            special = [] if comma or flag in ("-o", "--outputs") else ["auto", "none"]
            return [f"{head}{comma}{name}" for name in _starting([*names, *special], last)]
        if flag == "--site":
            return _starting(self._names(), word)
        if flag == "--image":
            site = next((before[place + 1] for place, item in enumerate(before[:-1]) if item == "--site"), None)
            found = [item for item in self._sites.get() if site is None or item["name"] == site]
            return _starting([image["name"] for item in found for image in item.get("images") or ()], word)
        if flag == "--gpus":
            models = [gpu["model"] for item in self._sites.get() for gpu in item.get("gpus") or () if gpu.get("model")]
            return _starting([*(f"{model}:1" for model in models), "1"], word)
        if flag in _EXAMPLES:
            return _starting(_EXAMPLES[flag], word)
        if flag in ("--file", "--fetch", "--secret") or not flag:
            return _files(word)
        return []

    def _names(self) -> list[str]:
        return [str(item["name"]) for item in self._sites.get()]

    def _ids(self) -> list[str]:
        return list(short_ids(self._jobs.get()).values())


def _starting(known: Iterable[str], word: str) -> list[str]:
    return [item for item in known if item.startswith(word)]


def _files(word: str) -> list[str]:
    found = glob.glob(glob.escape(word) + "*")  # noqa: PTH207 - the word stays as it was typed
    return [item.replace(" ", "\\ ") for item in found]
