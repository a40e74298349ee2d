from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from jupyter_offload.batch.base import Chunk, Demand, Handle, Submission
from jupyter_offload.batch.local_files import fetch_one, read_chunk, stage
from jupyter_offload.batch.processes.spool import Spool, touch, write_record
from jupyter_offload.errors import BadSubmit, BatchNotFound


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(str(tmp_path / "spool"))
    spool.create()
    return spool


@pytest.fixture
def job(tmp_path: Path) -> Submission:
    folder = tmp_path / "job"
    folder.mkdir(mode=0o700)
    for name in ("job.sh", "in 1", "in-0", "in-1"):
        (folder / name).write_text(name)
        (folder / name).chmod(0o600)
    (folder / "link").symlink_to("job.sh")
    (folder / "sub").mkdir()
    return Submission(
        "0" * 32, "a1", "me", "job", str(folder), "job.sh", ("in 1",), (("in-0",), ("in-1",)), tasks=2, expires=99.5
    )


def names(folder: str) -> list[str]:
    return [path.name for path in Path(folder).iterdir()]


def ended(spool: Spool, handle: Handle, **files: bytes) -> Path:
    """Put an ended task with these files in place."""
    group = f"{handle.job_id}~{handle.attempt}"
    work = Path(spool.folder(group, handle.index)) / "work"
    work.mkdir(parents=True)
    for name, data in files.items():
        (work / name).write_bytes(data)
    write_record(spool.state(group, handle.index, "end"), {"verdict": ""})
    return work


def test_a_submission_is_taken_over_whole_and_private(spool: Spool, job: Submission) -> None:
    [handles] = stage(spool, [job])
    assert handles == [Handle(f"{job.job_id}~a1~{index}", job.job_id, index, "a1", job.folder) for index in (0, 1)]
    group = Path(spool.group(f"{job.job_id}~a1"))
    assert {path.name for path in (group / "inputs").iterdir()} == {"job.sh", "in 1"}
    assert [path.name for path in (group / "inputs-1").iterdir()] == ["in-1"]
    assert stat.S_IMODE(group.stat().st_mode) == 0o700
    assert names(spool.expires) == [f"100~{job.job_id}~a1"]
    assert names(spool.queue) == []
    # The caller may go on with its folder: what was taken stays.
    Path(job.folder, "in 1").unlink()
    assert (group / "inputs/in 1").read_text() == "in 1"


def test_the_same_attempt_again_is_the_same(spool: Spool, job: Submission) -> None:
    first = stage(spool, [job])
    assert stage(spool, [job]) == first
    assert stage(spool, [replace(job, attempt="a2")]) != first
    assert sorted(names(spool.jobs)) == [f"{job.job_id}~a1", f"{job.job_id}~a2"]


def test_files_of_another_file_system_are_copied(
    spool: Spool, job: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file system cannot be mounted in every place where tests run: link(2) is made to answer as across two of them.
    def refuse(*_arguments: object, **_keywords: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (Path(job.folder) / "in 1").chmod(0o644)
    stage(spool, [job])
    taken = Path(spool.group(f"{job.job_id}~a1")) / "inputs/in 1"
    assert taken.read_text() == "in 1"
    assert stat.S_IMODE(taken.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"job_id": "../x"}, "job_id"),
        ({"job_id": "a~b"}, "job_id"),
        ({"attempt": ""}, "attempt"),
        ({"attempt": "x" * 65}, "attempt"),
        ({"tasks": 0}, "less than one task"),
        ({"demand": Demand(cpus=0)}, "one core"),
        ({"demand": Demand(gpus=2)}, "2 GPUs"),
        ({"task_inputs": (("in-0",),)}, "1 lists of inputs for 2 tasks"),
        ({"inputs": ("in 1", "in 1")}, "named twice"),
        ({"task_inputs": ((), ("in 1",))}, "named twice"),
        ({"inputs": ("../job/in 1",)}, "'../job/in 1'"),
        ({"inputs": ("..",)}, "'..'"),
        ({"inputs": ("",)}, "''"),
        ({"inputs": ("out",)}, "'out'"),
        ({"inputs": ("output.tar",)}, "'output.tar'"),
        ({"inputs": ("a\0b",)}, "name of an input"),
        ({"inputs": ("missing",)}, "'missing' is not in"),
        ({"script": "missing.sh"}, "'missing.sh'"),
        ({"folder": "/none"}, "is not in /none"),
        ({"inputs": ("link",)}, "'link' is not a plain file"),
        ({"inputs": ("sub",)}, "'sub' is not a plain file"),
        ({"task_inputs": ((), ("link",))}, "'link'"),
    ],
)
def test_a_wrong_submission_is_refused_and_nothing_of_the_call_is_taken(
    spool: Spool, job: Submission, change: dict[str, object], named: str
) -> None:
    good = replace(job, attempt="good")
    with pytest.raises(BadSubmit) as caught:
        stage(spool, [good, replace(job, **change)])  # type: ignore[arg-type]
    assert named in caught.value.message
    assert caught.value.hint
    assert names(spool.jobs) == []


