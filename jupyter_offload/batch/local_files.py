"""The files of the `local` batch: taking over what is submitted, reading output, handing results back."""

# Plain os calls: a thousand tasks are looked at in one poll.
# ruff: noqa: PTH101, PTH102, PTH103, PTH104, PTH105, PTH110

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Sequence

from jupyter_offload.batch.base import ERR, OUT, OUTPUT, Chunk, Fetched, Handle, Submission, task_folder
from jupyter_offload.batch.processes.spool import Spool, remove_file, remove_tree, write_file, write_record
from jupyter_offload.errors import BadSubmit, BatchNotFound

__all__ = ["fetch_one", "read_chunk", "stage"]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REFUSED_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)


def stage(spool: Spool, submissions: Sequence[Submission]) -> list[list[Handle]]:
    """Take over scripts and inputs. All are checked before the first is taken. Raises `BadSubmit`."""
    for submission in submissions:
        _check(submission)
    return [_stage_one(spool, submission) for submission in submissions]


def _stage_one(spool: Spool, submission: Submission) -> list[Handle]:
    group = f"{submission.job_id}~{submission.attempt}"
    handles = [
        Handle(f"{group}~{index}", submission.job_id, index, submission.attempt, submission.folder)
        for index in range(submission.tasks)
    ]
    if os.path.exists(spool.group(group)):
        return handles
    aside = f"{spool.jobs}/.{group}.{os.urandom(4).hex()}"
    for folder in (aside, f"{aside}/inputs", f"{aside}/state", f"{aside}/task"):
        os.mkdir(folder, mode=0o700)
    for name in (submission.script, *submission.inputs):
        _take(f"{submission.folder}/{name}", f"{aside}/inputs/{name}")
    for index, names in enumerate(submission.task_inputs):
        if names:
            os.mkdir(f"{aside}/inputs-{index}", mode=0o700)
        for name in names:
            _take(f"{submission.folder}/{name}", f"{aside}/inputs-{index}/{name}")
    demand = submission.demand
    write_record(
        f"{aside}/submission",
        {
            "job_id": submission.job_id,
            "attempt": submission.attempt,
            "owner": submission.owner,
            "name": submission.name,
            "folder": submission.folder,
            "script": submission.script,
            "tasks": str(submission.tasks),
            "cpus": str(demand.cpus),
            "memory_bytes": str(demand.memory_bytes),
            "disk_bytes": str(demand.disk_bytes),
            "time_seconds": "" if demand.time_seconds is None else str(demand.time_seconds),
            "rerun": "yes" if submission.rerun else "no",
            "grace_seconds": str(submission.grace_seconds),
            "expires": "" if submission.expires is None else repr(submission.expires),
        },
    )
    if submission.expires is not None:
        write_file(f"{spool.expires}/{int(submission.expires) + 1}~{group}", b"")
    try:
        os.rename(aside, spool.group(group))
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        remove_tree(aside)  # the same attempt, by another process, was quicker
    return handles


