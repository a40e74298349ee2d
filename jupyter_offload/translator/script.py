"""`translate`: a Work becomes one bash script and the contents of its inputs tars. Pure: nothing is read or written."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources as package_files

import jinja2

from jupyter_offload.pod import ANNOTATION_FETCH, Work
from jupyter_offload.translator import apptainer, host
from jupyter_offload.translator.environment import surroundings
from jupyter_offload.translator.manifest import Container, Pod, read_pod
from jupyter_offload.translator.options import Options
from jupyter_offload.translator.paths import folder_of
from jupyter_offload.translator.policy import check_policy, injected
from jupyter_offload.translator.quoting import comment, quote
from jupyter_offload.translator.reading import refuse
from jupyter_offload.translator.resources import Needs, needs_of
from jupyter_offload.translator.volumes import Entry, add_parents, check_sub_paths, volume_entries, work_files

__all__ = ["INPUTS", "SCRIPT", "Translation", "task_inputs_name", "translate"]

SCRIPT = "job.sh"
INPUTS = "inputs.tar"
_LIBRARY = ("basics", "status", "logs", "runtime", "containers", "results", "events")
"""The parts of the machinery that is the same in every script, in order."""
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
    check_policy(pod, options)
    needs = needs_of(pod)
    common, own = work_files(pod, work)
    entries = volume_entries(pod, work)
    check_sub_paths(pod, entries)
    plans = [_plan(container, pod, options, gpus=needs.gpus > 0) for container in pod.everyone]
    for plan in plans:
        entries += plan.entries
    _check_conflicts(entries)
    first = plans[len(pod.init)]
    if pod.fetch and first.base is None:
        refuse(
            f"metadata.annotations.{ANNOTATION_FETCH}",
            "files cannot come back from a working directory that is not in an emptyDir volume",
            "Mount an emptyDir volume at the first container's workingDir.",
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
        base=first.base if pod.fetch and first.base else "",
        public=" ".join(folder_of(volume.name) for volume in pod.volumes.values() if volume.kind == "emptyDir"),
        output_limit=options.output_limit_bytes,
        frame_limit=options.frame_limit_bytes,
        containers=[
            {"number": number, "name": container.name, "init": container.init, "body": plan.body}
            for number, (container, plan) in enumerate(zip(everyone, plans, strict=True))
        ],
        fetch=[*(first.fetch if pod.fetch else ()), *(_fetch_line(pattern) for pattern in pod.fetch)],
        runtime_checks=_runtime_checks(pod, options),
        exports=[f"export OFFLOAD_CACHE={quote(options.cache)}"] if options.cache else [],
        setup="\n".join((*options.setup, *injected(pod, options))),
        library=_library(),
    )
    return Translation(
        script=script,
        entries=_members([Entry("out/logs", "folder"), Entry("runtime", "folder"), *entries, *common], COMPLETE),
        task_entries=tuple(_members(files, f"{COMPLETE}-{index}") for index, files in enumerate(own))
        if has_own
        else (),
        needs=needs,
        containers=tuple(container.name for container in everyone),
        tasks=work.tasks,
        notes=tuple(note for container in everyone for note in host.notes(container, pod))
        if options.runtime == "host"
        else (),
    )


def _members(entries: list[Entry], last: str) -> tuple[Entry, ...]:
    return (*add_parents(entries), Entry(last, "file", 0o600))


@dataclass(frozen=True)
class _Plan:
    """How one container is run."""

    body: str
    base: str | None
    """The working directory in the work folder, if it lies there."""
    entries: list[Entry]
    fetch: tuple[str, ...] = ()
    """Lines that prepare the collection of files."""


def _plan(container: Container, pod: Pod, options: Options, *, gpus: bool) -> _Plan:
    scratch = f"tmp/{container.name}"
    if options.runtime == "host":
        workdir, entries = host.layout(container, pod)
        found = surroundings(container, workdir=host.WORKDIR)
        return _Plan(host.body(container, found, workdir, scratch), workdir, [Entry(scratch, "folder"), *entries])
    if container.image == host.IMAGE:
        refuse(
            f"{container.at}.image",
            f"{host.IMAGE!r} stands for no image, but the site runs containers with {options.runtime}",
        )
    entries = apptainer.layout(container, pod)
    found = surroundings(container, workdir=None)
    return _Plan(
        apptainer.body(container, pod, found, options, gpus=gpus),
        apptainer.base_of(container, pod),
        entries,
        tuple(f"o_join {quote(point)} {quote(folder)}" for point, folder in apptainer.joins(container, pod)),
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


def _runtime_checks(pod: Pod, options: Options) -> list[str]:
    if options.runtime == "host":
        return ["o_have_host"]
    lines = [f"o_have_runtime {quote(options.runtime_path or options.runtime)} && return 0"]
    for container in pod.everyone:
        names = apptainer.prefixed(container)
        if names and container.image.startswith("/"):
            lines.insert(-1, f"o_takes_variables {quote(container.image)} {' '.join(names)} || return 1")
    return [*lines, "return 1"]


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
    return "\n".join((folder / f"{name}.sh").read_text(encoding="utf-8") for name in _LIBRARY)
