"""From a request to Work: the Pod that runs it, its files and its secrets.

The Pod has one container, ``main``, in ``/work``. A cell, function or notebook runs by the runner, which lies with its bundle in
``/work/.offload``; a command runs as it is. Everything the user wrote (names, values, arguments) goes in as data: Kubernetes would
replace ``$(NAME)`` in arguments and environment, so every ``$`` of the user's is doubled, which is its escape.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets as random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_offload.errors import FileRefused, UsageError
from jupyter_offload.job import Kind, Request, Resources
from jupyter_offload.payload import runner
from jupyter_offload.payload.bundle import Bundle, BundleWriter
from jupyter_offload.pod import (
    ANNOTATION_FETCH,
    ANNOTATION_GPU_MODEL,
    ANNOTATION_RERUN,
    GPU_RESOURCE,
    LABEL_JOB,
    LABEL_NAME,
    LABEL_OWNER,
    WORKDIR_VARIABLE,
    Work,
    WorkFile,
)
from jupyter_offload.quantity import parse_bytes, parse_cpus, parse_quantity

__all__ = ["PRIVATE", "RESULT", "WORKDIR", "Split", "StagedFile", "build_work", "check_path", "split_bundle"]

WORKDIR = "/work"
PRIVATE = ".offload"
RESULT = f"{PRIVATE}/result"
"""Path of the signed result, relative to the working directory; the first of the fetch patterns."""
_SECRETS = f"{PRIVATE}/secrets"
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_LABEL = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class StagedFile:
    """A user's file that waits in the job folder."""

    path: str
    """Relative path under which it arrives."""
    source: str
    """Absolute path in the job folder."""
    mode: int


@dataclass(frozen=True)
class Split:
    """A submission taken apart."""

    request: Request
    key: str
    """The key that the result will be signed with, in hexadecimal digits."""
    files: tuple[StagedFile, ...]
    secrets: Mapping[str, str]
    """Absolute path of each secret in the job folder, by name."""


def split_bundle(
    bundle: Bundle, folder: Path, *, max_result_bytes: int | None = None, max_file_bytes: int | None = None
) -> Split:
    """Take a submission apart into ``folder`` (a private one that exists): ``bundle`` for the runner, ``files/``, ``secrets/``.

    The runner's bundle has neither files nor secrets in it. Raises `FileRefused` for a path that leads elsewhere or comes twice, or for a
    file over ``max_file_bytes``, and `UsageError` for anything else that is not a sound submission.
    """
    request = bundle.request
    key = bundle.key or random.token_hex(32)
    (folder / "files").mkdir(mode=0o700, exist_ok=True)
    files = []
    check_paths(part.name for part in bundle.of("file"))
    for place, part in enumerate(bundle.of("file")):
        if max_file_bytes is not None and part.size > max_file_bytes:
            raise FileRefused(
                f"{part.name} has {part.size:,} bytes, more than the site's {max_file_bytes:,}",
                hint="Put it where the site can read it, or send a part of it.",
                path=part.name,
            )
        target = folder / "files" / str(place)
        target.unlink(missing_ok=True)
        bundle.copy(part, target)
        mode = 0o700 if int(part.meta.get("mode", 0)) & 0o100 else 0o600
        files.append(StagedFile(part.name, os.fspath(target.absolute()), mode))
    secrets = _split_secrets(bundle, folder)
    if request.kind is not Kind.COMMAND:
        limits = {} if max_result_bytes is None else {"result_bytes": max_result_bytes}
        writer = BundleWriter(
            folder / "bundle", python=bundle.python, request=request, key=key, main=bundle.main, limits=limits
        )
        for part in bundle.parts:
            if part.role not in ("file", "secret"):
                writer.copy(bundle, part)
        writer.close()
    return Split(request, key, tuple(files), secrets)


def _split_secrets(bundle: Bundle, folder: Path) -> dict[str, str]:
    secrets: dict[str, str] = {}
    (folder / "secrets").mkdir(mode=0o700, exist_ok=True)
    for part in bundle.of("secret"):
        if _SECRET_NAME.fullmatch(part.name) is None or part.name in secrets:
            raise UsageError(
                f"{part.name!r} is not a name for a secret, or comes twice", hint="Use letters, digits and underscores."
            )
        target = folder / "secrets" / part.name
        target.unlink(missing_ok=True)
        bundle.copy(part, target)
        secrets[part.name] = os.fspath(target.absolute())
    return secrets


