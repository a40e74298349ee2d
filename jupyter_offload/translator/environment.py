"""A container's environment, and ``$(VAR)`` in command, args and values, as Kubernetes expands it.

Source of the rule: Kubernetes, "Define dependent environment variables" and ``third_party/forked/golang/expansion``: a reference to a
variable that is not defined (for values: not defined before) stays as it is, ``$$`` is a plain ``$``, and what was expanded is not
looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jupyter_offload.pod import WORKDIR_VARIABLE
from jupyter_offload.translator.manifest import Container
from jupyter_offload.translator.quoting import Variable, Word, word_size
from jupyter_offload.translator.reading import refuse

__all__ = ["BASH_OWN", "Surroundings", "expand", "surroundings"]

INDEX_VARIABLES = ("JOB_COMPLETION_INDEX", "OFFLOAD_TASK_INDEX")
_REFERENCE = re.compile(r"\$(?:(\$)|\(([^)]*)\))")

STRING_LIMIT = 131072
"""Longest argument or ``NAME=value`` with its end that Linux passes to a program (MAX_ARG_STRLEN, 32 pages)."""
TOTAL_LIMIT = 1 << 20
"""Half of what Linux usually allows for all of them together (a quarter of an 8 MiB stack); the rest is the worker's own."""


BASH_OWN = re.compile(
    "BASH.*|LC_.*|HIST.*|OPT(ARG|ERR|IND)|TEXTDOMAIN(DIR)?|[EP]?P?UID|EPOCH.*|FUNC(NAME|NEST)|_|COLUMNS|COMP_WORDBREAKS|COPROC|DIRSTACK"
    "|EXECIGNORE|GLOBIGNORE|GROUPS|HOSTFILE|IFS|IGNOREEOF|LANG|LANGUAGE|LINENO|LINES|MAILCHECK|MAPFILE|OLDPWD|PIPESTATUS|POSIXLY_CORRECT"
    "|PPID|PWD|RANDOM|READLINE_.*|REPLY|SECONDS|SHELLOPTS|SHLVL|SRANDOM|TMOUT|histchars"
)
"""Variables that bash itself gives a meaning; an assignment would change bash, fail, or not arrive as written."""


@dataclass(frozen=True)
class Surroundings:
    """What a container's program gets, as words for the script."""

    env: dict[str, Word]
    command: tuple[Word, ...]
    args: tuple[Word, ...]


def expand(text: str, known: Mapping[str, Word]) -> Word:
    """Return ``text`` with its ``$(NAME)`` references to known variables replaced."""
    parts: list[str | Variable] = []
    place = 0
    for match in _REFERENCE.finditer(text):
        parts.append(text[place : match.start()])
        place = match.end()
        name = match.group(2)
        if match.group(1):
            parts.append("$")
        elif name in known:
            parts += known[name]
        else:
            parts.append(match.group())
    parts.append(text[place:])
    return _joined(parts)


def surroundings(container: Container, *, workdir: Word | None) -> Surroundings:
    """Return environment, command and args of a container; ``workdir`` is what `WORKDIR_VARIABLE` becomes, if anything.

    Raises `ManifestError` for what no program could be given (too large).
    """
    env: dict[str, Word] = {}
    for name, value in container.env:
        env[name] = workdir if workdir is not None and name == WORKDIR_VARIABLE else expand(value, env)
    if workdir is not None:
        env[WORKDIR_VARIABLE] = workdir
    for name in INDEX_VARIABLES:  # like the Job controller: added after the Pod's own, which outweigh it
        env.setdefault(name, (Variable.INDEX,))
    found = Surroundings(
        env=env,
        command=tuple(expand(text, env) for text in container.command),
        args=tuple(expand(text, env) for text in container.args),
    )
    _check_sizes(container, found)
    return found


def _check_sizes(container: Container, found: Surroundings) -> None:
    sizes = [(f"{container.at}.env ({name})", len(name) + 1 + word_size(word)) for name, word in found.env.items()]
    sizes += [(f"{container.at}.command[{place}]", word_size(word)) for place, word in enumerate(found.command)]
    sizes += [(f"{container.at}.args[{place}]", word_size(word)) for place, word in enumerate(found.args)]
    hint = "Send large data as a file."
    for path, size in sizes:
        if size > STRING_LIMIT:
            refuse(path, f"has {size} bytes, more than a program can be given in one piece ({STRING_LIMIT})", hint)
    together = sum(size + 8 for _, size in sizes)
    if together > TOTAL_LIMIT:
        refuse(container.at, f"command, args and env have {together} bytes together, more than {TOTAL_LIMIT}", hint)


def _joined(parts: list[str | Variable]) -> Word:
    found: list[str | Variable] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        elif part != "":
            found.append(part)
    return tuple(found)
