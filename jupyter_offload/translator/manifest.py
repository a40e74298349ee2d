"""A Pod as the translator understands it: read once, checked completely, then only looked at."""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass
from fractions import Fraction

from jupyter_offload.pod import ANNOTATION_FETCH, ANNOTATION_GPU_MODEL, GPU_RESOURCE, Work
from jupyter_offload.translator import fields
from jupyter_offload.translator.reading import Reader, dns_label, refuse

__all__ = ["Container", "Mount", "Pod", "Volume", "read_pod", "relative_path"]

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESOURCES = ("cpu", "memory", "ephemeral-storage", GPU_RESOURCE)


@dataclass(frozen=True)
class Mount:
    """One of a container's volumeMounts."""

    volume: str
    path: str
    """Absolute and normalised."""
    sub_path: str
    """Inside the volume; empty: all of it."""
    read_only: bool
    at: str
    """Path in the manifest, for complaints."""


@dataclass(frozen=True)
class Container:
    """An init container or a container."""

    name: str
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    working_dir: str | None
    mounts: tuple[Mount, ...]
    resources: dict[str, Fraction]
    """Exact amounts by resource name: the request, else the limit."""
    read_only_root: bool
    init: bool
    at: str


@dataclass(frozen=True)
class Volume:
    """One of the Pod's volumes."""

    name: str
    kind: str
    """``emptyDir``, ``secret``, ``configMap`` or ``hostPath``."""
    source: Reader
    at: str


@dataclass(frozen=True)
class Pod:
    """What the translator honours of a Pod."""

    init: tuple[Container, ...]
    containers: tuple[Container, ...]
    volumes: dict[str, Volume]
    deadline_seconds: int | None
    grace_seconds: int
    fetch: tuple[str, ...]
    gpu_model: str | None
    annotations: dict[str, str]

    @property
    def everyone(self) -> tuple[Container, ...]:
        """Init containers, then containers."""
        return self.init + self.containers


def read_pod(work: Work) -> Pod:
    """Read the Pod of a work. Raises `ManifestError` with the path of the first fault."""
    top = Reader(work.pod, "")
    top.check(fields.POD, fields.POD_HARMLESS)
    if top.text("kind", "Pod") != "Pod" or top.text("apiVersion", "v1") != "v1":
        refuse("kind", "must be a v1 Pod")
    metadata = top.child("metadata")
    annotations = metadata.strings("annotations") if metadata else {}
    spec = top.child("spec")
    if spec is None:
        refuse("spec", "is missing")
    spec.check(fields.SPEC, fields.SPEC_HARMLESS)
    fields.check_values(spec)
    volumes = _volumes(spec)
    init = tuple(_container(item, volumes, init=True) for item in spec.children("initContainers"))
    containers = tuple(_container(item, volumes, init=False) for item in spec.children("containers"))
    if not containers:
        refuse("spec.containers", "must name at least one container")
    names: set[str] = set()
    for container in init + containers:
        if container.name in names:
            refuse(f"{container.at}.name", f"{container.name!r} is taken by another container")
        names.add(container.name)
    grace = spec.integer("terminationGracePeriodSeconds", lowest=0)
    return Pod(
        init=init,
        containers=containers,
        volumes=volumes,
        deadline_seconds=spec.integer("activeDeadlineSeconds", lowest=1),
        grace_seconds=30 if grace is None else grace,
        fetch=_fetch(annotations),
        gpu_model=annotations.get(ANNOTATION_GPU_MODEL) or None,
        annotations=annotations,
    )


def relative_path(text: str, path: str) -> str:
    """Return a normalised path that stays inside the folder it is relative to. Raises `ManifestError`."""
    if not text or text.startswith("/") or ".." in text.split("/") or "\0" in text:
        refuse(path, f"{text!r} must be a relative path without '..'")
    normal = posixpath.normpath(text)
    if normal == "." or len(normal.encode("utf-8", "surrogateescape")) > 4000:
        refuse(path, f"{text[:80]!r} does not name anything inside")
    return normal


