"""Volumes as folders in the task's work folder, and what lies in them before any container starts."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jupyter_offload.errors import FileRefused
from jupyter_offload.pod import Work
from jupyter_offload.translator.manifest import Pod, Volume, relative_path
from jupyter_offload.translator.paths import folder_of, place_of
from jupyter_offload.translator.reading import Reader, refuse

__all__ = ["Entry", "add_parents", "check_sub_paths", "volume_entries", "work_files"]


@dataclass(frozen=True)
class Entry:
    """One member of an inputs tar; ``path`` is relative to the work folder."""

    path: str
    kind: Literal["folder", "file", "link"]
    mode: int = 0o700
    data: bytes = b""
    """A file's content when ``source`` is ``None``."""
    source: str | None = None
    """Absolute path of the file on this machine whose content it gets."""
    target: str = ""
    """Where a link points."""


def add_parents(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return the entries with every folder above them first, each path once; the same path with two contents is the caller's fault."""
    found: dict[str, Entry] = {}
    for entry in entries:
        parts = entry.path.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent not in found:
                found[parent] = Entry(parent, "folder")
        if entry.kind != "folder" or entry.path not in found:
            found[entry.path] = entry
    return tuple(found.values())


def volume_entries(pod: Pod, work: Work) -> list[Entry]:
    """Return the folders of all volumes and the files of Secrets and ConfigMaps. Raises `ManifestError`."""
    secrets = _by_name(work.secrets, "Secret")
    config_maps = _by_name(work.config_maps, "ConfigMap")
    entries = []
    for volume in pod.volumes.values():
        if volume.kind == "hostPath":
            continue
        entries.append(Entry(folder_of(volume.name), "folder"))
        if volume.kind == "secret":
            name = volume.source.required("secretName")
            entries += _files(volume, name, _secret_content(secrets.get(name)))
        elif volume.kind == "configMap":
            name = volume.source.required("name")
            entries += _files(volume, name, _config_content(config_maps.get(name)))
        elif volume.source.text("medium") not in (None, ""):
            refuse(volume.source.at("medium"), "is not supported: an emptyDir is a folder on the worker's disk")
    return entries


def check_sub_paths(pod: Pod, entries: Iterable[Entry]) -> None:
    """Refuse a subPath of a Secret or ConfigMap that names nothing in it."""
    known = {entry.path for entry in add_parents(entries)}
    for container in pod.everyone:
        for mount in container.mounts:
            if (
                mount.sub_path
                and pod.volumes[mount.volume].kind in ("secret", "configMap")
                and place_of(mount) not in known
            ):
                refuse(f"{mount.at}.subPath", f"the volume {mount.volume!r} holds no {mount.sub_path!r}")


def work_files(pod: Pod, work: Work) -> tuple[list[Entry], list[list[Entry]]]:
    """Return the files that travel with the work: those of every task, and those of each task."""
    common: list[Entry] = []
    own: list[list[Entry]] = [[] for _ in range(work.tasks)]
    for file in work.files:
        volume = pod.volumes.get(file.volume)
        if volume is None or volume.kind != "emptyDir":
            raise FileRefused(
                f"the file {file.path!r} is meant for {file.volume!r}, which is not an emptyDir volume of the Pod",
                hint="Name one of the Pod's emptyDir volumes.",
            )
        path = relative_path(file.path, f"file {file.path!r}")
        entry = Entry(f"{folder_of(file.volume)}/{path}", "file", mode=file.mode & 0o777, source=file.source)
        if file.task is None:
            common.append(entry)
        elif 0 <= file.task < work.tasks:
            own[file.task].append(entry)
        else:
            raise FileRefused(
                f"the file {file.path!r} is for task {file.task} of {work.tasks}", hint="Tasks count from 0."
            )
    return common, own


def _by_name(objects: Iterable[Mapping[str, Any]], kind: str) -> dict[str, Reader]:
    found = {}
    for place, item in enumerate(objects):
        reader = Reader(item, f"{kind}[{place}]")
        metadata = reader.child("metadata")
        if metadata is None:
            refuse(reader.at("metadata"), "is missing")
        found[metadata.required("name")] = reader
    return found


def _secret_content(item: Reader | None) -> dict[str, bytes] | None:
    if item is None:
        return None
    plain = {key: value.encode() for key, value in item.strings("stringData").items()}
    return {**_decoded(item, "data"), **plain}


def _config_content(item: Reader | None) -> dict[str, bytes] | None:
    if item is None:
        return None
    return {**{key: value.encode() for key, value in item.strings("data").items()}, **_decoded(item, "binaryData")}


def _decoded(item: Reader, field: str) -> dict[str, bytes]:
    return {key: _unbase64(value, f"{item.at(field)}.{key}") for key, value in item.strings(field).items()}


def _unbase64(text: str, path: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        refuse(path, "is not base64")  # the value itself may be a secret


def _files(volume: Volume, name: str, content: dict[str, bytes] | None) -> list[Entry]:
    source = volume.source
    optional = source.boolean("optional")
    if content is None:
        if not optional:
            refuse(
                source.path,
                f"there is no {volume.kind} {name!r} beside the Pod",
                "Send the object along, or mark it optional.",
            )
        return []
    mode = _mode(source, "defaultMode", 0o644)
    items = source.children("items")
    if not items:
        for key in content:
            relative_path(key, f"{source.path} ({name})")
            if "/" in key:
                refuse(source.path, f"the key {key!r} of {name!r} is not a file name")
        return [Entry(f"{folder_of(volume.name)}/{key}", "file", mode, value) for key, value in content.items()]
    entries = []
    for item in items:
        item.check({"key", "path", "mode"})
        key = item.required("key")
        path = relative_path(item.required("path"), item.at("path"))
        if key in content:
            entries.append(Entry(f"{folder_of(volume.name)}/{path}", "file", _mode(item, "mode", mode), content[key]))
        elif not optional:
            refuse(item.at("key"), f"{name!r} has no key {key!r}")
    return entries


def _mode(reader: Reader, key: str, default: int) -> int:
    value = reader.integer(key, lowest=0, highest=0o777)
    return default if value is None else value
