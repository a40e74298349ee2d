"""Paths: in a container, and in the task's work folder."""

from __future__ import annotations

import posixpath

from jupyter_offload.translator.manifest import Mount

__all__ = ["below", "folder_of", "place_of"]


def folder_of(volume: str) -> str:
    """Return the volume's folder in the work folder."""
    return f"volumes/{volume}"


def place_of(mount: Mount) -> str:
    """Return what is mounted, as a path in the work folder."""
    return posixpath.normpath(f"{folder_of(mount.volume)}/{mount.sub_path}")


def below(path: str, top: str) -> str | None:
    """Return ``path`` relative to ``top`` (``.`` when they are the same), or ``None`` when it does not lie there."""
    if path == top:
        return "."
    prefix = top if top.endswith("/") else top + "/"
    return path[len(prefix) :] if path.startswith(prefix) else None
