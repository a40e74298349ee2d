"""Sends what was prepared, and keeps the names of the notebook apart from those that IPython put there."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_offload.kernel.future import Job
from jupyter_offload.kernel.prepare import Origin, Prepared
from jupyter_offload.kernel.present import WaitInterrupted
from jupyter_offload.kernel.session import Session, session

__all__ = ["current_folder", "origin_of", "send", "user_namespace"]


def send(
    prepared: Prepared, *, again: bool = False, reuse: bool = False, to: Session | None = None
) -> tuple[Job, bool]:
    """Submit; return the job and whether it is an earlier twin. Raises what the service refuses it for."""
    home = to or session()
    request = prepared.request
    try:
        with prepared.bundle() as path:
            record, twin, _ = home.client.submit(request.id, path, again=again, reuse=reuse)
    except KeyboardInterrupt:
        raise WaitInterrupted(
            f"Interrupted while submitting; if it was accepted, %offload cancel {request.name}-{request.id[:4]} stops it."
        ) from None
    return home.job(record), twin


def user_namespace() -> Mapping[str, object]:
    """Return the namespace that functions were defined in: IPython's when it runs, else that of the main module."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    if shell is not None:
        namespace: Mapping[str, object] = shell.user_ns
        return namespace
    return vars(sys.modules["__main__"])


def origin_of(shell: Any) -> Origin:
    """Return which notebook and cell runs now, as far as the front end tells."""
    parent: Any = {}
    if hasattr(shell, "get_parent"):
        parent = shell.get_parent() or {}
    cell = (parent.get("metadata") or {}).get("cellId")
    notebook = os.environ.get("JPY_SESSION_NAME") or shell.user_ns.get("__vsc_ipynb_file__")
    return Origin(str(notebook) if notebook else str(current_folder()), str(cell) if cell else None)


def current_folder() -> Path:
    """Return the folder that relative paths refer to."""
    return Path.cwd()
