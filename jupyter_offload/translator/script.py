"""`translate`: a Work becomes one bash script and the contents of its inputs tars. Pure: nothing is read or written."""

from __future__ import annotations

import functools
import posixpath
from dataclasses import dataclass
from importlib import resources as package_files

import jinja2

from jupyter_offload.errors import PolicyDenied
from jupyter_offload.pod import Work
from jupyter_offload.translator import host
from jupyter_offload.translator.environment import surroundings
from jupyter_offload.translator.manifest import Container, Pod, read_pod
from jupyter_offload.translator.options import Options
from jupyter_offload.translator.quoting import comment, quote
from jupyter_offload.translator.reading import refuse
from jupyter_offload.translator.resources import Needs, needs_of
from jupyter_offload.translator.volumes import Entry, add_parents, folder_of, volume_entries, work_files

__all__ = ["INPUTS", "SCRIPT", "Translation", "task_inputs_name", "translate"]

SCRIPT = "job.sh"
INPUTS = "inputs.tar"
COMPLETE = "complete"
"""Last member of an inputs tar: without it the tar was cut off."""


@dataclass(frozen=True)
class Translation:
    """A script and what it needs; `write` puts both into a folder."""

    script: str
    entries: tuple[Entry, ...]
    """Members of inputs.tar, in order."""
    task_entries: tuple[tuple[Entry, ...], ...]
    """Per task the members of its own tar; empty when no task has files of its own."""
    needs: Needs
    containers: tuple[str, ...]
    """Names, init containers first."""
    tasks: int
    notes: tuple[str, ...] = ()
    """What differs from a cluster, in plain words."""


def task_inputs_name(index: int) -> str:
    """Return the file name of a task's own inputs."""
    return f"inputs-{index}.tar"


def translate(work: Work, options: Options) -> Translation:
    """Return the script for a work.

    Raises `ManifestError` (a field that cannot be honoured, with its path), `PolicyDenied` (the site forbids it) and `FileRefused`
    (a WorkFile for a place that does not exist).
    """
    pod = read_pod(work)
    _check_policy(pod, options)
    common, own = work_files(pod, work)
    entries = volume_entries(pod, work)
    rendered = []
    bases = []
    for number, container in enumerate(pod.everyone):
        scratch = f"tmp/{container.name}"
        entries.append(Entry(scratch, "folder"))
        body, base, needed = _container(container, pod, scratch)
        entries += needed
        bases.append(base)
        rendered.append({"number": number, "name": container.name, "init": container.init, "body": body})
    _check_conflicts(entries)
    first = bases[len(pod.init)]
    if pod.fetch and first is None:
        refuse(
            "metadata.annotations", "files cannot come back from a working directory that is not in an emptyDir volume"
        )
    has_own = any(own)
    everyone = pod.everyone
    script = _template().render(
        work=work,
        inputs=f"{INPUTS} and inputs-<task index>.tar" if has_own else INPUTS,
        names=" ".join(container.name for container in everyone),
        init=" ".join("true" if container.init else "false" for container in everyone),
        count=len(everyone),
        init_count=len(pod.init),
        mains=" ".join(str(number) for number in range(len(pod.init), len(everyone))),
        deadline=pod.deadline_seconds or 0,
        grace=pod.grace_seconds,
        task_inputs="yes" if has_own else "''",
        base=first if pod.fetch and first is not None else "",
        public=" ".join(folder_of(volume.name) for volume in pod.volumes.values() if volume.kind == "emptyDir"),
        output_limit=options.output_limit_bytes,
        frame_limit=options.frame_limit_bytes,
        containers=rendered,
        fetch=[_fetch_line(pattern) for pattern in pod.fetch],
        runtime_ready=_runtime_ready(),
        exports=[f"export OFFLOAD_CACHE={quote(options.cache)}"] if options.cache else [],
        setup="\n".join(options.setup),
        library=_library(),
    )
    return Translation(
        script=script,
        entries=(*add_parents([Entry("out/logs", "folder"), *entries, *common]), Entry(COMPLETE, "file", 0o600)),
        task_entries=tuple(
            (*add_parents(files), Entry(f"{COMPLETE}-{index}", "file", 0o600)) for index, files in enumerate(own)
        )
        if has_own
        else (),
        needs=needs_of(pod),
        containers=tuple(container.name for container in everyone),
        tasks=work.tasks,
    )


def _container(container: Container, pod: Pod, scratch: str) -> tuple[str, str | None, list[Entry]]:
    workdir, needed = host.layout(container, pod)
    if not container.command and not container.args:
        refuse(f"{container.at}.command", "is missing: the host runtime has no image whose command could be run")
    found = surroundings(container, workdir=host.WORKDIR)
    return host.body(found, workdir, scratch), workdir, needed


def _check_policy(pod: Pod, options: Options) -> None:
    for volume in pod.volumes.values():
        if volume.kind != "hostPath":
            continue
        path = volume.source.required("path")
        if not path.startswith("/") or ".." in path.split("/"):
            refuse(volume.source.at("path"), f"{path!r} must be an absolute path without '..'")
        if volume.source.text("type") not in (None, "", "Directory", "File"):
            refuse(volume.source.at("type"), "is not supported: only what exists already can be mounted")
        if not options.policy.allows_host_path(posixpath.normpath(path)):
            allowed = ", ".join(options.policy.host_paths) or "none"
            raise PolicyDenied(
                f"{volume.source.at('path')}: the site does not allow {path!r}",
                hint=f"Paths of the workers that the site allows: {allowed}.",
                path=volume.source.at("path"),
            )


def _check_conflicts(entries: list[Entry]) -> None:
    links: dict[str, str] = {}
    for entry in entries:
        if entry.kind == "link" and links.setdefault(entry.path, entry.target) != entry.target:
            refuse(
                "spec.containers",
                f"two containers mount different volumes at {entry.path!r}, which the host runtime cannot do",
            )


def _fetch_line(pattern: str) -> str:
    if any(character in pattern for character in "*?["):
        return f"o_fetch_glob {quote(pattern.replace(chr(92), chr(92) * 2))}"
    return f"o_fetch_file {quote(pattern)}"


def _runtime_ready() -> str:
    return "o_runtime_ready() { # the worker itself is the runtime\n  o_env=$(type -P env)\n}"


@functools.cache
def _environment() -> jinja2.Environment:
    # Delimiters that bash text does not have: ${#array[@]} looks like a comment to the usual ones.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jupyter_offload.translator"),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<%=",
        variable_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - bash, not HTML: every value goes through `quote` or `comment`
        keep_trailing_newline=True,
    )
    environment.filters["quote"] = quote
    environment.filters["comment"] = comment
    return environment


@functools.cache
def _template() -> jinja2.Template:
    return _environment().get_template("job.sh.j2")


@functools.cache
def _library() -> str:
    folder = package_files.files("jupyter_offload.translator") / "templates"
    return (folder / "library.sh").read_text(encoding="utf-8")
