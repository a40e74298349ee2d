"""What a site decides about its scripts: runtime, setup lines, mounts, policy."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Literal

__all__ = ["Options", "Policy", "Runtime"]

Runtime = Literal["apptainer", "singularity", "host"]


@dataclass(frozen=True)
class Policy:
    """What the Pods of a site may ask for beyond the ordinary. By default: nothing."""

    images: tuple[str, ...] = ()
    """Patterns (``*``, ``?``, ``[…]``) of the image references that may run, such as ``docker://registry.example.org/*``."""
    host_paths: tuple[str, ...] = ()
    """Folders of the worker node that a ``hostPath`` volume may name, themselves or anything below."""
    annotations: tuple[str, ...] = ()
    """Names of annotations that inject commands and are honoured all the same."""

    def allows_image(self, reference: str) -> bool:
        """Return whether an image may run; a path that climbs (``..``) never may."""
        return ".." not in reference.split("/") and any(
            fnmatch.fnmatchcase(reference, pattern) for pattern in self.images
        )

    def allows_host_path(self, path: str) -> bool:
        """Return whether a normalised absolute path of the worker node may be mounted."""
        return any(
            path == prefix.rstrip("/") or path.startswith(prefix.rstrip("/") + "/") for prefix in self.host_paths
        )


@dataclass(frozen=True)
class Options:
    """How a site's scripts are made."""

    runtime: Runtime = "apptainer"
    runtime_path: str | None = None
    """Program that runs containers, when it is not on the worker's PATH under the runtime's name."""
    setup: tuple[str, ...] = ()
    """The administrator's bash lines, run once in the script's own shell before any container (trusted, unlike a Pod)."""
    mounts: tuple[str, ...] = ()
    """The site's own ``source:destination[:ro]`` mounts for every container; no effect with the host runtime, which sees the node."""
    policy: Policy = Policy()
    cache: str | None = None
    """Folder on the worker nodes for image and environment caches; exported as OFFLOAD_CACHE."""
    output_limit_bytes: int = 10 << 30
    """The files that come back may be this large together."""
    frame_limit_bytes: int = 64 << 20
    """This much of the logs goes to standard output while a task runs; the log files hold everything."""
    extra: tuple[str, ...] = ()
    """Further arguments of the container runtime, before the image (trusted)."""