def _take(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _REFUSED_LINK:
            raise
        shutil.copyfile(source, target)
        os.chmod(target, 0o600)


def _check(submission: Submission) -> None:
    for what, value in (("job_id", submission.job_id), ("attempt", submission.attempt)):
        if _ID.fullmatch(value) is None:
            raise BadSubmit(f"{what} {value!r} cannot be used", hint="Use letters, digits, dots and dashes.")
    job = submission.job_id
    if submission.tasks < 1 or submission.demand.cpus < 1:
        raise BadSubmit(f"{submission.name}: less than one task or one core", hint="Ask for at least one.", job_id=job)
    if submission.demand.gpus:
        raise BadSubmit(
            f"{submission.name} asks for {submission.demand.gpus} GPUs and the local site offers none",
            hint="Send it to a site that has GPUs: `%offload sites` lists them.",
            job_id=job,
        )
    if submission.task_inputs and len(submission.task_inputs) != submission.tasks:
        raise BadSubmit(
            f"{submission.name}: {len(submission.task_inputs)} lists of inputs for {submission.tasks} tasks",
            hint="Give one list for each task, or none.",
            job_id=job,
        )
    for extra in submission.task_inputs or ((),):
        names = (submission.script, *submission.inputs, *extra)
        for name in names:
            _check_name(submission, name)
        if len(set(names)) != len(names):
            raise BadSubmit(f"{submission.name}: a file is named twice", hint="Name each file once.", job_id=job)


def _check_name(submission: Submission, name: str) -> None:
    job = submission.job_id
    if not name or "/" in name or "\0" in name or name in (".", "..", OUT, ERR, OUTPUT):
        raise BadSubmit(
            f"{submission.name}: {name!r} cannot be the name of an input",
            hint=f"Use a plain file name other than {OUT}, {ERR} and {OUTPUT}.",
            job_id=job,
        )
    try:
        status = os.lstat(f"{submission.folder}/{name}")
    except (FileNotFoundError, NotADirectoryError):
        raise BadSubmit(
            f"{submission.name}: {name!r} is not in {submission.folder}", hint="Write the file first.", job_id=job
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise BadSubmit(f"{submission.name}: {name!r} is not a plain file", hint="Copy it there.", job_id=job)


def read_chunk(spool: Spool, handle: Handle, file: str, offset: int, limit: int) -> Chunk:
    """Return at most ``limit`` bytes of ``out`` or ``err`` from ``offset`` on. Raises `BatchNotFound`."""
    if file not in (OUT, ERR):
        raise BatchNotFound(f"{file!r} cannot be read", hint=f"Only {OUT} and {ERR} can.", job_id=handle.job_id)
    group = f"{handle.job_id}~{handle.attempt}"
    if handle.id != f"{group}~{handle.index}" or _ID.fullmatch(group.replace("~", "", 1)) is None:
        raise _unknown(handle)
    ended = os.path.exists(spool.state(group, handle.index, "end"))  # before the file: it grows no more after that
    if os.path.exists(spool.state(group, handle.index, "gone")) or not os.path.exists(spool.group(group)):
        raise _unknown(handle)
    path = f"{spool.folder(group, handle.index)}/work/{file}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return Chunk(b"", offset, ended)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _replaced(handle, file) from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _replaced(handle, file)
        data = os.pread(descriptor, limit, offset)
        return Chunk(data, offset, ended and offset + len(data) >= status.st_size)
    finally:
        os.close(descriptor)


def _replaced(handle: Handle, file: str) -> BatchNotFound:
    return BatchNotFound(
        f"task {handle.index} replaced {file!r} by something that is not a plain file",
        hint="Let the task write to its standard output.",
        job_id=handle.job_id,
    )


def _unknown(handle: Handle) -> BatchNotFound:
    return BatchNotFound(
        f"the local site has no trace of task {handle.index}", hint="It was removed.", job_id=handle.job_id
    )


def fetch_one(spool: Spool, handle: Handle) -> Fetched:
    """Bring the files of an ended task; each appears whole, and with mode 0600."""
    source = f"{spool.folder(f'{handle.job_id}~{handle.attempt}', handle.index)}/work"
    target = task_folder(handle)
    os.makedirs(target, mode=0o700, exist_ok=True)
    brought: dict[str, str | None] = {}
    problems = []
    for name in (OUTPUT, OUT, ERR):
        brought[name] = None
        try:
            status = os.lstat(f"{source}/{name}")
        except FileNotFoundError:
            problems.append(f"there is no {name}")
            continue
        if not stat.S_ISREG(status.st_mode):
            problems.append(f"{name} is not a plain file")
            continue
        aside = f"{target}/.{name}.{os.urandom(4).hex()}"
        _take(f"{source}/{name}", aside)
        os.chmod(aside, 0o600)
        os.replace(aside, f"{target}/{name}")
        remove_file(aside)  # rename(2) leaves both names when they are links to one file: fetched before
        brought[name] = f"{target}/{name}"
    return Fetched(handle, output=brought[OUTPUT], out=brought[OUT], err=brought[ERR], problem="; ".join(problems))
