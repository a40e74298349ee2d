"""Results: what the runner sent back, checked before anything of it is opened.

`read_result` checks size, structure and signature; values are decoded one by one and only when they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_offload.errors import OffloadError, PythonMismatch, RemoteError, ResultTampered, UnknownName, from_json
from jupyter_offload.payload import codecs, runner
from jupyter_offload.payload.bundle import Bundle, Part

__all__ = ["Result", "Usage", "Values", "read_result"]


@dataclass(frozen=True)
class Usage:
    """What the run took."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    max_rss_bytes: int = 0


class Values(Mapping[str, object]):
    """The values that came back, by name. Each access opens the value anew; a problem with it is raised only then."""

    def __init__(self, bundle: Bundle, problems: Mapping[str, OffloadError]) -> None:
        self._bundle = bundle
        self._parts: dict[str, Part] = {part.name: part for part in bundle.of("value")}
        self.problems: Mapping[str, OffloadError] = problems
        """Why a name that was asked for is not there, or cannot be had."""

    def __getitem__(self, name: str) -> object:
        """Open one value.

        Raises what was wrong with it where the job ran (`CannotEncode`, `ResultTooLarge`, …), `ResultTampered`, `PythonMismatch` (before
        anything is unpickled), `RemoteError` when it cannot be opened here, and `KeyError` for a name that nobody asked for.
        """
        if name in self.problems:
            raise self.problems[name]
        part = self._parts[name]
        here = runner.minor_version()
        if part.python_bound and self._bundle.python != here:
            raise PythonMismatch(
                f"{name} was pickled by Python {self._bundle.python} and cannot be opened by Python {here}",
                hint="Return plain data or arrays, or choose an image with the notebook's Python (--image).",
                remote=self._bundle.python,
                kernel=here,
            )
        data = self._bundle.read(part)
        try:
            return codecs.decode(part.codec, data, part.meta)
        except Exception as error:  # a pickle may raise anything
            raise RemoteError(
                f"{name} (a {part.meta.get('type')}) cannot be opened here: {type(error).__name__}: {error}",
                hint="Install here what it is made of, or return plain data.",
                name=name,
                ename=type(error).__name__,
                evalue=str(error),
            ) from error

    def __contains__(self, name: object) -> bool:
        return name in self._parts or name in self.problems

    def __iter__(self) -> Iterator[str]:
        return iter([*self._parts, *(name for name in self.problems if name not in self._parts)])

    def __len__(self) -> int:
        return len({*self._parts, *self.problems})

    def type_of(self, name: str) -> str:
        """Return the name of a value's type without opening it. Raises `UnknownName`."""
        if name not in self._parts:
            raise UnknownName(f"the result has no value {name!r}", hint=f"It has: {', '.join(self._parts) or 'none'}.")
        return str(self._parts[name].meta.get("type", ""))

    def size_of(self, name: str) -> int:
        """Return a value's size in bytes without opening it. Raises `UnknownName`."""
        self.type_of(name)
        return self._parts[name].size


@dataclass(frozen=True)
class Result:
    """What came back from one task."""

    outputs: list[dict[str, Any]]
    """nbformat outputs in the order in which they were made."""
    values: Values
    error: OffloadError | None
    """Why it is no success: `RemoteError`, `MissingRemotePackage`, `JobFailed` …, or the first problem with a value when the code itself
    ran to its end. The other values are there all the same."""
    python: str
    """``major.minor`` of the remote Python."""
    host: str
    usage: Usage
    notebook: dict[str, Any] | None = None
    """The executed notebook."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The rest of what is known of the remote side: full Python version, implementation, IPython's version."""

    @property
    def problems(self) -> Mapping[str, OffloadError]:
        """What is wrong with single values, by name."""
        return self.values.problems


def read_result(path: str | Path, key: str, *, max_bytes: int | None = None) -> Result:
    """Open a result without unpickling anything.

    Raises `ResultUnavailable`, `ResultTooLarge` and, for anything that is not exactly what the runner signed, `ResultTampered`.
    """
    bundle = Bundle.open(path, hmac_key=key, max_bytes=max_bytes)
    main = bundle.main
    try:
        problems = {name: from_json(item) for name, item in main.get("problems", {}).items()}
        error = from_json(main["error"]) if main.get("error") else next(iter(problems.values()), None)
        facts = dict(main["facts"])
        outputs = json.loads(bundle.read(bundle.of("outputs")[0]))
        notebooks = bundle.of("notebook")
        notebook = json.loads(bundle.read(notebooks[0])) if notebooks else None
        usage = Usage(float(facts["wall_seconds"]), float(facts["cpu_seconds"]), int(facts["max_rss_bytes"]))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as problem:
        raise ResultTampered(
            f"the result is not one that our runner writes: {problem}", hint="Client and service may differ in version."
        ) from problem
    return Result(outputs, Values(bundle, problems), error, bundle.python, str(facts["host"]), usage, notebook, facts)
