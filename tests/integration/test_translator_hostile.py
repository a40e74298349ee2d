"""Whatever strings a Pod holds: what arrives is byte for byte what was sent, and nothing else ran.

Hypothesis makes the strings (always the same ones: ``derandomize``); then they run many to a job, so that thousands take seconds.
A failure names the string.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from parts.hostile import CANARY, NAME, TEXT, escaped, examples
from parts.job_script import end_all, pod, run, work

from jupyter_offload.pod import WorkFile

T = TypeVar("T")

LOOK = """
import json, os, sys
found = {
    "args": [os.fsencode(text).hex() for text in sys.argv[1:]],
    "env": {name.decode(): value.hex() for name, value in os.environb.items() if name[:2] == b"E_"},
    "files": {name.hex(): open(os.path.join(b"d", name), "rb").read().hex() for name in os.listdir(b"d")} if os.path.isdir("d") else {},
    "cwd": sorted(os.listdir()),
}
with open("found.json", "w") as file:
    json.dump(found, file)
"""


def in_batches(values: list[T], size: int, check: Callable[[list[T], int], None]) -> None:
    for place in range(0, len(values), size):
        check(values[place : place + size], place)


def look(
    folder: Path,
    *files: WorkFile,
    args: list[str] | None = None,
    env: dict[str, str] | None = None,
    fetch: list[str] | None = None,
    **fields: Any,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Run one job that looks at what it got; what it found, and the files that came back."""
    made = {
        "command": [sys.executable, "-c", LOOK, *[escaped(text) for text in args or []]],
        "env": [{"name": name, "value": escaped(value)} for name, value in (env or {}).items()],
    }
    manifest = pod(made, fetch=["found.json", *(fetch or [])])
    manifest["metadata"]["annotations"].update(fields.pop("annotations", {}))
    ran = run(work(manifest, *files, **fields), folder)
    assert ran.code == 0, ran.stderr
    assert ran.stderr == ""
    back = ran.files
    found = json.loads(back.pop("found.json"))
    assert set(found["cwd"]) <= {"d"}, "something else ran"
    assert sorted(path.name for path in folder.iterdir()) == ["inputs.tar", "job.sh", "output.tar"], (
        "something else ran"
    )
    return found, back


@pytest.fixture(autouse=True)
def nothing_else_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    end_all()
    assert not [path for path in tmp_path.rglob("*") if path.name == CANARY]


def test_arguments(tmp_path: Path) -> None:
    def check(texts: list[str], place: int) -> None:
        found, _ = look(tmp_path / f"job{place}", args=texts)
        for sent, arrived in zip(texts, found["args"], strict=True):
            assert arrived == sent.encode().hex(), sent

    in_batches(examples(TEXT, 4000), 1000, check)


def test_environment(tmp_path: Path) -> None:
    def check(texts: list[str], place: int) -> None:
        sent = {f"E_{number}": text for number, text in enumerate(texts)}
        found, _ = look(tmp_path / f"job{place}", env=sent)
        for name, text in sent.items():
            assert found["env"][name] == text.encode().hex(), text

    in_batches(examples(TEXT, 4000), 1000, check)


def test_file_names_there_and_back(tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(b"c")

    def check(names: list[bytes], place: int) -> None:
        files = [WorkFile("work", "d/" + os.fsdecode(name), str(tmp_path / "content")) for name in names]
        found, back = look(tmp_path / f"job{place}", *files, fetch=["d"])
        assert set(found["files"]) == {name.hex() for name in names}
        assert {os.fsencode(name) for name in back} == {b"d/" + name for name in names}
        _, back = look(tmp_path / f"wild{place}", *files, fetch=["d/*"])
        assert {os.fsencode(name) for name in back} == {b"d/" + name for name in names if not name.startswith(b".")}

    in_batches(examples(NAME, 2000), 500, check)


def test_file_names_that_are_fetched_one_by_one(tmp_path: Path) -> None:
    """A name without wildcards is that name; in one with wildcards only these are special."""
    (tmp_path / "content").write_bytes(b"c")
    names = [
        name
        for name in examples(TEXT, 600)
        if name and "/" not in name and "\0" not in name and name not in (".", "..") and len(name.encode()) < 200
    ]

    def check(texts: list[str], place: int) -> None:
        files = [WorkFile("work", "d/" + name, str(tmp_path / "content")) for name in texts]
        plain = [name for name in texts if not set(name) & set("*?[")]
        _, back = look(tmp_path / f"job{place}", *files, fetch=["d/" + name for name in plain])
        assert set(back) == {"d/" + name for name in plain}
        _, back = look(
            tmp_path / f"wild{place}", *files, fetch=["d/" + name + "*" for name in plain if not name.startswith(".")]
        )
        assert set(back) >= {"d/" + name for name in plain if not name.startswith(".")}

    in_batches(names, 200, check)


def test_names_annotations_and_secrets(tmp_path: Path) -> None:
    for number, text in enumerate(examples(TEXT, 60)):
        found, _ = look(
            tmp_path / f"job{number}", name=text, owner=text, annotations={"example.org/x": text, text or "y": text}
        )
        assert found["args"] == []


@pytest.mark.parametrize(
    "name",
    ["UID", "EUID", "PPID", "SHLVL", "_", "IFS", "PWD", "OLDPWD", "RANDOM", "SECONDS", "LINENO", "BASH_ENV", "ENV", "HISTFILE", "LC_ALL", "LANG", "SHELLOPTS", "BASHOPTS", "POSIXLY_CORRECT",
     "OPTIND", "TMPDIR", "GLOBIGNORE", "o_root", "o_index", "o_workdir", "FUNCNAME", "GROUPS", "BASH_XTRACEFD", "PS4", "LD_PRELOAD_X", "TAR_OPTIONS", "CDPATH", "EXECIGNORE", "TZ", "FUNCNEST"],
)  # fmt: skip
def test_variables_that_mean_something_to_bash(tmp_path: Path, name: str) -> None:
    value = "x$(touch o_canary)'\"\n é"
    script = f"import os; open('v', 'wb').write(os.environb[{name.encode()!r}])"
    ran = run(
        work(
            pod(
                {"command": [sys.executable, "-c", script], "env": [{"name": name, "value": escaped(value)}]},
                fetch=["v"],
            )
        ),
        tmp_path / "job",
    )
    assert ran.files == {"v": value.encode()}, ran.log(stream="stderr")
    assert ran.log(stream="stderr") == b""


def test_the_largest_argument_and_variable(tmp_path: Path) -> None:
    long = "é" * 65_000
    found, _ = look(tmp_path / "job", args=[long], env={"E_L": long})
    assert (found["args"], found["env"]["E_L"]) == ([long.encode().hex()], long.encode().hex())
