"""What this machine has, and what of the service's environment a task may see."""

# Plain os calls: a thousand tasks are looked at in one poll.
# ruff: noqa: PTH208

from __future__ import annotations

import getpass
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

from jupyter_offload.batch.base import BatchInfo
from jupyter_offload.batch.processes.spool import Entry, Spool

__all__ = ["cores", "describe", "largest_memory_bytes", "task_environment"]

_PASSED = (
    "CURL_CA_BUNDLE",
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "PATH",
    "PIP_CONFIG_FILE",
    "REQUESTS_CA_BUNDLE",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
)
_PASSED_WITHOUT_PASSWORD = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
)
"""URLs: passed, unless they carry ``user:password@``."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def task_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of tasks: an allow-list, since a server's environment holds tokens."""
    passed = {key: value for key, value in environ.items() if key in _PASSED or key.startswith("LC_")}
    for name in _PASSED_WITHOUT_PASSWORD:
        for key in (name, name.lower()):
            if "@" not in environ.get(key, "@"):
                passed[key] = environ[key]
    passed.setdefault("PATH", os.defpath)
    passed.setdefault("HOME", str(Path.home()))
    passed.setdefault("LANG", "C.UTF-8")
    return passed


def largest_memory_bytes() -> int:
    """Return the memory of the machine, or of the container that this process is in (cgroup v2) when that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:  # no cgroup v2, or at its root
        return total
    return min(total, int(text)) if text.isdigit() else total


def describe(spool: Spool, slots: int, environ: Mapping[str, str]) -> BatchInfo:
    """Return what this machine has and how many of the slots are free."""
    used = sum(min(Entry(name).cpus, slots) for name in os.listdir(spool.running))
    path = environ.get("PATH")
    return BatchInfo(
        kind="local",
        logs="live",
        apptainer=any(shutil.which(name, path=path) for name in ("apptainer", "singularity")),
        cpus_total=slots,
        cpus_free=max(0, slots - used),
        largest_memory_bytes=largest_memory_bytes(),
        version=f"{platform.system()} {platform.release()}",
        identity=getpass.getuser(),
        shared_filesystem=True,
    )
