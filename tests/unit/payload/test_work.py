from __future__ import annotations

import base64
import dataclasses
import json
import os
import random
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_offload.errors import BadQuantity, FileRefused, UsageError
from jupyter_offload.job import Kind, Request, Resources
from jupyter_offload.payload import runner
from jupyter_offload.payload.bundle import Bundle, BundleWriter
from jupyter_offload.payload.codecs import encode
from jupyter_offload.payload.results import read_result
from jupyter_offload.payload.work import build_work, check_path, check_paths, split_bundle
from jupyter_offload.pod import Work

KEY = "5a" * 32
HOSTILE = "aé漢😀 \t\n\r'\"`$(){}[]<>|&;\\*?!#~%^=:,./-_\x01\x1b\x7f\u2028\u202e\ufeff"
hostile = st.text(st.sampled_from(HOSTILE) | st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def request(kind: Kind = Kind.CELL, **options: Any) -> Request:
    return Request(id="0123456789abcdef" * 2, name="svm-fit", kind=kind, **options)


def work(asked: Request, folder: Path, **options: Any) -> Work:
    return build_work(asked, **{"owner": "ann@example.org", "folder": folder, "image": None, **options})


def container(made: Work) -> dict[str, Any]:
    [found] = made.pod["spec"]["containers"]
    return dict(found)


def expand(text: str, known: Mapping[str, str]) -> str:
    """Kubernetes' own rule: ``$$`` is a dollar, ``$(NAME)`` of a known name is its value, anything else stays."""
    return re.sub(
        r"\$(\$|\(([^)]*)\))",
        lambda found: "$" if found[1] == "$" else known.get(found[2], found[0]),
        text,
        flags=re.DOTALL,
    )


def environment(made: Work) -> dict[str, str]:
    values: dict[str, str] = {}
    for entry in container(made)["env"]:
        values[entry["name"]] = expand(entry["value"], values)
    return values


def test_the_pod_of_a_cell(tmp_path: Path) -> None:
    asked = request(
        resources=Resources("2", "1GiB", "500MB", 4, "A100", 600), env={"B": "x y"}, fetch=("plots/*.png",), rerun=False
    )
    made = work(asked, tmp_path, image="docker://science:1", cache="/cache", expires=5.0)
    spec = made.pod["spec"]
    assert spec["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] == 600
    assert made.pod["metadata"]["labels"] == {
        "jupyter-offload/job": asked.id,
        "jupyter-offload/name": "svm-fit",
        "jupyter-offload/owner": "ann-example.org",
    }
    annotations = made.pod["metadata"]["annotations"]
    assert json.loads(annotations["jupyter-offload/fetch"]) == [".offload/result", "plots/*.png"]
    assert annotations["jupyter-offload/gpu-model"] == "A100"
    assert annotations["jupyter-offload/rerun"] == "false"
    main = container(made)
    assert (main["image"], main["workingDir"]) == ("docker://science:1", "/work")
    assert main["command"] == ["python3", ".offload/runner.py"]
    wanted = {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "500M", "nvidia.com/gpu": "4"}
    assert main["resources"] == {"requests": wanted, "limits": wanted}
    assert environment(made) == {
        "OFFLOAD_WORKDIR": "/work",
        "B": "x y",
        "OFFLOAD_JOB_ID": asked.id,
        "OFFLOAD_IMAGE": "docker://science:1",
        "OFFLOAD_CACHE": "/cache",
    }
    assert main["env"][0]["name"] == "OFFLOAD_WORKDIR"
    assert [file.path for file in made.files] == [".offload/runner.py", ".offload/bundle"]
    assert Path(made.files[0].source).read_bytes() == Path(runner.__file__).read_bytes()
    assert (made.expires, made.tasks, made.secrets) == (5.0, 1, ())
    assert Work.from_json(json.loads(json.dumps(made.to_json()))) == dataclasses.replace(
        made, pod=json.loads(json.dumps(made.pod))
    )


def test_the_pod_of_a_command(tmp_path: Path) -> None:
    made = work(request(Kind.COMMAND, command=("sh", "-c", "echo $(date) $HOME $$", ""), fetch=("out",)), tmp_path)
    assert container(made)["image"] == "host"
    assert [expand(word, environment(made)) for word in container(made)["command"]] == [
        "sh",
        "-c",
        "echo $(date) $HOME $$",
        "",
    ]
    assert json.loads(made.pod["metadata"]["annotations"]["jupyter-offload/fetch"]) == ["out"]
    assert made.files == ()
    assert "resources" not in json.dumps(container(made)["resources"])


def test_defaults_fill_in_what_the_request_leaves_open(tmp_path: Path) -> None:
    defaults = Resources("1", "2Gi", None, 0, None, 3600)
    made = work(request(resources=Resources(cpus="500m")), tmp_path, defaults=defaults)
    assert container(made)["resources"]["limits"] == {"cpu": "500m", "memory": "2Gi"}
    assert made.pod["spec"]["activeDeadlineSeconds"] == 3600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env": {"OFFLOAD_X": "1"}}, "OFFLOAD_X is kept"),
        ({"env": {"A B": "1"}}, "'A B' is not the name"),
        ({"env": {"": "1"}}, "'' is not the name"),
        ({"env": {"A=B": "1"}}, "'A=B' is not the name"),
        ({"env": {"A\n": "1"}}, "is not the name"),
        ({"env": {"É": "1"}}, "is not the name"),
        ({"env": {"A": "nul\0"}}, "env A: .* no process can be given"),
        ({"env": {"A": "\ud800"}}, "env A: .* no process can be given"),
        ({"kind": Kind.COMMAND}, "no command"),
        ({"kind": Kind.COMMAND, "command": ("",)}, "no command"),
        ({"kind": Kind.COMMAND, "command": ("a", "b\0")}, r"command\[1\]"),
        ({"fetch": ("../secret",)}, "'../secret' is not a plain relative path"),
        ({"fetch": ("/etc/passwd",)}, "/etc/passwd"),
        ({"pip": ("-r requirements.txt",)}, "not a requirement"),
        ({"pip": ("",)}, "not a requirement"),
        ({"pip": ("a\nb",)}, "not a requirement"),
    ],
)
def test_bad_requests_name_the_field(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        work(request(**options), tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize(
    "resources", [Resources(cpus="two"), Resources(memory="1 GB of it"), Resources(disk="-1Gi"), Resources(cpus="0")]
)
def test_bad_quantities(tmp_path: Path, resources: Resources) -> None:
    with pytest.raises(BadQuantity):
        work(request(resources=resources), tmp_path)


@settings(max_examples=300)
@given(
    st.lists(hostile),
    st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True).filter(lambda n: not n.startswith("OFFLOAD_")), hostile
    ),
)
def test_arguments_and_environment_mean_what_they_say(words: list[str], env: dict[str, str]) -> None:
    made = work(request(Kind.COMMAND, command=("x", *words), env=env), Path("/nowhere"))
    known = environment(made)
    assert [expand(word, known) for word in container(made)["command"][1:]] == words
    assert {name: known[name] for name in env} == env


