"""Whole jobs through HTCondor: what the script was given, what it did and what it left, by the spool and back."""

from __future__ import annotations

import dataclasses
import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from parts.hostile import CANARY, NAME, TEXT, escaped, examples
from parts.job_script import Ran, pod, work
from parts.pool import Pool

from jupyter_offload.batch.base import OUT, Demand, Fetched, Handle, Submission
from jupyter_offload.batch.condor.batch import CondorBatch
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.pod import Work, WorkFile
from jupyter_offload.translator import Options, Policy, translate, write
from jupyter_offload.translator.frames import FrameParser, LogFrame

from .batch_contract import Rig, Session

pytestmark = pytest.mark.pool

LOOK = """
import json, os, sys
json.dump({
    "args": [os.fsencode(text).hex() for text in sys.argv[1:]],
    "env": {name.decode(): value.hex() for name, value in os.environb.items() if name[:2] == b"E_"},
    "files": [name.hex() for name in os.listdir(b"d")],
    "index": os.environ["JOB_COMPLETION_INDEX"],
    "own": open("own").read(),
    "cwd": sorted(os.listdir()),
}, open("found.json", "w"))
"""


@pytest.fixture
async def session(pool: Pool, tmp_path: Path) -> AsyncIterator[Session]:
    config = CondorConfig(collector=pool.collector, schedd=pool.schedd, token_file=pool.token_file())
    async with Session(Rig(make=lambda: CondorBatch(config), folder=tmp_path)) as running:
        yield running


def submission(given: Work, options: Options, folder: Path) -> Submission:
    """What a direct site makes of a work."""
    folder.mkdir(mode=0o700)
    translation = translate(given, options)
    written = write(translation, folder)
    needs = dataclasses.asdict(translation.needs)
    return Submission(
        job_id=uuid.uuid4().hex,
        attempt=uuid.uuid4().hex[:12],
        owner="translator",
        name="translator",
        folder=str(folder),
        script=written.script,
        inputs=written.inputs,
        task_inputs=written.task_inputs,
        tasks=given.tasks,
        demand=Demand(**{item.name: needs[item.name] for item in dataclasses.fields(Demand)}),
        grace_seconds=translation.needs.grace_seconds,
        expires=time.time() + 3600,
    )


def ran(fetched: Fetched) -> Ran:
    assert fetched.output, fetched.problem
    out = Path(fetched.out or "").read_bytes()
    return Ran(Path(fetched.output).parent, 0, out, Path(fetched.err or "").read_text(), FrameParser().feed(out))


async def finished(session: Session, given: Work, options: Options) -> list[Ran]:
    folder = session.rig.folder / uuid.uuid4().hex
    [handles] = await session.run(submission(given, options, folder))
    await session.ended(handles)
    return [ran(fetched) for fetched in await session.batch.fetch(handles)]


@pytest.mark.parametrize("contained", [False, True], ids=["host", "apptainer"])
async def test_hostile_strings_through_the_pool(pool: Pool, session: Session, tmp_path: Path, contained: bool) -> None:
    texts, names = [text for text in examples(TEXT, 150) if text], examples(NAME, 60)
    (tmp_path / "content").write_text("c")
    for index in range(2):
        (tmp_path / f"own{index}").write_text(f"task {index}")
    files = [WorkFile("work", "d/" + os.fsdecode(name), str(tmp_path / "content")) for name in names]
    files += [WorkFile("work", "own", str(tmp_path / f"own{index}"), task=index) for index in range(2)]
    made: dict[str, Any] = {
        "image": pool.image(12) if contained else "host",
        "command": ["python3", "-c", LOOK, *[escaped(text) for text in texts]],
        "env": [{"name": f"E_{number}", "value": escaped(text)} for number, text in enumerate(texts)],
    }
    options = Options(policy=Policy(images=("/images/*",))) if contained else Options(runtime="host")
    given = work(pod(made, fetch=["found.json", "d"]), *files, tasks=2, name=texts[0], owner=texts[-1])
    for index, task in enumerate(await finished(session, given, options)):
        assert task.status["phase"] == "Succeeded", (task.status, task.log(stream="stderr"))
        back = task.files
        found = json.loads(back.pop("found.json"))
        assert (found["index"], found["own"]) == (str(index), f"task {index}")
        assert found["args"] == [text.encode().hex() for text in texts]
        assert {name: value for name, value in found["env"].items() if name[2:].isdigit()} == {
            f"E_{number}": text.encode().hex() for number, text in enumerate(texts)
        }
        assert sorted(found["files"]) == sorted(name.hex() for name in names)
        assert {os.fsencode(name) for name in back} == {b"d/" + name for name in names}
        assert found["cwd"] == ["d", "own"]
        assert CANARY not in task.stderr


async def test_frames_and_the_last_output_of_a_running_job(session: Session, tmp_path: Path) -> None:
    script = "import time\nprint('early', flush=True)\ntime.sleep(6)\nprint('late')"
    given = work(pod({"command": ["python3", "-c", script]}))
    [[handle]] = await session.run(submission(given, Options(runtime="host"), tmp_path / "job"))
    parser, offset, seen = FrameParser(), 0, b""
    while b"early" not in seen:
        chunk = await session.batch.read(handle, OUT, offset)
        assert not chunk.end, "only after the end"
        offset = chunk.offset + len(chunk.data)
        seen += b"".join(frame.data for frame in parser.feed(chunk.data) if isinstance(frame, LogFrame))
    await session.ended([handle])
    [fetched] = await session.batch.fetch([handle])
    assert ran(fetched).framed() == ran(fetched).log() == b"early\nlate\n"


async def test_the_time_limit_of_the_script_comes_before_that_of_the_batch(session: Session, tmp_path: Path) -> None:
    given = work(pod({"command": ["sleep", "1000"]}, activeDeadlineSeconds=2, terminationGracePeriodSeconds=1))
    handles: list[Handle]
    [handles] = await session.run(submission(given, Options(runtime="host"), tmp_path / "job"))
    await session.ended(handles)
    [fetched] = await session.batch.fetch(handles)
    assert ran(fetched).status["reason"] == "DeadlineExceeded"