def _volumes(spec: Reader) -> dict[str, Volume]:
    found: dict[str, Volume] = {}
    for item in spec.children("volumes"):
        name = dns_label(item.required("name"), item.at("name"))
        if name in found:
            refuse(item.at("name"), f"{name!r} is taken by another volume")
        item.check({"name", *fields.VOLUMES})
        kinds = [kind for kind in fields.VOLUMES if item.data.get(kind) is not None]
        if len(kinds) != 1:
            refuse(item.path, f"must have exactly one of {', '.join(fields.VOLUMES)}")
        source = Reader(item.data[kinds[0]], item.at(kinds[0]))
        source.check(fields.VOLUMES[kinds[0]])
        found[name] = Volume(name, kinds[0], source, item.path)
    return found


def _container(item: Reader, volumes: dict[str, Volume], *, init: bool) -> Container:
    name = dns_label(item.required("name"), item.at("name"))
    item.check(fields.CONTAINER, fields.CONTAINER_HARMLESS)
    fields.check_values(item)
    security = item.child("securityContext")
    working_dir = item.text("workingDir") or None
    return Container(
        name=name,
        image=item.required("image"),
        command=item.texts("command"),
        args=item.texts("args"),
        env=_env(item),
        working_dir=None if working_dir is None else _absolute(working_dir, item.at("workingDir")),
        mounts=_mounts(item, volumes),
        resources=_resources(item),
        read_only_root=security is not None and security.boolean("readOnlyRootFilesystem"),
        init=init,
        at=item.path,
    )


def _env(item: Reader) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for entry in item.children("env"):
        name = entry.required("name")
        if entry.data.get("valueFrom") is not None:
            refuse(entry.at("valueFrom"), "is not supported: write the value itself")
        entry.check({"name", "value"})
        if _ENV_NAME.fullmatch(name) is None:
            refuse(entry.at("name"), f"{name!r} is not a name of letters, digits and underscores")
        found.pop(name, None)  # Kubernetes: the last one wins
        found[name] = entry.text("value") or ""
    return tuple(found.items())


def _mounts(item: Reader, volumes: dict[str, Volume]) -> tuple[Mount, ...]:
    found: dict[str, Mount] = {}
    for entry in item.children("volumeMounts"):
        entry.check({"name", "mountPath", "subPath", "readOnly", "mountPropagation", "recursiveReadOnly"})
        fields.check_values(entry)
        name = entry.required("name")
        if name not in volumes:
            refuse(entry.at("name"), f"there is no volume {name!r} in spec.volumes")
        path = _absolute(entry.required("mountPath"), entry.at("mountPath"))
        if path in found:
            refuse(entry.at("mountPath"), f"{path!r} has two volumes")
        if path == "/":
            refuse(entry.at("mountPath"), "the root of the container cannot be a volume")
        sub_path = entry.text("subPath")
        found[path] = Mount(
            volume=name,
            path=path,
            sub_path=relative_path(sub_path, entry.at("subPath")) if sub_path else "",
            read_only=entry.boolean("readOnly"),
            at=entry.path,
        )
    return tuple(found.values())


def _absolute(text: str, path: str) -> str:
    if not text.startswith("/") or ".." in text.split("/"):
        refuse(path, f"{text!r} must be an absolute path without '..'")
    return "/" + posixpath.normpath(text).lstrip("/")


def _resources(item: Reader) -> dict[str, Fraction]:
    resources = item.child("resources")
    if resources is None:
        return {}
    resources.check({"requests", "limits"})
    found: dict[str, Fraction] = {}
    for kind in ("limits", "requests"):  # a request outweighs the limit of the same name
        amounts = resources.child(kind)
        if amounts is None:
            continue
        for key in amounts.data:
            if key not in _RESOURCES:
                refuse(
                    amounts.at(str(key)),
                    f"is not a resource that can be asked for here (these can: {', '.join(_RESOURCES)})",
                )
            amount = amounts.quantity(str(key))
            if amount is not None and key == GPU_RESOURCE and amount.denominator != 1:
                refuse(amounts.at(str(key)), f"{amount} of a GPU is not possible")
            if amount is not None:
                found[str(key)] = amount
    return found


def _fetch(annotations: dict[str, str]) -> tuple[str, ...]:
    path = f"metadata.annotations.{ANNOTATION_FETCH}"
    text = annotations.get(ANNOTATION_FETCH)
    if not text:
        return ()
    try:
        patterns = json.loads(text)
    except ValueError as error:
        refuse(path, f"is not JSON: {error}")
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        refuse(path, "must be a JSON list of patterns")
    return tuple(relative_path(pattern, f"{path}[{place}]") for place, pattern in enumerate(patterns))