@given(hostile)
def test_labels_are_valid_whatever_the_owner(owner: str) -> None:
    label = work(request(), Path("/nowhere"), owner=owner).pod["metadata"]["labels"]["jupyter-offload/owner"]
    assert re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", label)
    assert len(label) <= 63


@given(hostile)
def test_a_checked_path_stays_below_its_folder(path: str) -> None:
    try:
        check_path(path)
    except FileRefused as error:
        assert error.hint
        return
    below = os.path.normpath(f"/base/{path}")
    assert below.startswith("/base/")
    assert below == f"/base/{path}"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "a/../b",
        "..",
        ".",
        "./a",
        "a/",
        "a//b",
        "a\0b",
        ".offload/result",
        "a/" + "x" * 256,
        "\ud800",
        "x/" * 3000 + "y",
    ],
)
def test_bad_paths(path: str) -> None:
    with pytest.raises(FileRefused):
        check_path(path)


def test_paths_of_one_job_fit_together() -> None:
    check_paths(["a/b", "a/c", "d", ".offloaded"])
    for paths in (["a", "a"], ["a", "a/b"], ["a/b/c", "a/b"]):
        with pytest.raises(FileRefused):
            check_paths(paths)


def submission(folder: Path, asked: Request, main: Mapping[str, Any], **values: object) -> BundleWriter:
    writer = BundleWriter(folder / "submission", request=asked, key=KEY, main=main)
    for name, value in values.items():
        encoded = encode(value, name=name)
        writer.add("value", name, encoded.codec, encoded.data, encoded.meta)
    return writer


