"""The container engine: podman or docker, by the few commands that both know and the places where they differ."""

from __future__ import annotations

import ipaddress
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path


class PoolError(Exception):
    """Something that the caller of `pool` can put right: one line that says what, and what to do."""


class Engine:
    """podman or docker under one name.

    `path` is the program; every method raises PoolError with the engine's own last words when a command fails.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_podman = Path(path).name.startswith("podman")

    @classmethod
    def find(cls, wanted: str | None = None) -> Engine:
        """The engine named by `wanted` or OFFLOAD_CONTAINER_ENGINE, else the first of podman and docker on the PATH.

        Raises PoolError when there is none, or when it does not answer.
        """
        wanted = wanted or os.environ.get("OFFLOAD_CONTAINER_ENGINE")
        for name in [wanted] if wanted else ["podman", "docker"]:
            path = shutil.which(name)
            if path is None:
                continue
            answer = subprocess.run([path, "info"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            # a docker client without its daemon is no engine
            if answer.returncode == 0:
                return cls(path)
            if wanted:
                raise PoolError(f"{name} does not answer: {_last_line(answer.stderr)}")
        raise PoolError(f"no container engine: {wanted or 'neither podman nor docker'} can be used; install podman")

    def run(self, *arguments: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """One engine command with its output captured; PoolError when it fails and `check` is true."""
        done = subprocess.run([self.path, *arguments], capture_output=True, text=True, input=stdin)
        if check and done.returncode:
            words = _last_line(done.stderr) or _last_line(done.stdout) or f"exit status {done.returncode}"
            raise PoolError(f"{Path(self.path).name} {arguments[0]} failed: {words}")
        return done

    def run_many(self, commands: Sequence[Sequence[str]], *, check: bool = True) -> None:
        """Several engine commands side by side; the first failure is raised after all have ended."""
        started = [
            subprocess.Popen([self.path, *c], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for c in commands
        ]
        failures = []
        for command, process in zip(commands, started, strict=True):
            _, words = process.communicate()
            if process.returncode:
                failures.append(f"{Path(self.path).name} {command[0]} failed: {_last_line(words)}")
        if failures and check:
            raise PoolError(failures[0])

    def exec(self, container: str, *argv: str, user: str | None = None, check: bool = True) -> str:
        """Run a command inside a container and return its standard output."""
        options = ["--user", user] if user else []
        return self.run("exec", *options, container, *argv, check=check).stdout

    def running(self, containers: Sequence[str]) -> set[str]:
        """Those of `containers` that are running now."""
        lines = self.run("ps", "--format", "{{.Names}}").stdout.split()
        return set(lines) & set(containers)

    def run_options(self) -> list[str]:
        """What every container needs so that it starts on this machine."""
        # An engine asks for its own high limits and fails where this process may not raise them: ask for what there is.
        options = []
        for name, kind in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
            hard = resource.getrlimit(kind)[1]
            value = 20000 if hard == resource.RLIM_INFINITY else min(20000, hard)
            options += ["--ulimit", f"{name}={value}:{value}"]
        if self.is_podman:
            options.append("--systemd=false")
        return options

    def health_options(self, command: str) -> list[str]:
        """Options that give a container its health check.

        podman runs the check by systemd timers; where systemd does not run it can only be asked for by hand.
        """
        if self.is_podman and not Path("/run/systemd/system").is_dir():
            return ["--health-cmd", command, "--health-interval", "disable"]
        return ["--health-cmd", command, "--health-interval", "10s", "--health-timeout", "30s", "--health-retries", "3"]

    def create_network(self, name: str) -> str:
        """Make a network on a subnet that nothing on this machine uses; return the subnet as text.

        The subnet is chosen here, not by the engine, because docker gives fixed addresses only on a chosen one.
        """
        taken = list(self._subnets()) + list(_routes())
        last = "no free subnet"
        for subnet in _candidates():
            if any(subnet.overlaps(other) for other in taken):
                continue
            done = self.run("network", "create", "--subnet", str(subnet), name, check=False)
            if done.returncode == 0:
                return str(subnet)
            last = _last_line(done.stderr)
            if "exist" in last and name in last:
                break
        raise PoolError(f"cannot make the network {name}: {last}")

    def _subnets(self) -> Iterator[ipaddress.IPv4Network]:
        names = self.run("network", "ls", "--format", "{{.Name}}").stdout.split()
        if not names:
            return
        text = self.run("network", "inspect", *names, check=False).stdout or "[]"
        for subnet in _find_values(json.loads(text), "subnet"):
            network = ipaddress.ip_network(subnet, strict=False)
            if isinstance(network, ipaddress.IPv4Network):
                yield network


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _candidates() -> Iterator[ipaddress.IPv4Network]:
    for third in range(64, 250):
        yield ipaddress.IPv4Network(f"10.89.{third}.0/24")


def _routes() -> Iterator[ipaddress.IPv4Network]:
    """The networks of this machine's routing table (/proc/net/route: little-endian hexadecimal), default route left out."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        address, mask = (int.from_bytes(bytes.fromhex(fields[i]), "little") for i in (1, 7))
        if mask:
            yield ipaddress.IPv4Network((address, bin(mask).count("1")))


def _find_values(tree: object, key: str) -> Iterator[str]:
    """Every text under `key` (in any case) in a JSON tree: podman's two back ends and docker nest the subnet differently."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name.lower() == key and isinstance(value, str):
                yield value
            else:
                yield from _find_values(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from _find_values(value, key)
