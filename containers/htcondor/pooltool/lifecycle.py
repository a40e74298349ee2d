"""Up, down, change of configuration, tokens: what the commands do."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import state
from .engine import Engine, PoolError
from .state import Node, Pool

_HERE = Path(__file__).resolve().parent.parent
_ALIVE_SECONDS = 90.0
_LABEL = "org.jupyter-offload.pool"


@dataclass(frozen=True)
class Plan:
    """What `pool up` was asked for."""

    execute: int = 2
    slots: int = 4
    ce: bool = False
    suite: str = "sid"
    config: str = "default"
    share: str | None = None
    gpus: bool = False
    hold_memory: bool = False
    settings: tuple[str, ...] = ()


def up(name: str, plan: Plan, engine: Engine) -> Pool:
    """Start a pool and wait until all its nodes are in it. A pool of that name that already runs is left as it is.

    Raises PoolError when something of it cannot be started; what was started is then taken down again.
    """
    with state.locked(name):
        pool = state.load(name)
        if pool is not None:
            missing = {n.container for n in pool.nodes} - engine.running([n.container for n in pool.nodes])
            if missing:
                raise PoolError(
                    f"pool {name} is not whole ({', '.join(sorted(missing))} not running): `pool down --name {name}` first"
                )
            return pool
        pool = _start(name, plan, engine)
        try:
            wait(pool, engine)
        except PoolError:
            _remove(pool, engine, seconds=1)
            raise
        return pool


def _start(name: str, plan: Plan, engine: Engine) -> Pool:
    shared = None if plan.share is None else _shared_folder(plan.share)
    image = build_image(plan.suite, engine)
    _sweep(name, engine)
    network = f"offload-{name}"
    subnet = engine.create_network(network)
    folder = state.folder(name)
    for part in ("", "passwords.d", "executors"):
        (folder / part).mkdir(parents=True, exist_ok=True, mode=0o700)
    nodes = _nodes(name, plan, ipaddress.IPv4Network(subnet))
    pool = Pool(name, engine.path, image, plan.suite, subnet, plan.config, str(shared) if shared else None, nodes)
    state.save(pool)
    try:
        engine.run_many([_run_command(pool, node, network, engine) for node in nodes])
    except PoolError:
        _remove(pool, engine, seconds=1)
        raise
    return pool


def _shared_folder(text: str) -> Path:
    """Make the folder, open to every user as /tmp is; PoolError where jobs could not see it under the same path."""
    path = Path(text).resolve()
    for closed, why in (
        ("/tmp", "HTCondor gives each job a /tmp of its own"),  # noqa: S108
        ("/var/tmp", "HTCondor gives each job a /var/tmp of its own"),  # noqa: S108
        ("/root", "other users cannot enter /root"),
    ):
        if path.is_relative_to(closed):
            raise PoolError(f"--share {text}: {why}; choose a folder elsewhere, e.g. /srv/{path.name}")
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o1777)
    return path


def _nodes(name: str, plan: Plan, subnet: ipaddress.IPv4Network) -> list[Node]:
    """The containers of a plan, each with the entrypoint's arguments. Addresses are fixed: they survive a restart."""
    common = [f"-o{option}" for option, wanted in (("fast", plan.config == "fast"), ("share", plan.share)) if wanted]
    common += [f"-D{setting}" for setting in plan.settings]
    manager = f"cm.{state.DOMAIN}"
    rows: list[tuple[str, str, int, list[str]]] = [("cm", "m", 2, ["-m"]), ("ap", "s", 3, ["-s", manager])]
    if plan.ce:
        rows.append(("ce", "c", 4, ["-c", manager]))
    for number in range(1, plan.execute + 1):
        options = ["-e", manager, "-n", str(plan.slots)]
        options += ["-ogpus"] if plan.gpus and number == 1 else []
        options += ["-ohold-memory"] if plan.hold_memory else []
        rows.append((f"ep{number}", "e", 10 + number, options))
    return [
        Node(n, role, f"offload-{name}-{n}", str(subnet[host]), [*options, *common]) for n, role, host, options in rows
    ]


