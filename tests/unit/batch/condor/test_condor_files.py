"""Results are never lost or halved on their way from the spool: what goes wrong there is said of the task only when the schedd says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from jupyter_offload.batch.base import OUT, Fetched, Handle
from jupyter_offload.batch.condor import selection
from jupyter_offload.batch.condor.failures import classify
from jupyter_offload.batch.condor.files import Files
from jupyter_offload.batch.condor.process import BindingsError
from jupyter_offload.errors import (
    AuthFailed,
    BatchNotFound,
    Denied,
    QuotaExceeded,
    SiteError,
    SiteTimeout,
    SiteUnreachable,
)

WHOLE = b"w" * 5000
# What HTCondor 25.14 said of a spool without the file, a full disk here, and a folder in the place of the file.
SPOOL_GONE = (
    "DCSchedd::receiveJobSandbox:7003:File transfer failed for target job 366.0: SCHEDD at 10.0.0.3 failed to send file(s) to"
    " <10.0.0.1:34767>: |Error: 1 total failures: first failure: reading from file"
    " /var/spool/condor/366/0/cluster366.proc0.subproc0/output.tar: (errno 2) No such file or directory; TOOL failed to receive"
    " file(s) from <10.0.0.3:9618>"
)
TOOL = "DCSchedd::receiveJobSandbox:7003:File transfer failed for target job 366.3: TOOL at 10.0.0.1 - |Error: writing to file "
DISK_FULL = f"{TOOL}/jobs/task-0/output.tar: (errno 28) No space left on device"
FOLDER_THERE = f"{TOOL}/jobs/task-0/output.tar: (errno 21) Is a directory"


class Spool:
    """A schedd with ended jobs whose retrieves go as they are told to."""

    config = SimpleNamespace(spool=True)

    def __init__(self, handles: Sequence[Handle]) -> None:
        self.there = list(handles)
        self.fault: Callable[[Handle], SiteError | None] = lambda handle: None
        self.retrieves = 0
        self.during = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def query(self, constraint: str, projection: Sequence[str]) -> list[dict[str, object]]:
        return [
            {
                "ClusterId": selection.job_id(handle)[0],
                "ProcId": selection.job_id(handle)[1],
                "JobStatus": 4,
                "NumJobCompletions": 1,
                "NumJobStarts": 1,
                "JobRunCount": 1,
                "OffloadJob": handle.job_id,
                "OffloadAttempt": handle.attempt,
                "OffloadIndex": handle.index,
                "ExitCode": 0,
                "ExitBySignal": False,
            }
            for handle in self.there
        ]

    async def retrieve(self, jobs: Sequence[str], *, size_bytes: int = 0) -> None:
        self.retrieves += 1
        for handle in self.there:
            if handle.id.rpartition("#")[2] in jobs:
                place = _output(handle)
                place.write_bytes(WHOLE[:1000])
                place.with_name(OUT).write_text("printed\n")
                self.during.set()
                await self.go_on.wait()
                if (error := self.fault(handle)) is not None:
                    raise error
                place.write_bytes(WHOLE)


def _output(handle: Handle) -> Path:
    return Path(handle.folder, f"task-{handle.index}", "output.tar")


def _files(handles: Sequence[Handle]) -> tuple[Files, Spool]:
    spool = Spool(handles)
    return Files(spool), spool  # type: ignore[arg-type]


@pytest.fixture
def handles(tmp_path: Path) -> list[Handle]:
    made = [Handle(f"ap#1.{proc}", "j" * 32, proc, "a", str(tmp_path)) for proc in range(4)]
    for handle in made:
        _output(handle).parent.mkdir()
    return made


def _whole(fetched: Fetched) -> bool:
    return fetched.output is not None and Path(fetched.output).read_bytes() == WHOLE and not fetched.problem


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("kind", [SiteUnreachable, SiteTimeout, AuthFailed, Denied, QuotaExceeded, SiteError])
async def test_a_fault_of_the_site_is_raised_and_half_an_archive_goes(
    handles: list[Handle], kind: type[SiteError], count: int
) -> None:
    handles = handles[:count]
    files, spool = _files(handles)
    spool.fault = lambda handle: kind("broke off") if handle == handles[-1] else None
    with pytest.raises(kind, match="broke off"):
        await files.fetch(handles)
    assert spool.retrieves == 1
    assert not any(_output(handle).exists() for handle in handles)
    spool.fault = lambda handle: None
    assert all(map(_whole, await files.fetch(handles)))


async def test_only_the_job_of_which_the_schedd_says_so_has_a_problem(handles: list[Handle]) -> None:
    files, spool = _files(handles)
    spool.fault = lambda handle: BatchNotFound("its files are gone") if handle == handles[2] else None
    fetched = await files.fetch(handles)
    assert [_whole(one) for one in fetched] == [True, True, False, True]
    assert (fetched[2].output, fetched[2].problem) == (None, "its files are gone")
    assert Path(fetched[2].out or "").read_text() == "printed\n"


async def test_a_fault_after_the_group_was_halved_is_raised(handles: list[Handle]) -> None:
    files, spool = _files(handles)

    def fault(handle: Handle) -> SiteError | None:
        if spool.retrieves == 1:
            return BatchNotFound("its files are gone")
        return SiteUnreachable("no route") if handle == handles[3] else None

    spool.fault = fault
    with pytest.raises(SiteUnreachable):
        await files.fetch(handles)


async def test_what_lay_there_before_is_not_the_result(handles: list[Handle]) -> None:
    files, spool = _files(handles[:1])
    _output(handles[0]).write_bytes(WHOLE)
    spool.fault = lambda handle: BatchNotFound("its files are gone")
    [fetched] = await files.fetch(handles[:1])
    assert (fetched.output, fetched.problem) == (None, "its files are gone")


async def test_half_an_archive_of_a_killed_process_is_not_the_result_either(handles: list[Handle]) -> None:
    files, spool = _files(handles[:1])
    spool.go_on.clear()
    fetching = asyncio.create_task(files.fetch(handles[:1]))
    await spool.during.wait()
    half = _output(handles[0]).read_bytes()
    fetching.cancel()
    await asyncio.wait([fetching])
    assert not _output(handles[0]).exists()
    _output(handles[0]).write_bytes(half)  # killed, it would have left this
    later, elsewhere = _files(handles[:1])
    elsewhere.there = []
    [fetched] = await later.fetch(handles[:1])
    assert fetched.output is None
    assert "left the queue" in fetched.problem


async def test_what_was_brought_whole_outlives_the_job_in_the_queue(handles: list[Handle]) -> None:
    files, spool = _files(handles[:1])
    await files.fetch(handles[:1])
    spool.there = []
    [fetched] = await files.fetch(handles[:1])
    assert _whole(fetched)


async def test_a_reader_does_not_write_the_archive_anew_during_or_after_a_fetch(handles: list[Handle]) -> None:
    files, spool = _files(handles[:1])
    spool.go_on.clear()
    fetching = asyncio.create_task(files.fetch(handles[:1]))
    await spool.during.wait()
    await files.read(handles[0], OUT, 1000, 10)
    spool.go_on.set()
    assert _whole((await fetching)[0])
    assert (await files.read(handles[0], OUT, 8, 10)).end
    assert spool.retrieves == 1


async def test_a_folder_here_that_cannot_be_written_is_the_sites_fault(handles: list[Handle]) -> None:
    files, _ = _files(handles[:1])
    folder = _output(handles[0]).parent
    folder.rmdir()
    folder.write_text("in the way")
    with pytest.raises(SiteError, match="stay at the site") as caught:
        await files.fetch(handles[:1])
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "kind"), [(SPOOL_GONE, BatchNotFound), (DISK_FULL, QuotaExceeded), (FOLDER_THERE, SiteError)]
)
def test_what_a_retrieve_says(text: str, kind: type[SiteError]) -> None:
    error = classify(BindingsError(text, "HTCondorException"), "retrieve", "ap")
    assert type(error) is kind
    assert error.hint
