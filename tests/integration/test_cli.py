"""The command line against a real service on the local site."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from parts.notebook import Home


@dataclass
class Said:
    code: int
    out: str
    err: str

    def json(self):
        return json.loads(self.out)


class CommandLine:
    def __init__(self, home: Home) -> None:
        self.home = home

    def __call__(self, *words: str) -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "jupyter_offload.cli", *words],
            cwd=self.home.folder,
            env={**os.environ, **self.home.environ},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def say(tmp_path_factory) -> Iterator[CommandLine]:
    home = Home(tmp_path_factory.mktemp("cli"))
    try:
        yield CommandLine(home)
    finally:
        home.end_service()


@pytest.fixture(scope="module")
def job(say) -> dict:
    said = say(
        "run",
        "--name",
        "hello",
        "--wait",
        "--json",
        "--env",
        "B=x y $HOME {z}",
        "--",
        "bash",
        "-c",
        'echo "$B"; echo oops >&2; exit 3',
    )
    assert said.code == 1
    return said.json()


def test_a_command_runs_and_its_exit_code_is_told(job):
    assert (job["state"], job["reason"], job["tasks"][0]["exit_code"]) == ("failed", "exit code 3", 3)


def test_its_log_is_printed_byte_for_byte_on_the_right_streams(say, job):
    said = say("logs", "hello")
    assert (said.code, said.out, said.err) == (0, "x y $HOME {z}\n", "oops\n")
    assert say("logs", job["id"][:6], "--json").json()["stderr"] == "oops\n"


def test_every_word_has_a_form_for_people_and_one_for_programs(say, job):
    shown = f"hello-{job['id'][:4]}"
    assert shown in say("list").out
    assert [item["id"] for item in say("list", "--json").json()["jobs"]] == [job["id"]]
    details = say("show", shown)
    assert "✗ failed" in details.out
    assert job["id"] in details.out
    assert say("show", shown, "--json").json()["id"] == job["id"]
    assert "local (default)" in say("sites").out
    assert say("sites", "--json").json()[0]["name"] == "local"
    assert "would remove 0 jobs" in say("clean", "--older-than", "30d", "--dry-run").out
    waited = say("wait", shown, "--json")
    assert (waited.code, waited.json()[0]["state"]) == (1, "failed")


def test_the_doctor_checks_the_chain_and_a_round_trip(say):
    said = say("doctor", "--json")
    assert said.code == 0
    assert {"configuration": True, "round trip": True}.items() <= {
        check["name"]: check["ok"] for check in said.json()
    }.items()
    assert "All links hold." in say("doctor").out


def test_a_notebook_comes_back_executed(say):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("6 * 7")])
    nbformat.write(book, say.home.folder / "answer.ipynb")
    said = say("run", "answer.ipynb", "--wait")
    assert said.code == 0, said.err
    executed = nbformat.read(say.home.folder / "answer.offload.ipynb", as_version=4)
    assert executed.cells[0].outputs[0].data["text/plain"] == "42"
    assert say("result", "answer", "--json").json()["error"] is None


def test_cancel_and_delete(say):
    started = say("run", "--name", "sleeper", "--json", "--", "sleep", "600").json()
    assert say("cancel", "sleeper").code == 0
    assert say("wait", started["id"], "--timeout", "60s", "--json").json()[0]["state"] == "cancelled"
    assert say("delete", "sleeper").code == 0
    gone = say("show", "sleeper")
    assert (gone.code, "no job 'sleeper'" in gone.err) == (2, True)


def test_a_command_needs_no_option_before_it(say):
    assert say("run", "--wait", "--", "echo", "hi").out.startswith("hi\n")
    said = say("run", "--json", "--wait", "--", "sh", "-c", "exit 4")
    assert (said.code, said.json()["tasks"][0]["exit_code"]) == (1, 4)
    assert "--image" in say("run", "--help").out


def test_a_dry_run_prints_the_script_and_sends_nothing(say):
    said = say("run", "--name", "dry", "--dry-run", "--", "true")
    assert said.code == 0
    assert said.out.startswith("#!")
    assert say("show", "dry").code == 2


def test_a_wait_gives_up(say):
    started = say("run", "--json", "--name", "long", "--", "sleep", "600").json()
    said = say("wait", started["id"], "--timeout", "1s")
    assert (said.code, "have not ended" in said.err) == (1, True)
    say("cancel", started["id"])


@pytest.mark.parametrize(
    ("words", "code", "words_said"),
    [
        (["lst"], 2, "Did you mean 'list'?"),
        (["show"], 2, "JOB"),
        (["show", "nobody"], 2, "no job 'nobody'"),
        (["run"], 2, "say either a notebook or a command"),
        (["run", "--memroy", "1GiB", "--", "true"], 2, "--memory"),
        (["run", "--memory", "1GiX", "--", "true"], 2, "is not a quantity"),
        (["run", "--site", "nowhere", "--", "true"], 2, "nowhere"),
        (["run", "--image", "science", "--", "true"], 2, "science"),
        (["clean", "--older-than", "soon"], 2, "is not a duration"),
        (["translate", "absent.yaml"], 2, "absent.yaml"),
    ],
)
def test_a_wrong_request_names_the_thing_and_the_way_out(say, words, code, words_said):
    said = say(*words)
    assert said.code == code
    assert words_said in said.err
    assert "→" in said.err


def test_translate_needs_no_service(tmp_path):
    pod = tmp_path / "pod.yaml"
    pod.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - {name: main, image: 'docker://x', command: [echo, \"it's\"]}\n"
    )
    environ = {**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path / "run"), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "jupyter_offload.cli", "translate"]
    script = subprocess.run([*command, pod], env=environ, capture_output=True, text=True, check=True).stdout
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert not (tmp_path / "run").exists()
    pod.write_text(pod.read_text().replace("command", "comand"))
    refused = subprocess.run([*command, pod], env=environ, capture_output=True, text=True, check=False)
    assert (refused.returncode, "spec.containers[0].comand" in refused.stderr) == (2, True)


def test_jupyter_finds_it():
    program = Path(sys.executable).with_name("jupyter-offload")
    assert subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip() == "0.1.0"
