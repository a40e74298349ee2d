"""The command line of `pool`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import lifecycle, state
from .engine import Engine, PoolError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 1 with one line on standard error when not, 2 for wrong usage."""
    options = _parser().parse_args(argv)
    try:
        state.check_name(options.name)
        return int(options.run(options))
    except PoolError as error:
        print(f"pool: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pool", description="HTCondor pools made of containers, by podman or docker.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--name", default="pool", help="which pool (default: pool); several run side by side")
        sub.add_argument("--engine", help="podman or docker (default: $OFFLOAD_CONTAINER_ENGINE, else what is there)")
        return sub

    up = command("up", _up, "start a pool, building its image on first use, and wait until it is ready")
    up.add_argument("--execute", type=_count, default=2, metavar="N", help="execute nodes (default 2)")
    up.add_argument("--slots", type=_count, default=4, metavar="M", help="cores that each offers (default 4)")
    up.add_argument("--ce", action="store_true", help="also a CE (port 9619) in front of the pool")
    up.add_argument("--suite", choices=["sid", "trixie"], default="sid", help="sid: HTCondor 25.14; trixie: 23.9")
    up.add_argument("--config", choices=["fast", "default"], default="default", help="fast: one-second cycles")
    up.add_argument(
        "--share", metavar="DIR", help="show DIR at the same path on submit and execute nodes (made mode 1777)"
    )
    up.add_argument("--gpus", action="store_true", help="four simulated A100 on the first execute node")
    up.add_argument("--hold-memory", action="store_true", help="hold jobs that use more memory than requested")
    up.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="KNOB=VALUE", help="one more HTCondor setting"
    )
    up.add_argument("--json", action="store_true", help="print what `pool describe --json` prints")

    down = command("down", _down, "stop a pool gracefully and remove it with its secrets")
    down.add_argument(
        "--time", type=int, default=10, metavar="SECONDS", help="how long a graceful stop may take (default 10)"
    )

    token = command("token", _token, "make an IDTOKEN for a user (alice and bob exist on every node)")
    token.add_argument("user")
    token.add_argument("--file", type=Path, help="write it there (0600) instead of printing it")
    token.add_argument("--lifetime", type=int, metavar="SECONDS", help="default: it does not expire")
    token.add_argument("--scope", action="append", default=[], metavar="LEVEL", help="limit it, e.g. READ (repeatable)")

    config = command(
        "config", _config, "switch a running pool to one-second cycles or back; without arguments: show its cycles"
    )
    config.add_argument("--json", action="store_true", help="show them as JSON")
    config.add_argument("choice", nargs="?", choices=["fast", "default"])
    config.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="KNOB=VALUE", help="change a setting"
    )
    config.add_argument("--node", help="only there (default: all nodes)")

    status = command("status", _status, "the health of each node; exit 1 unless all are healthy")
    status.add_argument("--json", action="store_true")
    describe = command("describe", _describe, "addresses, names and files of a running pool")
    describe.add_argument("--json", action="store_true", help="as JSON (default: lines)")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 200:
        raise argparse.ArgumentTypeError(f"{number} is not between 1 and 200")
    return number


def _setting(text: str) -> str:
    knob, equals, value = text.partition("=")
    if not equals or not knob.strip() or "\n" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not KNOB=VALUE on one line")
    return f"{knob.strip()} = {value.strip()}"


def _up(options: argparse.Namespace) -> int:
    started = time.monotonic()
    plan = lifecycle.Plan(
        execute=options.execute,
        slots=options.slots,
        ce=options.ce,
        suite=options.suite,
        config=options.config,
        share=options.share,
        gpus=options.gpus,
        hold_memory=options.hold_memory,
        settings=tuple(options.set),
    )
    pool = lifecycle.up(options.name, plan, Engine.find(options.engine))
    print(f"pool {pool.name}: ready after {time.monotonic() - started:.1f} s", file=sys.stderr)
    _show(lifecycle.describe(pool), as_json=options.json)
    return 0


def _down(options: argparse.Namespace) -> int:
    if not lifecycle.down(options.name, options.engine, options.time):
        print(f"pool {options.name}: there is none", file=sys.stderr)
    return 0


def _token(options: argparse.Namespace) -> int:
    pool = lifecycle.require(options.name)
    text = lifecycle.token(pool, _engine(options, pool), options.user, lifetime=options.lifetime, scopes=options.scope)
    if options.file is None:
        print(text)
    else:
        lifecycle.write_token(text, options.file)
    return 0


def _config(options: argparse.Namespace) -> int:
    pool = lifecycle.require(options.name)
    if options.choice is None and not options.set:
        _show(dict(lifecycle.knobs(pool, _engine(options, pool))), as_json=options.json)
        return 0
    lifecycle.configure(pool, _engine(options, pool), options.choice, options.set, options.node)
    return 0


def _status(options: argparse.Namespace) -> int:
    pool = lifecycle.require(options.name)
    answers = lifecycle.health(pool, _engine(options, pool))
    _show(dict(answers), as_json=options.json)
    return 0 if set(answers.values()) == {"healthy"} else 1


def _describe(options: argparse.Namespace) -> int:
    _show(lifecycle.describe(lifecycle.require(options.name)), as_json=options.json)
    return 0


def _engine(options: argparse.Namespace, pool: state.Pool) -> Engine:
    return Engine.find(options.engine or pool.engine)


def _show(answers: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answers, indent=2))
        return
    for key, value in answers.items():
        print(f"{key:18} {value if isinstance(value, str) else json.dumps(value)}")
