"""Values are data: nothing that comes from outside can become submit language."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_offload.batch.base import Demand, Submission
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.batch.condor.description import COLUMNS, decode, encode, items, quote, template, travel_name
from jupyter_offload.errors import BadSubmit, ConfigError

PLAIN = Submission("a" * 32, "0123456789ab", "alice", "fit", "/home/alice/jobs/a", "job.sh", ("inputs.tar",))
HOSTILE = st.text(alphabet=st.one_of(st.sampled_from("\n\r\x00\x1f)($\"'\\,;`%{}#=+ "), st.characters()), max_size=40)
SAFE_ITEM = re.compile(r"[^\x00-\x1f\x7f()$]*")


def _ascii_constant(rows: list[list[str]]) -> None:
    for row in rows:
        assert len(row) == len(COLUMNS)
        for place, value in enumerate(row):
            assert SAFE_ITEM.fullmatch(value), (COLUMNS[place], value)
            if place != 0:
                assert value.isascii()


@settings(max_examples=3000)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_hostile_strings_never_leave_their_column(owner: str, name: str, file: str) -> None:
    submission = dataclasses.replace(PLAIN, owner=owner, name=name, inputs=(file,))
    try:
        found = template(submission, CondorConfig())
    except BadSubmit:
        assert (
            re.search("[\\ud800-\\udfff]", file)
            or "/" in file
            or "\0" in file
            or file in ("", ".", "..", "out", "err")
            or len(file) > 200
        )
        return
    rows = items(submission)
    _ascii_constant(rows)
    assert decode(rows[0][4]) == owner
    assert decode(rows[0][5]) == name
    # The description differs from a harmless one by the encoded file name alone.
    harmless = template(dataclasses.replace(PLAIN, inputs=("inputs.tar",)), CondorConfig()).description
    changed = {key for key, value in found.description.items() if harmless[key] != value}
    assert changed <= {"transfer_input_files", "arguments"}
    assert found.description["transfer_input_files"] == f"../job.sh, ../{travel_name(file)}$(o_inputs)"
    assert re.fullmatch(r"[A-Za-z0-9_.+@%~-]+", travel_name(file))
    if travel_name(file) != file:
        assert os.fsdecode(urllib.parse.unquote_to_bytes(travel_name(file)[1:])) == file


@settings(max_examples=3000)
@given(st.text(alphabet=st.one_of(st.sampled_from("\n\r\x00\x1f)($\"'\\,/ "), st.characters()), max_size=30))
def test_a_folder_is_taken_as_it_is_or_refused(tail: str) -> None:
    submission = dataclasses.replace(PLAIN, folder=f"/home/{tail}")
    try:
        template(submission, CondorConfig())
    except BadSubmit as error:
        assert error.hint
        return
    [row] = items(submission)
    assert SAFE_ITEM.fullmatch(row[0])
    assert "," not in row[0]
    assert '"' not in row[0]


@settings(max_examples=3000)
@given(HOSTILE)
def test_site_attributes_are_one_literal(value: str) -> None:
    try:
        line = template(PLAIN, CondorConfig(submit={"+ProjectName": value})).description["MY.ProjectName"]
    except ConfigError as error:
        assert re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\]", value)
        assert error.hint
        return
    assert re.fullmatch(r'"(?:[^"\\\x00-\x1f\x7f$]|\\"|[$][(]DOLLAR[)])*"', line)
    assert line[1:-1].replace('\\"', '"').replace("$(DOLLAR)", "$") == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("executable", "/bin/sh"),
        ("transfer_input_files", "/etc/passwd"),
        ("include command", "touch x"),
        ("getenv", "true"),
        ("environment", "A=b"),
        ("+OffloadJob", "x"),
        ("MY.Owner", "bob"),
        ("+StreamOut", False),
        ("+bad name", "x"),
        ("+a\ninclude command", "x"),
        ("accounting_group", "a\nb"),
        ("accounting_group", "$ENV(HOME)"),
        ("priority", "1"),
        ("priority", True),
        ("nice_user", "true"),
        ("requirements", "true) || (true"),
        ("requirements", 'a == "b'),
        ("requirements", "true\nqueue 5"),
        ("requirements", ""),
    ],
)
def test_what_a_site_may_not_add(key: str, value: str | bool) -> None:
    with pytest.raises(ConfigError) as caught:
        template(PLAIN, CondorConfig(submit={key: value}))
    assert key.split("\n")[0] in str(caught.value)


def test_what_a_site_may_add() -> None:
    config = CondorConfig(
        submit={
            "accounting_group": "group_cms.prod",
            "accounting_group_user": "alice",
            "priority": -5,
            "nice_user": True,
            "+ProjectName": "higgs $(HOME)",
            "MY.Walltime": 3600,
            "requirements": '(Arch == "X86_64")',
            "rank": "KFlops",
        }
    )
    lines = template(PLAIN, config).description
    assert lines["accounting_group"] == "group_cms.prod"
    assert lines["priority"] == "-5"
    assert lines["nice_user"] == "true"
    assert lines["MY.ProjectName"] == '"higgs $(DOLLAR)(HOME)"'
    assert lines["MY.Walltime"] == "3600"
    assert lines["requirements"] == '((Arch == "X86_64"))'
    no_rerun = template(dataclasses.replace(PLAIN, rerun=False), config).description["requirements"]
    assert no_rerun.endswith('&& ((Arch == "X86_64"))')
    assert "NumShadowStarts" in no_rerun


def test_a_description_asks_exactly_for_the_demand() -> None:
    demand = Demand(3, (1 << 30) + 1, 1025, 2, "A100.x", 61)
    lines = template(dataclasses.replace(PLAIN, demand=demand), CondorConfig(type="condor-ce")).description
    assert lines["request_cpus"] == "3"
    assert lines["request_memory"] == "1025"
    assert lines["request_disk"] == "2"
    assert lines["request_gpus"] == "2"
    assert lines["require_gpus"] == 'regexp("(^|[^A-Za-z0-9])A100[.]x([^A-Za-z0-9]|$(DOLLAR))", DeviceName, "i")'
    assert lines["allowed_execute_duration"] == "61"
    assert (lines["MY.xcount"], lines["MY.maxMemory"], lines["MY.maxWallTime"]) == ("3", "1025", "2")
    assert lines["MY.BatchRuntime"] == "61"
    assert "transfer_output_files" not in lines
    assert "getenv" not in lines


def test_a_plain_description_neither_spools_nor_runs_at_once() -> None:
    assert "hold" not in template(PLAIN, CondorConfig()).description
    shared = template(PLAIN, CondorConfig(shared_filesystem=True)).description
    assert shared["hold"] == "true"
    assert "MY.JobStatusOnRelease" not in shared


def test_equal_submissions_share_a_template_and_all_rows_have_all_columns() -> None:
    other = dataclasses.replace(
        PLAIN, job_id="b" * 32, attempt="9", owner="bob", name="x", folder="/home/b", expires=5.5
    )
    assert template(PLAIN, CondorConfig()) == template(other, CondorConfig())
    rows = items(dataclasses.replace(other, tasks=2, task_inputs=(("a.tar",), ())), skew=300.0)
    assert rows == [
        ["/home/b/task-0", "b" * 32, "9", "0", "bob", "x", ", ../a.tar", "305"],
        ["/home/b/task-1", "b" * 32, "9", "1", "bob", "x", "", "305"],
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"script": "a b.sh"},
        {"script": "../x"},
        {"inputs": ("../../etc/passwd",)},
        {"inputs": ("out",)},
        {"job_id": 'x" || true'},
        {"attempt": "a\nb"},
        {"folder": "relative"},
        {"tasks": 0},
        {"tasks": 2, "task_inputs": (("a",),)},
        {"owner": "x" * 301},
        {"demand": Demand(gpus=1, gpu_model='A100" || true')},
    ],
)
def test_what_is_not_a_submission_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadSubmit):
        template(dataclasses.replace(PLAIN, **change), CondorConfig())


@given(HOSTILE)
def test_encoding_is_reversible_and_inert(text: str) -> None:
    assert decode(encode(text)) == text
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]*", encode(text))


@given(st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_are_literals(value: float) -> None:
    assert "\n" not in quote(value)


_PROBE = """
import json, sys
import htcondor2
from jupyter_offload.batch.condor.description import template
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.batch.base import Submission
value = json.load(sys.stdin)
one = Submission("a" * 32, "b", value, value, "/home/alice", "job.sh", (value.replace("/", ""),))
lines = template(one, CondorConfig(submit={"+ProjectName": value.replace("\\n", " ").replace("\\r", " ")})).description
text = "".join(f"{key} = {line}\\n" for key, line in lines.items()) + "queue\\n"
htcondor2.Submit(text)
htcondor2.Submit(lines)
"""


@pytest.mark.parametrize(
    "value",
    ["x\ninclude command : touch pwned", "$ENV(HOME)\rinclude command : touch pwned", '")\nqueue 3\n#', "$(o_dir)"],
)
def test_the_real_parser_runs_nothing(tmp_path: Path, value: str) -> None:
    pytest.importorskip("htcondor2")
    import json
    import os

    done = subprocess.run(
        [sys.executable, "-c", _PROBE],
        input=json.dumps(value),
        text=True,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "CONDOR_CONFIG": "/dev/null"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