def check_paths(paths: Iterable[str]) -> None:
    """Check the relative paths of a job's files. Raises `FileRefused` for a bad or repeated one, or a file that is also a folder."""
    known: set[str] = set()
    for path in paths:
        check_path(path)
        if path in known:
            raise FileRefused(f"{path!r} comes twice", hint="Send each file once.", path=path)
        known.add(path)
    for path in known:
        above = path
        while "/" in above:
            above = above.rpartition("/")[0]
            if above in known:
                raise FileRefused(f"{above!r} is a file and a folder", hint="Rename one of them.", path=path)


def check_path(path: str) -> str:
    """Return ``path`` when it is a plain relative path for a user's file or pattern. Raises `FileRefused`."""
    parts = path.split("/")
    reason = ""
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        reason = "is not a plain relative path"
    elif "\0" in path:
        reason = "holds a NUL character"
    elif parts[0] == PRIVATE:
        reason = "is kept for the runner"
    elif any("\ud800" <= character <= "\udfff" for character in path):
        reason = "is not valid UTF-8"
    elif len(path.encode()) > 4000 or any(len(part.encode()) > 255 for part in parts):
        reason = "is too long"
    if reason:
        raise FileRefused(f"{path!r} {reason}", hint="Give a path below the current folder, without `..`.", path=path)
    return path


def build_work(
    request: Request,
    *,
    owner: str,
    folder: Path,
    image: str | None,
    secrets: Mapping[str, str | Path] | None = None,
    files: Iterable[StagedFile] = (),
    cache: str | None = None,
    expires: float | None = None,
    defaults: Resources | None = None,
    environment: Mapping[str, str] | None = None,
) -> Work:
    """Return the Work of a request whose submission was split into ``folder``.

    ``image`` is the resolved reference, or ``None`` when the site's own Python runs it. ``cache`` is a folder on the worker that
    outlives jobs (environments of ``--pip``); ``environment`` are further variables of the site's. ``defaults`` fill in resources that
    the request leaves open. Raises `UsageError` or `FileRefused`, naming the field, before anything has left this process.
    """
    resources = _merge(request.resources, defaults or Resources())
    for pattern in request.fetch:
        check_path(pattern)
    for requirement in request.pip:
        if re.fullmatch(r"[A-Za-z0-9][^\x00-\x1f]*", requirement) is None:
            raise UsageError(f"--pip: {requirement!r} is not a requirement", hint='Write it as in --pip "uproot>=5".')
    name = f"offload-{request.id[:16]}"
    container: dict[str, Any] = {
        "name": "main",
        "image": image or "host",
        "command": _command(request),
        "workingDir": WORKDIR,
        "env": _environment(request, image, cache, environment or {}, secrets or {}),
        "resources": _resources(resources),
        "volumeMounts": [{"name": "work", "mountPath": WORKDIR}],
    }
    volumes: list[dict[str, Any]] = [{"name": "work", "emptyDir": {}}]
    if secrets:
        volumes.append({"name": "secrets", "secret": {"secretName": f"{name}-secrets", "defaultMode": 0o600}})
        container["volumeMounts"].append({"name": "secrets", "mountPath": f"{WORKDIR}/{_SECRETS}", "readOnly": True})
    spec: dict[str, Any] = {"restartPolicy": "Never", "containers": [container], "volumes": volumes}
    if resources.time_seconds is not None:
        spec["activeDeadlineSeconds"] = resources.time_seconds
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": _labels(request, owner), "annotations": _annotations(request, resources)},
        "spec": spec,
    }
    return Work(
        job_id=request.id,
        owner=owner,
        name=request.name,
        pod=pod,
        secrets=(_secret(f"{name}-secrets", secrets),) if secrets else (),
        files=_work_files(request, folder, files),
        tasks=request.tasks,
        expires=expires,
    )


def _merge(asked: Resources, defaults: Resources) -> Resources:
    return Resources(
        cpus=asked.cpus or defaults.cpus,
        memory=asked.memory or defaults.memory,
        disk=asked.disk or defaults.disk,
        gpus=asked.gpus or defaults.gpus,
        gpu_model=asked.gpu_model or (defaults.gpu_model if not asked.gpus else None),
        time_seconds=asked.time_seconds or defaults.time_seconds,
    )


