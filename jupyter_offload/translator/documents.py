"""A manifest file as people write it: one Pod, and the Secrets and ConfigMaps that it names, in YAML documents."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import yaml

from jupyter_offload.errors import ManifestError
from jupyter_offload.pod import Work

__all__ = ["translate_manifest"]

_HINT = "A manifest file holds one Pod, and the Secrets and ConfigMaps that it names, separated by lines of ---."


def translate_manifest(text: str, *, owner: str = "nobody") -> Work:
    """Return the work that a manifest file describes: one task, without files.

    Raises `ManifestError` with the line of the fault: not YAML, a key given twice, not exactly one Pod, or an object of another kind.
    """
    pods: list[Mapping[str, Any]] = []
    others: dict[str, list[Mapping[str, Any]]] = {"Secret": [], "ConfigMap": []}
    for line, document in _documents(text):
        kind = document.get("kind") if isinstance(document, Mapping) else None
        if not isinstance(document, Mapping) or not isinstance(kind, str):
            raise ManifestError(f"line {line}: this is not a Kubernetes object (it has no kind)", hint=_HINT, line=line)
        if kind == "Pod":
            pods.append(document)
        elif kind in others:
            others[kind].append(document)
        else:
            raise ManifestError(f"line {line}: a {kind} cannot be translated", hint=_HINT, line=line)
    if len(pods) != 1:
        raise ManifestError(f"there are {len(pods)} Pods in the manifest", hint=_HINT)
    metadata = pods[0].get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return Work(
        job_id=uuid.uuid5(uuid.NAMESPACE_OID, text).hex,
        owner=owner,
        name=name if isinstance(name, str) else "pod",
        pod=pods[0],
        secrets=tuple(others["Secret"]),
        config_maps=tuple(others["ConfigMap"]),
    )


class _Loader(yaml.SafeLoader):
    """Safe, and a key that stands twice in a mapping is a fault, as in Kubernetes' strict decoding."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _documents(text: str) -> list[tuple[int, Any]]:
    found = []
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            value = None if node is None else loader.construct_document(node)
            if node is not None and value is not None:
                found.append((node.start_mark.line + 1, value))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ManifestError(f"line {line}: {error.problem or error}", hint="Mend the YAML.", line=line) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"this is not YAML: {error}", hint="Mend the YAML.") from error
    return found
