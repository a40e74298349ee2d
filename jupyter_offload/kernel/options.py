"""The options of ``%%offload``, ``%offload run`` and `offload.options`: one set, read and checked in one place.

A line is split as a shell would split it, and nothing else of a shell happens: ``$`` and ``{}`` stay as they are.
"""

from __future__ import annotations

import argparse
import difflib
import keyword
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

from jupyter_offload.errors import UnknownName, UsageError
from jupyter_offload.job import Resources, check_name
from jupyter_offload.quantity import parse_bytes, parse_cpus, parse_duration, parse_gpus

__all__ = ["CELL_FLAGS", "Options", "Parser", "cell_parser", "make_options", "parse_options", "run_parser", "split"]

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Options:
    """What may be said about a submission, checked. ``None`` and empty mean: not said."""

    inputs: tuple[str, ...] | None = None
    """Names that travel; ``None``: those that the cell needs, found by reading it."""
    outputs: tuple[str, ...] = ()
    cpus: str | None = None
    memory: str | None = None
    disk: str | None = None
    gpus: int = 0
    gpu_model: str | None = None
    time_seconds: int | None = None
    name: str | None = None
    site: str | None = None
    image: str | None = None
    files: tuple[str, ...] = ()
    fetch: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Path of each secret's file, by name."""
    pip: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    rerun: bool = True
    wait: bool = False
    detach: bool = False
    again: bool = False
    reuse: bool = False
    dry_run: bool = False

    @property
    def resources(self) -> Resources:
        """What a task may use."""
        return Resources(self.cpus, self.memory, self.disk, self.gpus, self.gpu_model, self.time_seconds)

    @property
    def waits(self) -> bool:
        """Whether the cell waits for the end: by ``--wait``, or because names come back and nothing says otherwise."""
        return not self.detach and (self.wait or bool(self.outputs))


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` with a hint where argparse would print and exit."""

    def __init__(self, prog: str, description: str = "") -> None:
        super().__init__(
            prog=prog,
            description=description,
            add_help=False,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("-h", "--help", action="store_true", help="show this")

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found."""
        flag = re.search(r"argument (?:\S+/)?(-{1,2}[\w-]+)", message)
        raise UsageError(
            f"{self.prog}: {message}",
            hint=f"`%offload help` explains {flag.group(1) if flag else 'the options'}; nothing was submitted.",
        )

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse words. Raises `UsageError`, and `UnknownName` with the nearest option for one that does not exist."""
        found, unknown = self.parse_known_args(list(words))
        if unknown:
            self.refuse(unknown[0])
        return found

    def refuse(self, word: str) -> NoReturn:
        """Raise for a word that nothing takes, with the nearest that exists."""
        if not word.startswith("-"):
            raise UsageError(
                f"{self.prog}: {word!r} is not expected here",
                hint="Values with spaces need quotes; the code goes on the lines below.",
            )
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        close = difflib.get_close_matches(word.partition("=")[0], flags, n=1, cutoff=0.5)
        known = f"The options are: {', '.join(sorted(flags))}."
        raise UnknownName(
            f"{self.prog}: there is no option {word.partition('=')[0]!r}",
            hint=f"Did you mean {close[0]}?" if close else known,
        )


def split(line: str) -> list[str]:
    """Split a line as a shell would, expanding nothing. Raises `UsageError` for a quote that does not end."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        return list(lexer)
    except ValueError as error:
        raise UsageError(
            f"the line cannot be read: {str(error).lower()}", hint="Close the quote, or write it as \\' or \\\"."
        ) from error


def cell_parser() -> Parser:
    """Return the parser of ``%%offload``."""
    parser = Parser("%%offload", "Run this cell on a remote site; output, variables, figures and files come back.")
    add = parser.add_argument
    add("-i", "--inputs", action="append", metavar="NAMES", help="names that travel: auto (default), a,b or none")
    add("-o", "--outputs", action="append", metavar="NAMES", help="names that come back: a,b (waits unless --detach)")
    _common(parser)
    return parser


def run_parser() -> Parser:
    """Return the parser of ``%offload run``."""
    parser = Parser(
        "%offload run",
        "Run a container command (behind --) or a whole notebook.\n\n"
        "  %offload run --image science --cpus 4 --file train.py -- python train.py\n"
        "  %offload run analysis.ipynb --wait",
    )
    parser.add_argument("notebook", nargs="?", help="a notebook; it comes back executed as NAME.offload.ipynb")
    parser.add_argument("-o", "--output", metavar="PATH", help="where the executed notebook goes")
    parser.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the notebook (JSON or text)",
    )
    _common(parser)
    return parser


def _common(parser: Parser) -> None:
    add = parser.add_argument
    add("--cpus", help="cores: 2, 500m")
    add("--memory", help="memory: 1GiB, 500MB")
    add("--disk", help="scratch space: 10GiB")
    add("--gpus", help="GPUs: 2, A100:4")
    add("--time", help="longest run time: 90s, 10m, 1h30m")
    add("--name", help="the job's name: small letters, digits, dashes")
    add("--site", help="where it runs")
    add("--image", help="a name from the site's list, or a reference such as docker://…")
    add(
        "--file",
        dest="files",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="files or folders that travel",
    )
    add("--fetch", nargs="+", action="extend", default=[], metavar="GLOB", help="files that come back")
    add(
        "--secret",
        dest="secrets",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FILE",
        help="a file for $OFFLOAD_SECRET_NAME",
    )
    add(
        "--pip", nargs="+", action="extend", default=[], metavar="REQUIREMENT", help="packages for a cached environment"
    )
    add("--env", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="environment variables, literally")
    add("--wait", action="store_true", help="wait and show the output as it comes")
    add("--detach", action="store_true", help="return at once, also with -o")
    add("--again", action="store_true", help="start a new job even while its twin runs")
    add("--reuse", action="store_true", help="take the result of a finished twin")
    add("--no-rerun", dest="rerun", action="store_false", help="never start again after an eviction")
    add("--dry-run", action="store_true", help="show what would travel, the Pod and the script; submit nothing")


CELL_FLAGS: tuple[str, ...] = tuple(
    sorted(flag for flag in cell_parser()._option_string_actions if flag.startswith("-"))  # noqa: SLF001
)
"""Every option of ``%%offload``, for completion."""


def parse_options(found: argparse.Namespace, *, cell: bool = True) -> Options:
    """Return the options of a parsed line. Raises `UsageError`, naming the option."""
    given = {item.name for item in fields(Options)} & set(vars(found))
    values: dict[str, Any] = {name: getattr(found, name) for name in given}
    values["inputs"] = _inputs(found.inputs) if cell else None
    values["outputs"] = _names(found.outputs or (), "-o") if cell else ()
    values["env"] = _pairs(found.env, "--env", "B=x y")
    values["secrets"] = _pairs(found.secrets, "--secret", "TOKEN=~/token")
    values["time"] = found.time
    return make_options(**values)


def make_options(
    *,
    time: str | float | None = None,
    gpus: str | int | None = None,
    cpus: str | float | None = None,
    memory: str | int | None = None,
    disk: str | int | None = None,
    **rest: Any,
) -> Options:
    """Check options and return them. Raises `UsageError`, `BadQuantity` or, for one that does not exist, `UnknownName`."""
    known = {item.name for item in fields(Options)}
    for name in rest:
        if name not in known:
            names = [*sorted(known - {"time_seconds", "gpu_model"}), "time"]
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"The options are: {', '.join(names)}."
            raise UnknownName(f"there is no option {name!r}", hint=hint)
    count, model = parse_gpus(gpus) if gpus is not None else (0, None)
    if rest.get("name") is not None:
        check_name(str(rest["name"]))
    for key in ("files", "fetch", "pip", "outputs"):
        rest[key] = _words(rest.get(key), key)
    if rest.get("inputs") is not None:
        rest["inputs"] = _words(rest["inputs"], "inputs")
    for key in ("env", "secrets"):
        rest[key] = {str(name): str(value) for name, value in dict(rest.get(key) or {}).items()}
        for name in rest[key]:
            _check_variable(name, key)
    if rest.get("wait") and rest.get("detach"):
        raise UsageError("--wait and --detach contradict each other", hint="Use one of them.")
    if rest.get("again") and rest.get("reuse"):
        raise UsageError("--again and --reuse contradict each other", hint="Use one of them.")
    return Options(
        cpus=_quantity(cpus, parse_cpus, "cpus"),
        memory=_quantity(memory, parse_bytes, "memory"),
        disk=_quantity(disk, parse_bytes, "disk"),
        gpus=count,
        gpu_model=model,
        time_seconds=None if time is None else parse_duration(time),
        **rest,
    )


def _quantity(value: str | float | None, parse: Callable[..., object], field: str) -> str | None:
    if value is None:
        return None
    parse(value, field=field)
    return str(value).strip()


def _check_variable(name: str, option: str) -> None:
    if _ENV_NAME.fullmatch(name) is None:
        raise UsageError(
            f"--{option.rstrip('s')}: {name!r} is not the name of a variable",
            hint="Use letters, digits and underscores, as in NAME=VALUE.",
        )


def _words(value: object, field: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Iterable):
        return tuple(str(item) for item in value)
    raise UsageError(f"{field}: {value!r} is neither text nor a list of texts", hint=f"Such as {field}=['a', 'b'].")


def _inputs(given: Sequence[str] | None) -> tuple[str, ...] | None:
    words = [word.strip() for text in given or ["auto"] for word in text.split(",")]
    if words == ["auto"]:
        return None
    if words == ["none"]:
        return ()
    if "none" in words or "auto" in words:
        raise UsageError("-i: auto and none stand alone", hint="Write -i auto, -i none or -i a,b.")
    return _names(given or (), "-i")


def _names(given: Iterable[str], option: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for text in given:
        for word in text.split(","):
            name = word.strip()
            if not name.isidentifier() or keyword.iskeyword(name):
                raise UsageError(
                    f"{option}: {name!r} is not the name of a variable", hint=f"Write {option} a,b without spaces."
                )
            found[name] = None
    return tuple(found)


def _pairs(given: Iterable[str], option: str, example: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{option}: {text!r} has no =", hint=f'Write {option} "{example}".')
        _check_variable(name, option.strip("-"))
        if name in found:
            raise UsageError(f"{option}: {name} comes twice", hint="Give each name once.")
        found[name] = value
    return found