def _resources(resources: Resources) -> dict[str, Any]:
    wanted: dict[str, str] = {}
    if resources.cpus is not None:
        parse_cpus(resources.cpus)
        wanted["cpu"] = _quantity(resources.cpus)
    for key, value, field in (("memory", resources.memory, "memory"), ("ephemeral-storage", resources.disk, "disk")):
        if value is not None:
            parse_bytes(value, field=field)
            wanted[key] = _quantity(value)
    if resources.gpus:
        wanted[GPU_RESOURCE] = str(resources.gpus)
    return {"requests": dict(wanted), "limits": dict(wanted)} if wanted else {}


def _quantity(text: str) -> str:
    # People write 1GiB; the Kubernetes API knows 1Gi only.
    trimmed = text.strip()
    without = trimmed[:-1]
    return without if trimmed.endswith("B") and parse_quantity(without) else trimmed


def _command(request: Request) -> list[str]:
    if request.kind is not Kind.COMMAND:
        return ["python3", f"{PRIVATE}/runner.py"]
    if not request.command or not request.command[0]:
        raise UsageError("there is no command to run", hint="Write it behind --, as in: -- python train.py")
    return [_literal(word, f"command[{place}]") for place, word in enumerate(request.command)]


def _literal(text: str, field: str) -> str:
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"{field}: {text!r} holds a character that no process can be given", hint="Send it in a file.")
    return text.replace("$", "$$")


def _environment(
    request: Request, image: str | None, cache: str | None, site: Mapping[str, str], secrets: Mapping[str, str | Path]
) -> list[dict[str, str]]:
    values: dict[str, str] = {name: _literal(value, f"env {name}") for name, value in site.items()}
    for name, value in request.env.items():
        if _ENV_NAME.fullmatch(name) is None:
            raise UsageError(
                f"{name!r} is not the name of an environment variable", hint="Use letters, digits, underscores."
            )
        if name.startswith("OFFLOAD_"):
            raise UsageError(f"the variable {name} is kept for the runner", hint="Choose a name without OFFLOAD_.")
        values[name] = _literal(value, f"env {name}")
    values[WORKDIR_VARIABLE] = WORKDIR
    values["OFFLOAD_JOB_ID"] = request.id
    if image:
        values["OFFLOAD_IMAGE"] = _literal(image, "image")
    if cache:
        values["OFFLOAD_CACHE"] = _literal(cache, "cache")
    for name in secrets:
        values[f"OFFLOAD_SECRET_{name}"] = f"$({WORKDIR_VARIABLE})/{_SECRETS}/{name}"
    # A variable can refer only to those before it.
    order = sorted(values, key=lambda name: name != WORKDIR_VARIABLE)
    return [{"name": name, "value": values[name]} for name in order]


def _labels(request: Request, owner: str) -> dict[str, str]:
    return {LABEL_JOB: request.id, LABEL_NAME: _label(request.name), LABEL_OWNER: _label(owner)}


def _label(text: str) -> str:
    # Kubernetes label values: at most 63 of [A-Za-z0-9._-], letter or digit at both ends.
    return _LABEL.sub("-", text)[:63].strip("._-")


def _annotations(request: Request, resources: Resources) -> dict[str, str]:
    patterns = list(request.fetch) if request.kind is Kind.COMMAND else [RESULT, *request.fetch]
    annotations = {ANNOTATION_FETCH: json.dumps(patterns)}
    if resources.gpus and resources.gpu_model:
        annotations[ANNOTATION_GPU_MODEL] = resources.gpu_model
    if not request.rerun:
        annotations[ANNOTATION_RERUN] = "false"
    return annotations


def _secret(name: str, secrets: Mapping[str, str | Path]) -> dict[str, Any]:
    data = {key: base64.b64encode(Path(path).read_bytes()).decode("ascii") for key, path in secrets.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque", "data": data}


def _work_files(request: Request, folder: Path, files: Iterable[StagedFile]) -> tuple[WorkFile, ...]:
    staged = list(files)
    check_paths(file.path for file in staged)
    found = [WorkFile("work", file.path, file.source, file.mode) for file in staged]
    if request.kind is not Kind.COMMAND:
        found.append(WorkFile("work", f"{PRIVATE}/runner.py", os.fspath(Path(runner.__file__).absolute())))
        found.append(WorkFile("work", f"{PRIVATE}/bundle", os.fspath((folder / "bundle").absolute())))
    return tuple(found)
