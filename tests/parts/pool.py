"""The HTCondor pool: how tests get one, share it between processes, break it and end it.

It is made by `containers/htcondor/pool` (see its --help), which needs root and podman or docker; without them the tests that ask
for it are skipped with the reason (or fail, with OFFLOAD_REQUIRE=all).

OFFLOAD_TEST_POOL=NAME uses a pool that already runs and leaves it running.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from parts.require import require

CONTAINERS = Path(__file__).resolve().parents[2] / "containers"
COMMAND = CONTAINERS / "htcondor" / "pool"
SHARED_NAME = "tests"
START_SECONDS = 540


class PartError(Exception):
    """A command of the part failed: its last words."""


def _run(*argv: str | Path, timeout: float = START_SECONDS) -> str:
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise PartError(f"{' '.join(str(a) for a in argv)}: exit {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


@dataclass(frozen=True)
class Address:
    """How a client finds a schedd: ask the collector (`host:port`) for the schedd of that name."""

    collector: str
    schedd: str


@dataclass
class Pool:
    """A running pool: addresses for clients, and the handles to break it with."""

    description: dict[str, Any]
    token_root: Path
    _tokens: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.description["name"])

    @property
    def collector(self) -> str:
        return str(self.description["collector"])

    @property
    def schedd(self) -> str:
        return str(self.description["schedd"])

    @property
    def ap(self) -> Address:
        """The submit node."""
        return Address(self.collector, self.schedd)

    @property
    def ce(self) -> Address:
        """The CE in front of the pool; a KeyError-like failure here means the pool was started without one."""
        ce = self.description["ce"]
        assert ce is not None, f"pool {self.name} has no CE"
        return Address(ce["collector"], ce["schedd"])

    @property
    def share(self) -> Path:
        """The folder that host, submit and execute nodes see at the same path (mode 1777)."""
        share = self.description["share"]
        assert share is not None, f"pool {self.name} has no shared folder"
        return Path(share)

    @property
    def uid_domain(self) -> str:
        return str(self.description["uid_domain"])

    @property
    def execute_nodes(self) -> list[str]:
        return list(self.description["execute"])

    # identities

    def token_file(self, user: str = "alice") -> Path:
        """A 0600 file with an IDTOKEN of `user`, alone in a folder of 0700 (so the folder serves as SEC_TOKEN_DIRECTORY)."""
        if user not in self._tokens:
            path = self.token_root / user / "token"
            _run(COMMAND, "token", user, "--name", self.name, "--file", path)
            self._tokens[user] = path
        return self._tokens[user]

    def token(self, user: str = "alice", *, lifetime: int | None = None, scopes: Sequence[str] = ()) -> str:
        """A fresh IDTOKEN as text; `lifetime` in seconds, `scopes` as authorization levels (READ, WRITE)."""
        options = [] if lifetime is None else ["--lifetime", str(lifetime)]
        for scope in scopes:
            options += ["--scope", scope]
        return _run(COMMAND, "token", user, "--name", self.name, *options).strip()

    # inside

    def container(self, node: str) -> str:
        """The container of a node: cm, ap, ce, ep1, ep2, ..."""
        return str(self.description["containers"][node])

    def engine(self, *arguments: str, timeout: float = 120) -> str:
        """A command of podman or docker, whichever runs this pool."""
        return _run(self.description["engine"], *arguments, timeout=timeout)

    def exec(self, node: str, *argv: str, user: str | None = None, timeout: float = 120) -> str:
        """Run a command in a node (as root, or as alice or bob) and return its standard output."""
        as_user = ["--user", user, "--workdir", "/tmp"] if user else []
        return self.engine("exec", *as_user, self.container(node), *argv, timeout=timeout)

    def configure(self, *settings: str, node: str | None = None) -> None:
        """Change settings (`KNOB=VALUE`) of one node or all, while the daemons run."""
        where = ["--node", node] if node else []
        _run(COMMAND, "config", *[f"--set={s}" for s in settings], *where, "--name", self.name)

    def health(self) -> dict[str, str]:
        """Each node's own health check: "healthy" or what is wrong."""
        done = subprocess.run(
            [str(COMMAND), "status", "--json", "--name", self.name], capture_output=True, text=True, timeout=120
        )
        return dict(json.loads(done.stdout))

    def image(self, release: int = 12) -> str:
        """The job image `science` on Debian 12 (Python 3.11) or 13 (3.13), as execute nodes see it; built if need be."""
        path = Path(_run(CONTAINERS / "science" / "build", str(release)).strip())
        return f"/images/{path.name}"

    # faults (on a pool of the test's own: `fault_pool`)

    def kill(self, node: str) -> None:
        """SIGKILL a node: everything in it ends at once, as in a power cut."""
        self.engine("kill", "--signal", "KILL", self.container(node))
        self._await(lambda: self.container(node) not in self._running(), f"{node} to be dead")

    def stop(self, node: str, seconds: int = 15) -> None:
        """End a node gracefully (SIGTERM)."""
        self.engine("stop", "-t", str(seconds), self.container(node))

    def start(self, node: str) -> None:
        """Start a node that was killed or stopped, and wait until it is healthy and in the pool."""
        since = int(time.time())
        self.engine("start", self.container(node))
        self._await_member(node, since)

    def pause(self, node: str) -> None:
        """Freeze a node: its ports accept connections and never answer."""
        self.engine("pause", self.container(node))

    def unpause(self, node: str) -> None:
        """Undo `pause`."""
        self.engine("unpause", self.container(node))

    def kill_daemon(self, node: str, daemon: str) -> None:
        """SIGKILL one daemon (e.g. condor_schedd); condor_master starts it again after a few seconds."""
        self.exec(node, "pkill", "-KILL", "-x", daemon)

    def restart(self, node: str) -> None:
        """Restart a node as a whole and wait until it is in the pool: its daemons have new addresses behind the same IP.

        Not the manager of a pool with the default cycles: the others tell it of themselves every five minutes only.
        """
        since = int(time.time())
        self.engine("restart", "-t", "5", self.container(node))
        self._await_member(node, since)

    def _await_member(self, node: str, since: int) -> None:
        """Healthy, and known to the manager by what it is now: a killed node leaves its old ads (and addresses) there."""
        self.await_healthy(node)
        others = [n for n in self.description["containers"] if n != "cm"]
        expected = {(n, since if n == node else 0) for n in (others if node == "cm" else [node])}
        self._await(lambda: all(self._seen(n, at) for n, at in expected), f"{node} to be in the pool", 60)

    def _seen(self, node: str, since: int) -> bool:
        kind = "-startd" if node in self.execute_nodes else "-schedd"
        ask = ["condor_status", kind, "-af", "Machine", "DaemonStartTime"]
        rows = [line.split() for line in self.exec("cm", *ask).splitlines()]
        return any(machine.split(".")[0] == node and int(start) >= since for machine, start in rows)

    def restart_schedd(self) -> None:
        """Restart the submit node. A client has to ask the collector again where the schedd is."""
        self.restart("ap")

    def await_healthy(self, node: str, seconds: float = 60) -> None:
        """Return when the node's health check passes; an AssertionError with what it says otherwise."""
        self._await(lambda: self._check(node), f"{node} to be healthy", seconds)

    def _check(self, node: str) -> bool:
        argv = [self.description["engine"], "exec", self.container(node), "/pool/healthcheck"]
        return subprocess.run(argv, capture_output=True, timeout=60).returncode == 0

    def _running(self) -> list[str]:
        return self.engine("ps", "--format", "{{.Names}}").split()

    @staticmethod
    def _await(condition: Any, what: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
            time.sleep(0.1)


@functools.cache
def why_not() -> str | None:
    """The reason why this machine cannot run a pool, or None."""
    if os.geteuid() != 0:
        return "a pool needs root (its image is built and its containers run as root)"
    if not any(shutil.which(engine) for engine in ("podman", "docker")):
        return "a pool needs podman or docker (containers/debian-packages.txt)"
    if not shutil.which("mmdebstrap"):
        return "a pool's image is built with mmdebstrap (containers/debian-packages.txt)"
    return None


def describe(name: str) -> dict[str, Any]:
    """What `pool describe` says of a running pool."""
    return dict(json.loads(_run(COMMAND, "describe", "--json", "--name", name)))


@contextmanager
def started(name: str, *options: str, tokens: Path) -> Iterator[Pool]:
    """A pool of one's own for as long as the block runs; a left-over of the same name is taken down first."""
    if reason := why_not():
        require(reason)
    _run(COMMAND, "down", "--time", "1", "--name", name)
    try:
        yield Pool(json.loads(_run(COMMAND, "up", "--json", "--name", name, *options)), tokens)
    finally:
        _run(COMMAND, "down", "--time", "3", "--name", name)


@contextmanager
def shared(name: str, *options: str, tokens: Path) -> Iterator[Pool]:
    """One pool for several test processes: the first starts it, the last to leave ends it.

    Every user holds a shared lock on `users`; who can lock it exclusively is alone. `guard` makes each such decision one step.
    """
    if reason := why_not():
        require(reason)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jupyter_offload" / "test-parts"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / f"{name}.guard").open("w") as guard, (folder / f"{name}.users").open("w") as users:
        fcntl.flock(guard, fcntl.LOCK_EX)
        try:
            if _alone(users):
                _run(COMMAND, "down", "--time", "1", "--name", name)
                _run(COMMAND, "up", "--name", name, *options)
            fcntl.flock(users, fcntl.LOCK_SH)
        finally:
            fcntl.flock(guard, fcntl.LOCK_UN)
        try:
            yield Pool(describe(name), tokens)
        finally:
            fcntl.flock(guard, fcntl.LOCK_EX)
            if _alone(users):
                _run(COMMAND, "down", "--time", "3", "--name", name)


def _alone(users: Any) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_SHARED_OPTIONS = ("--config", "fast", "--execute", "2", "--slots", "4", "--ce", "--gpus", "--hold-memory")


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """The pool that tests share: fast, two execute nodes of 4 cores, a CE, a shared folder, GPUs, memory holds.

    Other tests' jobs run in it at the same time: do not restart or reconfigure anything here, see `fault_pool`.
    """
    tokens = tmp_path_factory.mktemp("tokens")
    if name := os.environ.get("OFFLOAD_TEST_POOL"):
        yield Pool(describe(name), tokens)
        return
    # Not under /tmp or /var/tmp: HTCondor gives each job its own ones.
    share = Path("/srv/jupyter_offload-tests")
    with shared(SHARED_NAME, *_SHARED_OPTIONS, "--share", str(share), tokens=tokens) as running:
        yield running


@pytest.fixture(scope="session")
def fault_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A fast pool of this test process alone, with a CE and one execute node: for tests that kill, restart and reconfigure."""
    name = f"faults-{os.getpid()}"
    with started(
        name, "--config", "fast", "--execute", "1", "--ce", tokens=tmp_path_factory.mktemp("tokens")
    ) as running:
        yield running


@pytest.fixture(scope="session")
def old_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A small fast pool of HTCondor 23.9 (Debian trixie), of this test process alone."""
    name = f"old-{os.getpid()}"
    options = ("--suite", "trixie", "--config", "fast", "--execute", "1")
    with started(name, *options, tokens=tmp_path_factory.mktemp("tokens")) as running:
        yield running
