"""Bad input and faults as a user meets them in a notebook: the message names the thing and the way out, and the kernel goes on.

On a real kernel and a real service with the local site, limited to 2 cores, 2 GiB and 10 minutes, and 20 MB of inputs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from parts.notebook import Home, Notebook, notebook

SETUP = """
import os, threading
import numpy as np
generator = (i for i in range(3))
lock = threading.Lock()
file = open('real.txt')
big = np.zeros(4_000_000)
"""
CASES = [
    ("%%offload --site nowhere\n1", "UnknownName", ["nowhere", "The sites are: local"]),
    ("%%offload --cpu 2\n1", "UnknownName", ["--cpu", "Did you mean --cpus?"]),
    ("%%offload -i nosuch\n1", "UnknownName", ["-i nosuch", "leave -i out"]),
    ("%%offload -o nosuch\n1", "ResultUnavailable", ["did not assign nosuch", "leave it out of -o"]),
    ("%offload show nosuch", "UnknownName", ["no job 'nosuch'", "lists the jobs"]),
    ("%offload frobnicate", "UnknownName", ["frobnicate", "cancel"]),
    ("%%offload --image nope\n1", "UnknownName", ["nope", "docker://"]),
    ("%%offload --gpus A100:1\n1", "CapabilityMissing", ["GPU"]),
    ("%%offload --wait\nlist(generator)", "CannotEncode", ["generator", "list("]),
    ("%%offload --wait\nlock", "CannotEncode", ["lock", "in the cell"]),
    ("%%offload --wait\nfile.read()", "CannotEncode", ["file", "--file"]),
    ("%%offload --wait\nbig.sum()", "LimitExceeded", ["MiB"]),
    ("%%offload --wait -o z\nz = (i for i in [1])", "CannotEncode", ["z is a generator"]),
    ("%%offload --memory 1Gig\n1", "BadQuantity", ["1Gig", "1.5GiB"]),
    ("%%offload --time 10minutes\n1", "BadQuantity", ["10minutes", "10m"]),
    ("%%offload --cpus 64\n1", "LimitExceeded", ["64 cores", "2 cores", "--cpus"]),
    ("%%offload --file missing.txt\n1", "FileRefused", ["missing.txt does not exist"]),
    ("%%offload --file link\n1", "FileRefused", ["link", "Name what it points to"]),
    ("%%offload --file ../x\n1", "FileRefused", ["../x is outside"]),
    ("%%offload --name '$(id)'\n1", "UsageError", ["'$(id)' is not a job name", "--name svm-fit"]),
    ('%%offload --name "a\'b"\n1', "UsageError", ["is not a job name"]),
    ('%%offload --name "é"\n1', "UsageError", ["'é' is not a job name"]),
    ("%offload run --wait -- nosuchcommand a", "JobFailed", ["command was not found", "Check the spelling"]),
    ("%offload run --wait -- sh -c 'exit 3'", "JobFailed", ["exit code 3", "log"]),
    ("%%offload --wait\nimport os, signal\nos.kill(os.getpid(), 9)", "JobFailed", ["SIGKILL", "--memory"]),
    ("%%offload --wait --time 2s\nimport time\ntime.sleep(60)", "TimeExceeded", ["requested time", "--time"]),
    (
        "%%offload --wait --memory 150MiB\nimport time\nb = bytearray(400_000_000)\nb[::4096] = b'x' * len(b[::4096])\ntime.sleep(30)",
        "MemoryExceeded",
        ["150.0 MiB", "--memory"],
    ),
    ("%%offload --wait\nimport nosuchmodule", "MissingRemotePackage", ["nosuchmodule", "--pip"]),
]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    home = Home(tmp_path_factory.mktemp("faults"))
    config = home.root / "sites.yaml"
    limits = {"cpus": 2, "memory": "2GiB", "time": "10m", "input": 20_000_000}
    config.write_text(json.dumps({"sites": {"local": {"batch": {"type": "local"}, "limits": limits}}}))
    home.environ["OFFLOAD_CONFIG"] = str(config)
    (home.folder / "real.txt").write_text("x")
    (home.folder / "link").symlink_to("/etc/hostname")
    try:
        with notebook(home) as found:
            assert found.run(SETUP).error is None
            yield found
    finally:
        home.end_service()


@pytest.mark.parametrize(("source", "kind", "words"), CASES, ids=[case[0].replace("\n", " ")[:60] for case in CASES])
def test_the_message_names_the_thing_and_the_way_out(book: Notebook, source: str, kind: str, words: list[str]) -> None:
    cell = book.run(source)
    assert cell.error is not None
    shown = re.sub(
        r"\x1b\[[0-9;]*m", "", "\n".join([cell.error["ename"], cell.error["evalue"], *cell.error["traceback"]])
    )
    assert kind in shown
    assert [word for word in words if word not in shown] == [], shown
    assert "→" in shown
    assert "jupyter_offload/" not in shown, "a user's error shows none of our own frames"


def test_nothing_of_it_keeps_the_next_cell_from_running(book: Notebook) -> None:
    cell = book.run("%%offload -o fine\nfine = 42")
    assert cell.error is None
    assert book.run("fine").result == "42"
