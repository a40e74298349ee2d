r"""Containers with an image, run by Apptainer or Singularity as the batch system's own user.

What was found by trying (Apptainer 1.4, images as SIF, sandbox and plain folder) decides how values get in:

- ``APPTAINERENV_X`` and ``--env`` are evaluated by a shell inside the container: ``$(…)`` runs. So ordinary variables simply stand in the
  environment of the apptainer process, without ``--cleanenv``, which passes every byte; before that the worker's own variables are
  taken away. Only names that mean something to apptainer itself go by the prefix, with ``\``, ``$`` and backquotes escaped.
- A plain folder without ``/.singularity.d/env`` ignores the prefix altogether.
- A few names are taken by apptainer's embedded shell and never arrive; they are refused.
- ``--bind`` separates at colons and commas: paths with these are refused.
"""

from __future__ import annotations

import posixpath
import re

from jupyter_offload.translator.environment import BASH_OWN, Surroundings
from jupyter_offload.translator.manifest import Container, Mount, Pod
from jupyter_offload.translator.options import Options
from jupyter_offload.translator.paths import below, place_of
from jupyter_offload.translator.quoting import Variable, Word, map_text, quote, quote_word
from jupyter_offload.translator.reading import refuse
from jupyter_offload.translator.volumes import Entry

__all__ = ["base_of", "body", "joins", "layout", "prefixed", "reference"]

_LOST = re.compile("IFS|OPTIND|PPID|S?RANDOM|GID|DIRSTACK|PS1|PROMPT_COMMAND|USER_PATH|PWD|(APPTAINER|SINGULARITY).*")
_PREFIXED = re.compile("PATH|TMPDIR|LD_.*|XDG_.*|DBUS_.*|USER|LOGNAME|DOCKER_.*")
_MOUNTABLE = re.compile(r"[^:,\\]*")
_PREFIX = {"apptainer": "APPTAINERENV_", "singularity": "SINGULARITYENV_"}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
_HOME = "/home/offload"


def reference(image: str) -> str:
    """Return the image as apptainer wants it: a path, a URL, or (as in Kubernetes) a name in a registry."""
    return image if image.startswith("/") or _SCHEME.match(image) else f"docker://{image}"


def layout(container: Container, pod: Pod) -> list[Entry]:
    """Return the folders that the container's mounts need. Raises `ManifestError` for paths that cannot be mounted."""
    entries = [Entry(_temporary(container), "folder"), Entry(_home(container)[0], "folder")]
    for mount in container.mounts:
        _mountable(mount.path, f"{mount.at}.mountPath")
        _mountable(mount.sub_path, f"{mount.at}.subPath")
        if pod.volumes[mount.volume].kind == "emptyDir":
            entries.append(Entry(place_of(mount), "folder"))
    if container.working_dir is not None and "\n" in container.working_dir:
        refuse(f"{container.at}.workingDir", "holds a line break")
    for name, _ in container.env:
        if _LOST.fullmatch(name):
            refuse(f"{container.at}.env ({name})", "is a name that the container runtime keeps for itself")
    return entries


def base_of(container: Container, pod: Pod) -> str | None:
    """Return where the working directory lies in the work folder, or ``None`` when it is part of the image."""
    top = container.working_dir
    holding = [mount for mount in container.mounts if top is not None and below(top, mount.path) is not None]
    mount = max(holding, key=lambda mount: len(mount.path), default=None)
    if top is None or mount is None or pod.volumes[mount.volume].kind != "emptyDir":
        return None
    return posixpath.normpath(f"{place_of(mount)}/{below(top, mount.path)}")


def joins(container: Container, pod: Pod) -> list[tuple[str, str]]:
    """Return (mount point, folder) for emptyDir volumes mounted inside others: at the end the first becomes a link to the second."""
    found = []
    for mount in container.mounts:
        outer = [
            other for other in container.mounts if other is not mount and below(mount.path, other.path) is not None
        ]
        around = max(outer, key=lambda other: len(other.path), default=None)
        if around and pod.volumes[mount.volume].kind == pod.volumes[around.volume].kind == "emptyDir":
            found.append((f"{place_of(around)}/{below(mount.path, around.path)}", place_of(mount)))
    return found


