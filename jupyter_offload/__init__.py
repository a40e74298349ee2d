"""Send notebook cells, functions, containers and whole notebooks to HTCondor, and get everything back.

In a notebook: ``%load_ext jupyter_offload``, then ``%%offload`` above a cell. In Python::

    import jupyter_offload as offload
    job = offload.options(cpus=2, memory="1GiB").submit(function, argument)
    job.result()

Importing this package costs a few milliseconds: what a name needs is imported when the name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_offload.kernel.api import Offload, get, jobs, options, run, submit, wait
    from jupyter_offload.kernel.executor import Executor
    from jupyter_offload.kernel.future import Job
    from jupyter_offload.kernel.magics import load_ipython_extension, unload_ipython_extension

__version__ = "0.1.0"

__all__ = [
    "Executor",
    "Job",
    "Offload",
    "__version__",
    "get",
    "jobs",
    "load_ipython_extension",
    "options",
    "run",
    "submit",
    "unload_ipython_extension",
    "wait",
]

_HOME = {
    "Executor": "executor",
    "Job": "future",
    "Offload": "api",
    "get": "api",
    "jobs": "api",
    "load_ipython_extension": "magics",
    "options": "api",
    "run": "api",
    "submit": "api",
    "unload_ipython_extension": "magics",
    "wait": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"jupyter_offload.kernel.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
