"""Work, the only unit below the payload: one Pod template and N tasks; and every label and annotation name of ours.

A `Work` is JSON-serialisable (``to_json`` / ``from_json``): the manifest is the plain dictionary that the Kubernetes API
takes (``apiVersion: v1, kind: Pod``), Secrets and ConfigMaps that its volumes name travel beside it, and files go by reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ANNOTATION_FETCH",
    "ANNOTATION_GPU_MODEL",
    "ANNOTATION_RERUN",
    "GPU_RESOURCE",
    "LABEL_JOB",
    "LABEL_NAME",
    "LABEL_OWNER",
    "PREFIX",
    "WORKDIR_VARIABLE",
    "Work",
    "WorkFile",
]

PREFIX = "jupyter-offload/"
LABEL_JOB = PREFIX + "job"
LABEL_NAME = PREFIX + "name"
LABEL_OWNER = PREFIX + "owner"
ANNOTATION_FETCH = PREFIX + "fetch"
"""JSON list of glob patterns, relative to the first container's workingDir, of the files that come back."""
ANNOTATION_GPU_MODEL = PREFIX + "gpu-model"
"""GPU model that every GPU of the Pod must be, as the site's machines name it."""
ANNOTATION_RERUN = PREFIX + "rerun"
"""``"false"``: after an eviction the work must not start again."""
GPU_RESOURCE = "nvidia.com/gpu"
WORKDIR_VARIABLE = "OFFLOAD_WORKDIR"
"""Environment variable with the absolute path of the container's workingDir; with the host runtime the translator sets the real one,
so that ``$(OFFLOAD_WORKDIR)/x`` in the Pod (Kubernetes' own dependent-variable syntax) is right everywhere."""


@dataclass(frozen=True)
class WorkFile:
    """A file that is placed in one of the Pod's emptyDir volumes before any container starts."""

    volume: str
    """Name of an emptyDir volume of the Pod."""
    path: str
    """Relative path inside the volume: no ``..``, not absolute, any other bytes that a Linux file name may have (UTF-8)."""
    source: str
    """Absolute path on the service's machine."""
    mode: int = 0o600
    task: int | None = None
    """Only for this task, or ``None`` for all."""


@dataclass(frozen=True)
class Work:
    """One Pod template and N tasks."""

    job_id: str
    owner: str
    name: str
    pod: Mapping[str, Any]
    secrets: tuple[Mapping[str, Any], ...] = ()
    """v1.Secret objects that the Pod's volumes name (``data`` in base64 or ``stringData``)."""
    config_maps: tuple[Mapping[str, Any], ...] = ()
    files: tuple[WorkFile, ...] = ()
    tasks: int = 1
    expires: float | None = None
    """End of the job's life, seconds since the epoch: its time limit plus the site's longest queueing time."""

    def to_json(self) -> dict[str, Any]:
        """Return the work as plain data."""
        return {
            **{item.name: getattr(self, item.name) for item in dataclasses.fields(self)},
            "files": [dataclasses.asdict(file) for file in self.files],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Work:
        """Rebuild a work."""
        values = dict(data)
        values["files"] = tuple(WorkFile(**file) for file in values.get("files") or ())
        for key in ("secrets", "config_maps"):
            values[key] = tuple(values.get(key) or ())
        return cls(**values)