def prefixed(container: Container) -> list[str]:
    """Return the variables that a plain folder as image cannot be given."""
    return [name for name, _ in container.env if _PREFIXED.fullmatch(name)]


def body(container: Container, pod: Pod, found: Surroundings, options: Options, *, gpus: bool) -> str:
    """Return the bash lines that become the container's process."""
    prefix = _PREFIX["apptainer" if options.runtime == "apptainer" else "singularity"]
    lines = ["o_locale_back", "o_clear_environment"]
    lines += [
        f"o_stay {quote(place_of(mount))} || exit 126"
        for mount in container.mounts
        if mount.sub_path and pod.volumes[mount.volume].kind == "emptyDir"
    ]
    by_env = []
    for name, word in found.env.items():
        if name == "HOME":
            continue
        if _PREFIXED.fullmatch(name):
            lines.append(f"export {prefix}{name}={quote_word(map_text(_escaped, word))}")
        elif BASH_OWN.fullmatch(name):
            by_env.append(f"{name}={quote_word(word)}")
        else:
            lines.append(f"export {name}={quote_word(word)}")
    call = [*by_env, '"${o_runtime}" --silent ' + ("exec" if found.command else "run") + " --contain --pid --ipc"]
    if not container.read_only_root:
        call.append("--writable-tmpfs")
    if gpus:
        call.append("--nv")
    call.append(f"--home {_bind(*_home(container))}")
    call.append(f"--pwd {quote(container.working_dir or '/')}")
    call += [f"--bind {_bind(_temporary(container), path)}" for path in ("/tmp", "/var/tmp")]  # noqa: S108
    call += [f"--bind {quote(mount)}" for mount in options.mounts]
    if options.cache:
        _mountable(options.cache, "the site's cache")
        call.append('${o_cache[@]+"${o_cache[@]}"}')
    for mount in sorted(container.mounts, key=lambda mount: mount.path):
        call.append(f"--bind {_mount(mount, pod)}")
    call += [quote(argument) for argument in options.extra]
    call.append(quote(reference(container.image)))
    call += [quote_word(word) for word in found.command + found.args]
    first = ["exec -- " + ('"${o_env}"' if by_env else call.pop(0))]
    lines.append(" \\\n    ".join(first + call))
    return "\n".join(f"  {line}" for line in lines)


def _temporary(container: Container) -> str:
    return f"tmp/{container.name}/tmp"  # noqa: S108 - relative to the work folder


def _home(container: Container) -> tuple[str, str]:
    """Return the home folder's place in the work folder and its path in the container: a home inside a volume is part of that volume."""
    path = f"{container.at}.env (HOME)"
    home = dict(container.env).get("HOME", _HOME)
    if not home.startswith("/") or ".." in home.split("/") or posixpath.normpath(home) == "/" or "$" in home:
        refuse(path, "must be an absolute path other than / here")
    _mountable(home, path)
    home = posixpath.normpath(home)
    inside = [mount for mount in container.mounts if below(home, mount.path) is not None]
    mount = max(inside, key=lambda mount: len(mount.path), default=None)
    if mount is None:
        return f"tmp/{container.name}/home", home
    return posixpath.normpath(f"{place_of(mount)}/{below(home, mount.path)}"), home


def _mount(mount: Mount, pod: Pod) -> str:
    volume = pod.volumes[mount.volume]
    read_only = mount.read_only or volume.kind in ("secret", "configMap")
    options = ":ro" if read_only else ""
    if volume.kind == "hostPath":
        source = posixpath.normpath(f"{volume.source.required('path')}/{mount.sub_path}")
        _mountable(source, volume.source.at("path"))
        return quote(f"{source}:{mount.path}{options}")
    return _bind(place_of(mount), mount.path + options)


def _bind(place: str, target: str) -> str:
    word: Word = (Variable.ROOT, f"/{place}:{target}")
    return quote_word(word)


def _mountable(text: str, path: str) -> None:
    if _MOUNTABLE.fullmatch(text) is None:
        refuse(path, f"{text!r} holds a colon, a comma or a backslash, which the container runtime cannot mount")


def _escaped(text: str) -> str:
    return re.sub(r"([\\$`])", r"\\\1", text)