def test_reading_goes_by_offset_and_ends_when_the_task_has(spool: Spool, job: Submission) -> None:
    [[handle, other]] = stage(spool, [job])
    assert read_chunk(spool, handle, "out", 0, 9) == Chunk(b"", 0)
    work = Path(spool.folder(f"{job.job_id}~a1", 1)) / "work"
    work.mkdir(parents=True)
    (work / "out").write_bytes(b"0123456789")
    assert read_chunk(spool, other, "out", 4, 3) == Chunk(b"456", 4)
    assert read_chunk(spool, other, "out", 4, 99) == Chunk(b"456789", 4)
    assert read_chunk(spool, other, "out", 99, 9) == Chunk(b"", 99)
    write_record(spool.state(f"{job.job_id}~a1", 1, "end"), {})
    assert read_chunk(spool, other, "out", 4, 3) == Chunk(b"456", 4)
    assert read_chunk(spool, other, "out", 7, 3) == Chunk(b"789", 7, end=True)
    assert read_chunk(spool, other, "err", 0, 3) == Chunk(b"", 0, end=True)


def test_only_output_of_tasks_that_are_there_can_be_read(spool: Spool, job: Submission, tmp_path: Path) -> None:
    [[handle, other]] = stage(spool, [job])
    for file in ("output.tar", "../work/out", "/etc/passwd"):
        with pytest.raises(BatchNotFound):
            read_chunk(spool, handle, file, 0, 9)
    for strange in (
        replace(handle, attempt="none", id=f"{job.job_id}~none~0"),
        replace(handle, job_id="../jobs/x", id="../jobs/x~a1~0"),
        replace(handle, id="other"),
    ):
        with pytest.raises(BatchNotFound):
            read_chunk(spool, strange, "out", 0, 9)
    touch(spool.state(f"{job.job_id}~a1", 1, "gone"))
    with pytest.raises(BatchNotFound):
        read_chunk(spool, other, "out", 0, 9)


def test_results_are_handed_over_whole_private_and_as_often_as_asked(spool: Spool, job: Submission) -> None:
    [[handle, _]] = stage(spool, [job])
    work = ended(spool, handle, out=b"out", err=b"", **{"output.tar": b"tar"})
    (work / "out").chmod(0o644)
    target = Path(job.folder) / "task-0"
    for _ in range(2):
        fetched = fetch_one(spool, handle)
        assert (fetched.output, fetched.out, fetched.err, fetched.problem) == (
            str(target / "output.tar"),
            str(target / "out"),
            str(target / "err"),
            "",
        )
        assert sorted(path.name for path in target.iterdir()) == ["err", "out", "output.tar"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in target.iterdir()} == {0o600}
        assert (target / "out").read_bytes() == b"out"
        assert stat.S_IMODE(target.stat().st_mode) == 0o700


def test_a_link_in_the_place_of_a_result_is_not_followed(spool: Spool, job: Submission, tmp_path: Path) -> None:
    [[handle, _]] = stage(spool, [job])
    work = ended(spool, handle)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (work / "output.tar").symlink_to(secret)
    (work / "out").symlink_to(secret)
    os.mkfifo(work / "err")
    fetched = fetch_one(spool, handle)
    assert (fetched.output, fetched.out, fetched.err) == (None, None, None)
    assert fetched.problem == "output.tar is not a plain file; out is not a plain file; err is not a plain file"
    assert list((Path(job.folder) / "task-0").iterdir()) == []
    for name in ("out", "err"):
        with pytest.raises(BatchNotFound, match="not a plain file"):
            read_chunk(spool, handle, name, 0, 9)