def test_a_submission_is_taken_apart(tmp_path: Path) -> None:
    writer = submission(tmp_path, request(inputs=("x",)), {"source": "x"}, x=[1])
    writer.add("file", "data/run.sh", "raw", b"#!/bin/sh\n", {"mode": 0o755})
    writer.add("file", "plain", "raw", b"text")
    writer.add("secret", "TOKEN", "raw", b"s3cret")
    writer.add("module", "helpers.py", "raw", b"y = 1")
    job = tmp_path / "job"
    job.mkdir(mode=0o700)
    split = split_bundle(Bundle.open(writer.close()), job, max_result_bytes=77)
    assert split.key == KEY
    assert [(file.path, oct(file.mode), Path(file.source).read_bytes()) for file in split.files] == [
        ("data/run.sh", "0o700", b"#!/bin/sh\n"),
        ("plain", "0o600", b"text"),
    ]
    assert Path(split.secrets["TOKEN"]).read_bytes() == b"s3cret"
    inner = Bundle.open(job / "bundle")
    assert [(part.role, part.name) for part in inner.parts] == [("value", "x"), ("module", "helpers.py")]
    assert (inner.key, inner.main, inner.header["limits"]) == (KEY, {"source": "x"}, {"result_bytes": 77})
    assert b"s3cret" not in (job / "bundle").read_bytes()
    for path in [job / "bundle", *(job / "files").iterdir(), *(job / "secrets").iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = work(split.request, job, secrets=split.secrets, files=split.files)
    [secret] = made.secrets
    assert {key: base64.b64decode(value) for key, value in secret["data"].items()} == {"TOKEN": b"s3cret"}
    assert made.pod["spec"]["volumes"][1]["secret"] == {"secretName": secret["metadata"]["name"], "defaultMode": 0o600}
    assert container(made)["volumeMounts"][1]["mountPath"] == "/work/.offload/secrets"
    assert environment(made)["OFFLOAD_SECRET_TOKEN"] == "/work/.offload/secrets/TOKEN"
    assert "s3cret" not in json.dumps(made.pod)
    assert base64.b64encode(b"s3cret").decode() not in json.dumps(made.pod)
    again = split_bundle(Bundle.open(tmp_path / "submission"), job)  # after a crash in the middle
    assert again == split


@pytest.mark.parametrize(
    ("role", "name", "error"),
    [
        ("file", "../x", FileRefused),
        ("file", "/etc/x", FileRefused),
        ("file", ".offload/runner.py", FileRefused),
        ("secret", "A/B", UsageError),
    ],
)
def test_a_submission_with_bad_names_is_refused(tmp_path: Path, role: str, name: str, error: type[Exception]) -> None:
    writer = submission(tmp_path, request(), {"source": "1"})
    writer.add(role, name, "raw", b"")
    with pytest.raises(error):
        split_bundle(Bundle.open(writer.close()), tmp_path)


def test_a_file_over_the_sites_limit_is_refused(tmp_path: Path) -> None:
    writer = submission(tmp_path, request(), {"source": "1"})
    writer.add("file", "big", "raw", b"x" * 100)
    with pytest.raises(FileRefused, match="big has 100 bytes, more than the site's 99"):
        split_bundle(Bundle.open(writer.close()), tmp_path, max_file_bytes=99)


def execute(made: Work, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Do with a Work what a container would: files, environment, command; no shell anywhere."""
    folder.mkdir()
    for file in made.files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.source, target)
        target.chmod(file.mode)
    values = environment(made)
    argv = [expand(word, values) for word in container(made)["command"]]
    argv[0] = sys.executable if argv[0] == "python3" else argv[0]
    return subprocess.run(argv, cwd=folder, env={**os.environ, **values}, capture_output=True, timeout=120, check=False)


def hostile_strings(chance: random.Random, count: int, *, most: int = 40) -> list[str]:
    words = [
        "$(touch hacked)",
        "`touch hacked`",
        "; touch hacked",
        "$HOME",
        "{n}",
        "%s",
        "\\",
        "--",
        "-rf",
        "\r\n",
        "';",
        '"',
    ]
    return [
        "".join(chance.choice(words if chance.random() < 0.2 else HOSTILE) for _ in range(chance.randrange(most)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_hostile_strings_arrive_as_they_were_sent(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    strings = [*hostile_strings(chance, 700), "�" + chr(0)]
    env = {f"V{place}": text for place, text in enumerate(hostile_strings(chance, 200))}
    names = []
    for text in hostile_strings(chance, 100):
        name = f"{len(names)}" + text.replace("/", "∕")[:40]
        names.append(name)
    source = (
        "import os\n"
        f"literal = {strings!r}\n"
        "seen = {name: os.environ[name] for name in sorted(os.environ) if name[0] == 'V'}\n"
    )
    source += "files = {name: open(name, newline='').read() for name in os.listdir('.') if name != '.offload'}\n"
    asked = request(env=env, inputs=("strings",), outputs=("strings", "literal", "seen", "files"))
    writer = submission(tmp_path, asked, {"source": source, "filename": strings[0].replace("\0", "")}, strings=strings)
    for name in names:
        writer.add("file", name, "raw", name.encode())
    job = tmp_path / "job"
    job.mkdir()
    split = split_bundle(Bundle.open(writer.close()), job)
    done = execute(work(split.request, job, files=split.files), tmp_path / "run")
    result = read_result(tmp_path / "run/.offload/result", KEY)
    assert result.error is None, (result.error, done.stderr)
    assert result.values["strings"] == strings
    assert result.values["literal"] == strings
    assert {name: result.values["seen"][name] for name in env} == env
    assert result.values["files"] == {name: name for name in names}
    assert not list(tmp_path.rglob("hacked"))


@pytest.mark.parametrize("seed", range(3))
def test_hostile_arguments_of_a_command(tmp_path: Path, seed: int) -> None:
    words = hostile_strings(random.Random(seed), 500)
    argv = (sys.executable, "-c", "import sys, json; print(json.dumps(sys.argv[1:]))", *words)
    done = execute(work(request(Kind.COMMAND, command=argv), tmp_path), tmp_path / "run")
    assert json.loads(done.stdout) == words
    assert list((tmp_path / "run").iterdir()) == []


@settings(max_examples=25, deadline=None)
@given(source=hostile, name=hostile.filter(bool))
def test_any_source_gives_a_result(tmp_path_factory: pytest.TempPathFactory, source: str, name: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    # Without `!`, `%` and `?`: with IPython those would run what they say, as they should.
    text = "'''" + source.translate(dict.fromkeys(map(ord, "!%?"))) + "'''"
    path = submission(folder, request(outputs=(name,)), {"source": text, "filename": name}).close()
    split_bundle(Bundle.open(path), folder)
    execute(work(request(outputs=(name,)), folder), folder / "run")
    result = read_result(folder / "run/.offload/result", KEY)
    assert result.error is not None or set(result.problems) == {name} or name in result.values
    assert sorted(item.name for item in (folder / "run").iterdir()) == [".offload"]