def _run_command(pool: Pool, node: Node, network: str, engine: Engine) -> list[str]:
    folder = state.folder(pool.name)
    command = ["run", "--detach", "--name", node.container, "--hostname", node.hostname, "--network", network]
    command += ["--ip", node.address, "--label", f"{_LABEL}={pool.name}"]
    for other in pool.nodes:
        if other != node:  # an engine adds the container's own name by itself
            command += ["--add-host", f"{other.hostname}:{other.address}"]
    command += [*engine.run_options(), *engine.health_options("/pool/healthcheck")]
    if node.role == "e":
        # Jobs start containers of their own: user namespaces and FUSE inside the node.
        command += ["--privileged", "--volume", f"{folder}/executors:/etc/condor/tokens.d:ro"]
        state.images_folder().mkdir(parents=True, exist_ok=True)
        command += ["--volume", f"{state.images_folder()}:/images:ro"]
    else:
        command += ["--volume", f"{folder}/passwords.d:/etc/condor/passwords.d{'' if node.role == 'm' else ':ro'}"]
    if node.role == "m":
        command += ["--volume", f"{folder}/executors:/pool/executors"]
    elif pool.share is not None:
        command += ["--volume", f"{pool.share}:{pool.share}"]
    return [*command, pool.image, *node.options]


def build_image(suite: str, engine: Engine) -> str:
    """The image's name; builds it if this machine has not got it. Progress goes to standard error."""
    command = [str(_HERE / "build"), "--suite", suite, "--engine", engine.path]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise PoolError(f"the image of suite {suite} could not be built (see above)")
    return done.stdout.strip().splitlines()[-1]


def wait(pool: Pool, engine: Engine, seconds: float = _ALIVE_SECONDS) -> None:
    """Return when every node is seen by the manager and every schedd answers.

    PoolError otherwise, with what is missing and the last lines of the log of the first such node.
    """
    deadline = time.monotonic() + seconds
    while missing := _missing(pool, engine):
        if time.monotonic() > deadline:
            names = ", ".join(node.name for node in missing)
            log = engine.run("logs", "--tail", "20", missing[0].container, check=False)
            raise PoolError(f"pool {pool.name}: after {seconds:.0f} s still missing: {names}\n{log.stdout}{log.stderr}")
        time.sleep(0.2)


def _missing(pool: Pool, engine: Engine) -> list[Node]:
    ask = ["condor_status", "-any", "-af", "MyType", "Machine"]
    seen = set(engine.exec(pool.by_role("m")[0].container, *ask, check=False).splitlines())
    # "Machine" is the type of a slot's ad
    missing = [n for n in pool.by_role("e") if f"Machine {n.hostname}" not in seen]
    missing += [n for n in pool.nodes if n.role in "sc" and f"Scheduler {n.hostname}" not in seen]
    for node in pool.by_role("c"):
        own = engine.exec(node.container, "env", "CONDOR_CONFIG=/etc/condor-ce/condor_config", *ask, check=False)
        if f"Scheduler {node.hostname}" not in own.splitlines():
            missing.append(node)
    return missing


def down(name: str, engine_name: str | None = None, seconds: int = 10) -> bool:
    """Stop a pool gracefully (at most `seconds`), remove it and its secrets. False when there was none."""
    with state.locked(name):
        pool = state.load(name)
        if pool is not None:
            _remove(pool, Engine.find(engine_name or pool.engine), seconds=seconds)
        return pool is not None


def _remove(pool: Pool, engine: Engine, *, seconds: int) -> None:
    alive = sorted(engine.running([node.container for node in pool.nodes]))
    engine.run_many([["stop", "-t", str(seconds), c] for c in alive], check=False)
    _sweep(pool.name, engine)
    shutil.rmtree(state.folder(pool.name))


def _sweep(name: str, engine: Engine) -> None:
    """Remove whatever containers and network bear the pool's name: also what an interrupted `up` left."""
    ask = ["ps", "--all", "--quiet", "--filter", f"label={_LABEL}={name}"]
    engine.run_many([["rm", "--force", c] for c in engine.run(*ask).stdout.split()], check=False)
    left = engine.run(*ask).stdout.split()
    if left:
        raise PoolError(f"could not remove the containers {', '.join(left)}; try again")
    engine.run("network", "rm", f"offload-{name}", check=False)


