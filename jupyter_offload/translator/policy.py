"""What a site's policy lets a Pod do: images, paths of the worker, annotations that inject commands. The default is: no."""

from __future__ import annotations

import posixpath
from typing import NoReturn

from jupyter_offload.errors import PolicyDenied
from jupyter_offload.translator.apptainer import reference
from jupyter_offload.translator.manifest import Pod
from jupyter_offload.translator.options import Options
from jupyter_offload.translator.reading import refuse

__all__ = ["PRE_EXEC", "check_policy", "injected"]

PRE_EXEC = "slurm-job.vk.io/pre-exec"
"""Bash lines that run before the containers (InterLink's mesh network comes that way, whatever the batch system)."""
_INJECTING = ("slurm-job.vk.io/", "htcondor-job.vk.io/", "htcondor-job.knoc.io/", "job.vk.io/")
"""Annotations of other translators that inject commands, options or mounts."""


def check_policy(pod: Pod, options: Options) -> None:
    """Raise `PolicyDenied` with the path of the first thing that the site does not allow."""
    policy = options.policy
    for name in pod.annotations:
        if name.startswith(_INJECTING):
            path = f"metadata.annotations.{name}"
            if name not in policy.annotations:
                _deny(
                    path,
                    "the site does not allow this annotation",
                    "It injects commands; ask the site to allow it by name.",
                )
            if name != PRE_EXEC:
                refuse(path, "is not supported")
    for volume in pod.volumes.values():
        if volume.kind == "hostPath":
            path = volume.source.required("path")
            if not path.startswith("/") or ".." in path.split("/"):
                refuse(volume.source.at("path"), f"{path!r} must be an absolute path without '..'")
            if volume.source.text("type") not in (None, "", "Directory", "File"):
                refuse(volume.source.at("type"), "is not supported: only what exists already can be mounted")
            if not policy.allows_host_path(posixpath.normpath(path)):
                allowed = ", ".join(policy.host_paths) or "none"
                _deny(
                    volume.source.at("path"),
                    f"the site does not allow {path!r}",
                    f"Paths that the site allows: {allowed}.",
                )
    if options.runtime != "host":
        for container in pod.everyone:
            if not policy.allows_image(container.image) and not policy.allows_image(reference(container.image)):
                allowed = ", ".join(policy.images) or "none"
                _deny(
                    f"{container.at}.image",
                    f"the site does not allow {container.image!r}",
                    f"The site allows these images: {allowed}.",
                )


def injected(pod: Pod, options: Options) -> tuple[str, ...]:
    """Return the lines of annotations that the policy allows."""
    lines = pod.annotations.get(PRE_EXEC) if PRE_EXEC in options.policy.annotations else None
    return (lines,) if lines else ()


def _deny(path: str, what: str, hint: str) -> NoReturn:
    raise PolicyDenied(f"{path}: {what}", hint=hint, path=path)
