"""Scripts: readable goldens of what a Pod becomes, and the opinion of bash and shellcheck on many of them.

A golden is the part of the script that the Pod decides. OFFLOAD_UPDATE_GOLDEN=1 writes them anew; read the difference.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts.job_script import pod, work
from parts.require import require

from jupyter_offload.translator import Options, Policy, Translation, translate, translate_manifest

GOLDEN = Path(__file__).parent / "golden"
HOST = Options(runtime="host", setup=("source /cvmfs/sft.example.org/setup.sh",), cache="/scratch/cache")
IMAGES = Options(
    mounts=("/etc/grid-security:/etc/grid-security:ro",),
    policy=Policy(images=("*",), host_paths=("/cvmfs",)),
    cache="/scratch/cache",
)
NAMES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))


def translated(name: str) -> Translation:
    given = translate_manifest((GOLDEN / f"{name}.yaml").read_text())
    image = given.pod["spec"]["containers"][0]["image"]
    return translate(given, HOST if image == "host" else IMAGES)


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    script = translated(name).script
    own = script[: script.index("# --- state of the script")]
    path = GOLDEN / f"{name}.sh"
    if os.environ.get("OFFLOAD_UPDATE_GOLDEN"):
        path.write_text(own)
    assert own == path.read_text()


def test_the_translation_is_pure_and_repeatable() -> None:
    assert translated("containers") == translated("containers")


def check(scripts: list[str], folder: Path) -> None:
    if shutil.which("shellcheck") is None:
        require("shellcheck (Debian package of that name) is not installed")
    paths = []
    for number, script in enumerate(scripts):
        path = folder / f"{number}.sh"
        path.write_bytes(script.encode())
        paths.append(str(path))
        done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), path
    done = subprocess.run(
        ["shellcheck", *paths], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    assert done.returncode == 0, done.stdout[:3000]


def test_bash_and_shellcheck_accept_the_goldens(tmp_path: Path) -> None:
    check([translated(name).script for name in NAMES], tmp_path)


def test_bash_and_shellcheck_accept_scripts_of_strange_pods(tmp_path: Path) -> None:
    scripts: list[str] = []
    text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
        ["'", "$(x)", "`", "\\", "~", "#", "\r\n", "“quoted”", "\u202e", "case x in y) ;; esac", "/work", "<<EOF"]
    )

    @settings(max_examples=14, derandomize=True, database=None, deadline=None)
    @given(st.lists(text, max_size=4), st.lists(text, max_size=4), text, st.booleans())
    def collect(args: list[str], values: list[str], name: str, images: bool) -> None:
        made = {
            "command": ["x", *args],
            "env": [
                {"name": name, "value": value} for name, value in zip(("A", "LANG", "PATH", "B"), values, strict=False)
            ],
        }
        if images:
            made["image"] = "/images/x"
        scripts.append(
            translate(work(pod(made, fetch=["*", "a b"]), name=name, owner=name), IMAGES if images else HOST).script
        )

    collect()
    assert len(scripts) >= 12
    check(scripts, tmp_path)
