"""From a submission to its result through the real job script, host runtime, without a batch system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jupyter_offload.errors import JobFailed
from jupyter_offload.job import Kind, Request, new_id
from jupyter_offload.payload.bundle import Bundle, BundleWriter
from jupyter_offload.payload.codecs import encode
from jupyter_offload.payload.results import Result, read_result
from jupyter_offload.payload.work import build_work, split_bundle
from jupyter_offload.translator import Options, translate, write
from jupyter_offload.translator.frames import FrameParser, LogFrame

KEY = "c3" * 32


def script(
    folder: Path,
    asked: Request,
    main: Mapping[str, Any],
    parts: Mapping[tuple[str, str], bytes] | None = None,
    **values: object,
) -> list[str]:
    """Make the job's folder; return the command that runs it."""
    writer = BundleWriter(folder / "submission", request=asked, key=KEY, main=main)
    for name, value in values.items():
        encoded = encode(value, name=name)
        writer.add("value", name, encoded.codec, encoded.data, encoded.meta)
    for (role, name), data in (parts or {}).items():
        writer.add(role, name, "raw", data)
    split = split_bundle(Bundle.open(writer.close()), folder)
    work = build_work(split.request, owner="ann", folder=folder, image=None, secrets=split.secrets, files=split.files)
    made = write(translate(work, Options(runtime="host")), folder)
    assert b"s3cret" not in (folder / made.script).read_bytes()
    node = folder / "node"
    node.mkdir()
    for name in (made.script, *made.inputs):
        (folder / name).rename(node / name)
    return ["bash", made.script, "0"]


def environ() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def unpack(folder: Path) -> Result:
    with tarfile.open(folder / "node/output.tar") as archive:
        archive.extractall(folder / "back", filter="data")
    return read_result(folder / "back/files/.offload/result", KEY)


@pytest.mark.parametrize("hostile", ["plain", "$(touch hacked) `id` $$ $(OFFLOAD_WORKDIR) '\"\\\n é"])
def test_everything_arrives_and_comes_back(tmp_path: Path, hostile: str) -> None:
    source = """
import os, sys
print("printed")
print("to stderr", file=sys.stderr)
secret = open(os.environ["OFFLOAD_SECRET_TOKEN"]).read()
mode = oct(os.stat(os.environ["OFFLOAD_SECRET_TOKEN"]).st_mode & 0o777)
os.makedirs("plots")
open("plots/a b.png", "w").write("figure")
seen = (os.environ["B"], open("data/in.txt").read(), text)
"""
    asked = Request(
        id=new_id(),
        name="svm",
        kind=Kind.CELL,
        env={"B": hostile},
        outputs=("secret", "mode", "seen"),
        fetch=("plots/*.png",),
    )
    parts = {("file", "data/in.txt"): hostile.encode(), ("secret", "TOKEN"): b"s3cret"}
    argv = script(tmp_path, asked, {"source": source, "filename": "<offload svm>"}, parts, text=hostile)
    done = subprocess.run(argv, cwd=tmp_path / "node", env=environ(), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    result = unpack(tmp_path)
    assert result.error is None
    assert result.values["seen"] == (hostile, hostile, hostile)
    assert (result.values["secret"], result.values["mode"]) in [("s3cret", "0o600"), ("s3cret", "0o400")]
    assert (tmp_path / "back/files/plots/a b.png").read_text() == "figure"
    frames = FrameParser().feed(done.stdout)
    printed = b"".join(frame.data for frame in frames if isinstance(frame, LogFrame) and frame.stream == "stdout")
    assert printed.startswith(b"printed\n")
    assert b"s3cret" not in done.stdout
    assert not list(tmp_path.rglob("hacked"))


def test_a_failing_cell_fails_the_script_with_its_traceback(tmp_path: Path) -> None:
    argv = script(
        tmp_path, Request(id=new_id(), name="svm", kind=Kind.CELL), {"source": "1 / 0", "filename": "<offload svm>"}
    )
    done = subprocess.run(argv, cwd=tmp_path / "node", env=environ(), capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert unpack(tmp_path).error.ename == "ZeroDivisionError"


def test_a_cancelled_script_saves_what_there_is(tmp_path: Path) -> None:
    source = "import time\nprint('started')\nopen('running', 'w').close()\ntime.sleep(60)"
    argv = script(
        tmp_path, Request(id=new_id(), name="svm", kind=Kind.CELL), {"source": source, "filename": "<offload svm>"}
    )
    process = subprocess.Popen(
        argv, cwd=tmp_path / "node", env=environ(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while not list((tmp_path / "node").rglob("running")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) != 0
    result = unpack(tmp_path)
    assert isinstance(result.error, JobFailed)
    assert result.error.reason == "Terminated"
    assert result.outputs[0]["text"] == "started\n"
