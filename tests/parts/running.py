"""Runs the runner as a job would: a bundle in a private folder, a process, a signed result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jupyter_offload.job import Kind, Request, new_id
from jupyter_offload.payload import runner
from jupyter_offload.payload.bundle import BundleWriter
from jupyter_offload.payload.calls import Call
from jupyter_offload.payload.codecs import encode
from jupyter_offload.payload.results import Result, read_result

KEY = "5a" * 32


class Run:
    """One run: what it printed, its exit code, its result."""

    def __init__(self, folder: Path, done: subprocess.CompletedProcess[bytes]) -> None:
        self.folder = folder
        self.code = done.returncode
        self.stdout = done.stdout
        self.stderr = done.stderr

    @property
    def result(self) -> Result:
        return read_result(self.folder / "result", KEY)

    def text(self, name: str = "stdout") -> str:
        return "".join(
            output["text"]
            for output in self.result.outputs
            if output["output_type"] == "stream" and output["name"] == name
        )

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line.partition(b"\n")[0]) for line in self.stdout.split(b"\x1e")[1:]]


def prepare(
    folder: Path,
    source: str = "",
    *,
    kind: Kind = Kind.CELL,
    values: Mapping[str, object] | None = None,
    outputs: Sequence[str] = (),
    parts: Sequence[tuple[str, str, bytes]] = (),
    call: Call | None = None,
    limits: Mapping[str, int] | None = None,
    pip: Sequence[str] = (),
    python: str | None = None,
    **main: Any,
) -> Path:
    request = Request(id=new_id(), name="svm-fit", kind=kind, outputs=tuple(outputs), pip=tuple(pip))
    content = (
        {"source": source, "filename": "<offload svm-fit>", **main}
        if kind is Kind.CELL
        else {**main, **(call.main if call else {})}
    )
    writer = BundleWriter(folder / "bundle", python=python, request=request, key=KEY, main=content, limits=limits)
    for name, value in (values or {}).items():
        encoded = encode(value, name=name)
        writer.add("value", name, encoded.codec, encoded.data, encoded.meta)
    for role, name, data in parts:
        writer.add(role, name, "raw", data)
    for part in call.parts if call else ():
        writer.add(part.role, part.name, part.encoded.codec, part.encoded.data, part.encoded.meta)
    return writer.close()


def command(folder: Path, python: str = sys.executable) -> list[str]:
    return [python, runner.__file__, str(folder / "bundle"), str(folder / "result")]


def run(
    folder: Path,
    source: str = "",
    *,
    interpreter: str = sys.executable,
    environ: Mapping[str, str] | None = None,
    **options: Any,
) -> Run:
    prepare(folder, source, **options)
    work = folder / "work"
    work.mkdir(exist_ok=True)
    done = subprocess.run(
        command(folder, interpreter),
        cwd=work,
        env={**os.environ, **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return Run(folder, done)
