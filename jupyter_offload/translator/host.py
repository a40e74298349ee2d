"""Containers without an image: processes of the worker itself, with the site's own Python.

There is no mount of one's own on a worker, so the Pod's paths cannot exist there. A container's files all lie below its workingDir:
the volume that is mounted there (or above it) *is* the working directory, further volumes below it are links, and anything else is refused.
"""

from __future__ import annotations

import posixpath

from jupyter_offload.translator.environment import BASH_OWN, Surroundings
from jupyter_offload.translator.manifest import Container, Mount, Pod
from jupyter_offload.translator.paths import below, place_of
from jupyter_offload.translator.quoting import Variable, Word, quote, quote_word
from jupyter_offload.translator.reading import refuse
from jupyter_offload.translator.volumes import Entry

__all__ = ["IMAGE", "body", "layout", "notes"]

IMAGE = "host"
WORKDIR: Word = (Variable.WORKDIR,)


def layout(container: Container, pod: Pod) -> tuple[str, list[Entry]]:
    """Return the container's working directory (relative to the work folder) and the links and folders it needs.

    Raises `ManifestError` for an image, or a mount that does not lie below the workingDir.
    """
    if container.image != IMAGE:
        refuse(
            f"{container.at}.image",
            f"the site runs programs without images; the image must be {IMAGE!r}",
            "Choose a site with containers.",
        )
    top = container.working_dir
    if top is None:
        if container.mounts:
            refuse(f"{container.at}.workingDir", "is missing: with the host runtime all volumes lie below it")
        return _private(container), [Entry(_private(container), "folder")]
    roots = [mount for mount in container.mounts if below(top, mount.path) is not None]
    root = max(roots, key=lambda mount: len(mount.path), default=None)
    if root is None:
        base, base_path, entries = _private(container), top, [Entry(_private(container), "folder")]
    else:
        if pod.volumes[root.volume].kind != "emptyDir":
            refuse(root.at, "the working directory must lie in an emptyDir volume with the host runtime")
        base, base_path, entries = place_of(root), root.path, [Entry(place_of(root), "folder")]
    for mount in sorted(container.mounts, key=lambda mount: mount.path):
        if mount is not root:
            entries += _link(mount, base, base_path, container, pod)
    inside = below(top, base_path)
    workdir = posixpath.normpath(f"{base}/{inside}")
    return workdir, [*entries, Entry(workdir, "folder")]


def body(container: Container, found: Surroundings, workdir: str, folder: str) -> str:
    """Return the bash lines that become the container's process; ``folder`` is its own scratch folder."""
    if not found.command:
        refuse(f"{container.at}.command", "is missing: without an image there is no default command")
    lines = [f'o_workdir="$o_root"/{quote(workdir)}', 'cd -- "$o_workdir" || exit 126', "o_locale_back"]
    lines.append(f'export TMPDIR="$o_root"/{quote(folder)}')
    by_env = []
    for name, word in found.env.items():
        if BASH_OWN.fullmatch(name):
            by_env.append(f"{name}={quote_word(word)}")
        else:
            lines.append(f"export {name}={quote_word(word)}")
    words = [quote_word(word) for word in found.command + found.args]
    if by_env:  # names that mean something to bash itself are set by env(1)
        lines.append(" \\\n    ".join(['exec -- "$o_env"', *by_env, " ".join(words)]))
    else:
        lines.append(" ".join(["exec", "--", *words]))
    return "\n".join(f"  {line}" for line in lines)


def _link(mount: Mount, base: str, base_path: str, container: Container, pod: Pod) -> list[Entry]:
    inside = below(mount.path, base_path)
    if inside is None or inside == ".":
        refuse(
            f"{mount.at}.mountPath",
            f"{mount.path!r} does not lie below the working directory {base_path!r}, as the host runtime needs",
        )
    for other in container.mounts:
        if other is not mount and other.path != base_path and below(mount.path, other.path) is not None:
            refuse(
                f"{mount.at}.mountPath",
                f"{mount.path!r} lies in the volume mounted at {other.path!r}, which the host runtime cannot do",
            )
    at = f"{base}/{inside}"
    if pod.volumes[mount.volume].kind == "hostPath":
        target = posixpath.normpath(f"{pod.volumes[mount.volume].source.required('path')}/{mount.sub_path}")
        return [Entry(at, "link", target=target)]
    place = place_of(mount)
    link = Entry(at, "link", target=posixpath.relpath(place, posixpath.dirname(at)))
    return [link] if pod.volumes[mount.volume].kind != "emptyDir" else [Entry(place, "folder"), link]


def _private(container: Container) -> str:
    return f"private/{container.name}"


def notes(container: Container, pod: Pod) -> list[str]:
    """Return what the host runtime does less strictly than a cluster."""
    return [
        f"{mount.at}.readOnly: the host runtime cannot keep a program from writing to {mount.path!r}"
        for mount in container.mounts
        if mount.read_only and pod.volumes[mount.volume].kind == "emptyDir"
    ]