def require(name: str) -> Pool:
    """The record of a running pool; PoolError when there is none."""
    pool = state.load(name)
    if pool is None:
        there = ", ".join(state.names()) or "none"
        raise PoolError(f"there is no pool {name!r} (running: {there}); start one with `pool up --name {name}`")
    return pool


def configure(pool: Pool, engine: Engine, config: str | None, settings: Sequence[str], node: str | None = None) -> Pool:
    """Switch a running pool between fast and default, or change settings, without restarting a daemon (condor_reconfig)."""
    for target in [pool.node(node)] if node else pool.nodes:
        engine.exec(target.container, "/pool/configure", *([config] if config else ["-"]), *settings)
    changed = replace(pool, config=config or pool.config)
    state.save(changed)
    return changed


def knobs(pool: Pool, engine: Engine) -> dict[str, str]:
    """The present values of the settings that `fast` changes, as the submit node reads them."""
    lines = (_HERE / "config" / "options" / "fast.conf").read_text().splitlines()
    names = [line.partition("=")[0].strip() for line in lines if "=" in line and not line.startswith("#")]
    container = pool.by_role("s")[0].container
    # a setting without a value ("Not defined") is answered on standard error and leaves an empty text
    script = 'for name; do printf "%s=%s\\n" "$name" "$(condor_config_val "$name" 2>/dev/null || true)"; done'
    answer = engine.exec(container, "sh", "-c", script, "knobs", *names)
    return dict(line.split("=", 1) for line in answer.splitlines())


def token(pool: Pool, engine: Engine, user: str, *, lifetime: int | None = None, scopes: Sequence[str] = ()) -> str:
    """A new IDTOKEN for `user` (a full identity if it holds an @), signed with the pool's password."""
    identity = user if "@" in user else f"{user}@{state.DOMAIN}"
    command = ["condor_token_create", "-identity", identity, "-key", "POOL"]
    command += ["-lifetime", str(lifetime)] if lifetime is not None else []
    for scope in scopes:
        command += ["-authz", scope]
    return engine.exec(pool.by_role("m")[0].container, *command).strip()


def write_token(text: str, path: Path) -> None:
    """Put a token into a file that only its owner can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
    part.replace(path)


def health(pool: Pool, engine: Engine) -> dict[str, str]:
    """Each node's health: "healthy", "not running", or what its check says."""
    alive = engine.running([n.container for n in pool.nodes])
    answers = {}
    for node in pool.nodes:
        if node.container not in alive:
            answers[node.name] = "not running"
            continue
        done = engine.run("exec", node.container, "/pool/healthcheck", check=False)
        answers[node.name] = "healthy" if done.returncode == 0 else (done.stdout + done.stderr).strip()
    return answers


def describe(pool: Pool) -> dict[str, object]:
    """Everything a client of the pool needs, as plain data: addresses, names, where its files are. No secret is in it."""
    submit = pool.by_role("s")[0]
    execute = pool.by_role("e")
    command = str(_HERE / "pool")
    answer: dict[str, object] = {
        "name": pool.name,
        "suite": pool.suite,
        "image": pool.image,
        "engine": pool.engine,
        "config": pool.config,
        "collector": f"{pool.by_role('m')[0].address}:9618",
        "schedd": submit.hostname,
        "schedd_address": f"{submit.address}:9618",
        "ce": None,
        "uid_domain": state.DOMAIN,
        "filesystem_domain": state.DOMAIN if pool.share else None,
        "share": pool.share,
        "images": {path.name: f"/images/{path.name}" for path in _images()},
        "containers": {node.name: node.container for node in pool.nodes},
        "addresses": {node.name: node.address for node in pool.nodes},
        "execute": [node.name for node in execute],
        "token_commands": {user: [command, "token", user, "--name", pool.name] for user in ("alice", "bob")},
        "down_command": [command, "down", "--name", pool.name],
    }
    for node in pool.by_role("c"):
        answer["ce"] = {
            "collector": f"{node.address}:9619",
            "schedd": node.hostname,
            "batch_schedd": f"batch@{node.hostname}",
        }
    return answer


def _images() -> list[Path]:
    folder = state.images_folder()
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
