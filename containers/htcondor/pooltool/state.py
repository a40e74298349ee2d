"""What is remembered of a running pool: one folder (0700) a pool, with its record, its password and its tokens."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .engine import PoolError

DOMAIN = "offload.pool"
"""UID_DOMAIN, TRUST_DOMAIN and, with a shared folder, FILESYSTEM_DOMAIN of every pool (config/common.conf)."""


@dataclass(frozen=True)
class Node:
    """One container: its role letter is the entrypoint's flag."""

    name: str
    role: str
    container: str
    address: str
    options: list[str] = field(default_factory=list)

    @property
    def hostname(self) -> str:
        """Its full host name inside the pool's network."""
        return f"{self.name}.{DOMAIN}"


@dataclass(frozen=True)
class Pool:
    """A pool that was started: enough to find, change and end it."""

    name: str
    engine: str
    image: str
    suite: str
    subnet: str
    config: str
    share: str | None
    nodes: list[Node]

    def node(self, name: str) -> Node:
        """The node of that name; PoolError with the names there are otherwise."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise PoolError(f"pool {self.name} has no node {name!r}: {', '.join(n.name for n in self.nodes)}")

    def by_role(self, role: str) -> list[Node]:
        """The nodes of a role (the entrypoint's letter), in order."""
        return [node for node in self.nodes if node.role == role]


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/jupyter_offload`, by default under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "jupyter_offload"


def images_folder() -> Path:
    """Where `containers/science/build` puts job images; execute nodes see it read-only as /images."""
    return cache_folder() / "images"


def check_name(name: str) -> str:
    """A pool's name becomes part of container and network names: refuse what an engine would."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name):
        raise PoolError(f"{name!r} cannot be a pool's name: at most 31 of a-z, 0-9 and -, not starting with -")
    return name


def folder(name: str) -> Path:
    """The state folder of one pool; it exists while the pool does."""
    return cache_folder() / "pools" / check_name(name)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Only one command at a time changes a pool."""
    folder(name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder(name).parent / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def load(name: str) -> Pool | None:
    """The record of a pool that was started and not taken down, or None."""
    try:
        tree = json.loads((folder(name) / "pool.json").read_text())
    except FileNotFoundError:
        return None
    return Pool(**{**tree, "nodes": [Node(**node) for node in tree["nodes"]]})


def save(pool: Pool) -> None:
    """Write the record, whole or not at all."""
    target = folder(pool.name) / "pool.json"
    part = target.with_suffix(".part")
    part.write_text(json.dumps(asdict(pool), indent=2))
    part.replace(target)


def names() -> list[str]:
    """The pools that have a record."""
    return sorted(path.parent.name for path in (cache_folder() / "pools").glob("*/pool.json"))
