"""From what the user wrote to a submission: a `Request` and the parts of its bundle. Nothing leaves this process here."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jupyter_offload.errors import FileRefused, UsageError
from jupyter_offload.job import Kind, Request, Shipment, new_id
from jupyter_offload.kernel.files import find_files, find_secrets
from jupyter_offload.kernel.options import Options
from jupyter_offload.payload import runner
from jupyter_offload.payload.bundle import Buffer, BundleWriter
from jupyter_offload.payload.calls import plan_call
from jupyter_offload.payload.cells import plan_cell
from jupyter_offload.payload.codecs import Encoded, encode
from jupyter_offload.payload.functions import FunctionReference, FunctionSource
from jupyter_offload.payload.modules import user_modules

__all__ = ["Origin", "Prepared", "prepare_call", "prepare_cell", "prepare_command", "prepare_notebook"]

SHOWN_SOURCE = 20_000


@dataclass(frozen=True)
class Origin:
    """Where a submission comes from: for display, and so that a cell is recognised when it runs again."""

    notebook: str | None = None
    cell: str | None = None


@dataclass
class Prepared:
    """A submission that is ready to be written: its request, the header's ``main``, and the parts."""

    request: Request
    main: Mapping[str, Any]
    blind: tuple[str, ...] = ()
    """Constructs of the cell that may read names which nobody can see."""
    parts: list[tuple[str, str, str, Buffer | Sequence[Buffer] | Path, Mapping[str, Any]]] = field(default_factory=list)

    @contextmanager
    def bundle(self) -> Iterator[Path]:
        """Write the bundle to a private temporary file, which is gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="offload-") as folder:  # 0700
            path = Path(folder) / "bundle"
            writer = BundleWriter(path, request=self.request, key=secrets.token_hex(32), main=self.main)
            for part in self.parts:
                writer.add(*part)
            writer.close()
            yield path

    @property
    def size_bytes(self) -> int:
        """Bytes that travel."""
        return sum(item.size_bytes for item in self.request.ships)


def _request(kind: Kind, options: Options, default_name: str, **rest: Any) -> Request:
    return Request(
        id=new_id(),
        name=options.name or default_name,
        kind=kind,
        site=options.site,
        image=options.image,
        resources=options.resources,
        env=dict(options.env),
        fetch=options.fetch,
        secrets=tuple(options.secrets),
        pip=options.pip,
        python=runner.minor_version(),
        rerun=options.rerun,
        created=time.time(),
        **rest,
    )


def prepare_cell(
    source: str,
    options: Options,
    *,
    transformed: str,
    user_ns: Mapping[str, object],
    hidden: Collection[str],
    origin: Origin,
    filename: str,
    folder: Path,
) -> Prepared:
    """Return a cell as a submission.

    Raises `CaptureError` (the cell is no Python), `CannotEncode` (a value cannot travel), `UnknownName` (``-i`` names what is not there) or
    `FileRefused`.
    """
    plan = plan_cell(
        source,
        transformed,
        user_ns,
        filename=filename,
        inputs=options.inputs,
        outputs=options.outputs,
        hidden=hidden,
    )
    request = _request(
        Kind.CELL,
        options,
        "cell",
        inputs=tuple(plan.values),
        outputs=options.outputs,
        needs_equal_python=plan.python_bound,
        source=source[:SHOWN_SOURCE],
        origin=origin.notebook,
    )
    made = Prepared(request, plan.main, tuple(f"line {item.line}: {item.construct}" for item in plan.blind))
    for name, value in plan.values.items():
        _add_value(made, "value", name, value)
    ships = [Shipment(name, "function", "source", 0) for name in plan.functions]
    return _finish(made, options, folder, plan.modules, ships, origin)


def prepare_call(
    function: Callable[..., object],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    options: Options,
    *,
    user_ns: Mapping[str, object],
    folder: Path,
) -> Prepared:
    """Return a function call as a submission. Raises `CannotEncode` or `FileRefused`."""
    plan = plan_call(function, args, kwargs, user_ns)
    name = str(getattr(function, "__name__", type(function).__name__))
    found = plan.found
    source = found.source if isinstance(found, FunctionSource) else str(found or name)
    modules: Sequence[str] = ()
    if isinstance(found, FunctionSource):
        modules = found.modules
    elif isinstance(found, FunctionReference):
        modules = (found.module,)
    request = _request(
        Kind.FUNCTION,
        options,
        _slug(name, "function"),
        needs_equal_python=plan.python_bound,
        outputs=("result",),
        source=source[:SHOWN_SOURCE],
    )
    made = Prepared(request, plan.main)
    for part in plan.parts:
        _add_value(made, part.role, part.name, part.encoded)
    how = "source" if isinstance(found, FunctionSource) else "reference" if found else "pickle"
    ships = [Shipment(name, "function", how, len(source) if how == "source" else 0)]
    return _finish(made, options, folder, modules, ships, None)


def prepare_command(command: Sequence[str], options: Options, *, origin: Origin | None, folder: Path) -> Prepared:
    """Return a program with its arguments as a submission. Raises `UsageError` or `FileRefused`."""
    if not command or not command[0]:
        raise UsageError("there is no command to run", hint="Write it behind --, as in: -- python train.py")
    if options.pip:
        raise UsageError("--pip is for cells, functions and notebooks", hint="Choose an image that has the packages.")
    shown = " ".join(command)
    request = _request(
        Kind.COMMAND,
        options,
        _slug(Path(command[0]).name, "command"),
        command=tuple(command),
        source=shown[:SHOWN_SOURCE],
        origin=origin.notebook if origin else None,
    )
    return _finish(Prepared(request, {}), options, folder, (), [], origin)


def prepare_notebook(
    path: Path, options: Options, parameters: Mapping[str, object], *, origin: Origin | None, folder: Path
) -> Prepared:
    """Return a whole notebook as a submission; ``parameters`` replace those of its cell tagged ``parameters``.

    User modules that its cells import travel as source. Raises `FileRefused` or `UsageError`.
    """
    try:
        data = path.read_bytes()
        notebook = runner.read_notebook(data)
    except OSError as error:
        raise FileRefused(f"{path}: {error.strerror}", hint="Give the path of a notebook.", path=str(path)) from error
    except runner.Refused as refused:
        raise UsageError(f"{path}: {refused.fault['message']}", hint=refused.fault["hint"]) from refused
    text = "\n".join(runner.cell_source(cell) for _, cell in runner.notebook_cells(notebook))
    request = _request(
        Kind.NOTEBOOK,
        options,
        _slug(path.stem, "notebook"),
        inputs=tuple(parameters),
        source=text[:SHOWN_SOURCE],
        origin=str(path),
    )
    made = Prepared(request, {"filename": path.name})
    made.parts.append(("source", path.name, "raw", data, {}))
    for name, value in parameters.items():
        _add_value(made, "value", name, encode(value, name=name))
    ships = [Shipment(path.name, "source", "notebook", len(data))]
    return _finish(made, options, folder, _imports(text), ships, origin)


def _imports(text: str) -> list[str]:
    # Magics and shell lines make a notebook no Python: imports are found line by line.
    found = re.findall(r"^\s*(?:import|from)\s+([A-Za-z_][\w.]*)", text, re.MULTILINE)
    return list(dict.fromkeys(name.partition(".")[0] for name in found))


def _add_value(made: Prepared, role: str, name: str, value: Encoded) -> None:
    meta = dict(value.meta)
    if value.python_bound:
        meta["python_bound"] = True
    made.parts.append((role, name, value.codec, list(value.data), meta))


def _finish(
    made: Prepared,
    options: Options,
    folder: Path,
    modules: Sequence[str],
    ships: Sequence[Shipment],
    origin: Origin | None,
) -> Prepared:
    shown = list(ships)
    for role, name, codec, data, meta in made.parts:
        if role in ("value", "arg", "kwarg"):
            size = sum(len(chunk) for chunk in data) if isinstance(data, list) else 0
            label = f"argument {int(name) + 1}" if role == "arg" else name
            shown.append(Shipment(label, "value", str(meta.get("type") or codec), size))
    for file in user_modules(modules):
        made.parts.append(("module", file.path, "raw", file.data, {}))
        shown.append(Shipment(file.path, "module", "source", len(file.data)))
    for name, path, mode in find_files(options.files, folder):
        made.parts.append(("file", name, "raw", path, {"mode": mode}))
        shown.append(Shipment(name, "file", "file", path.stat().st_size))
    for name, secret in find_secrets(options.secrets, folder).items():
        made.parts.append(("secret", name, "raw", secret, {}))
        shown.append(Shipment(name, "secret", "secret", len(secret)))
    fingerprint = _fingerprint(made, origin) if origin is not None else None
    made.request = replace(made.request, ships=tuple(shown), fingerprint=fingerprint)
    return made


def _fingerprint(made: Prepared, origin: Origin) -> str:
    """Return a digest of everything that makes two submissions the same, so that a twin is recognised.

    The cell's own id counts, and not only its text: two cells that happen to be alike are two wishes.
    """
    request = replace(made.request, id="", created=0.0, ships=(), source="")
    digest = hashlib.sha256()
    # The cell's file name holds the number of this execution.
    main = {key: value for key, value in made.main.items() if key != "filename"}
    plain = {"origin": [origin.notebook, origin.cell], "request": request.to_json(), "main": main}
    digest.update(json.dumps(plain, sort_keys=True, default=str).encode())
    for role, name, codec, data, _ in made.parts:
        digest.update(f"\0{role}\0{name}\0{codec}\0".encode("utf-8", "surrogatepass"))
        if isinstance(data, Path):
            for chunk in runner.file_chunks(os.fspath(data)):
                digest.update(chunk)
        else:
            for piece in [data] if isinstance(data, (bytes, bytearray, memoryview)) else data:
                digest.update(piece)
    return digest.hexdigest()


def _slug(text: str, default: str) -> str:
    found = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")
    return found or default
