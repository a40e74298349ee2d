"""Job scripts with containers, run for real by Apptainer inside an execute node of the pool, as an ordinary user."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from parts.hostile import TEXT, escaped, examples
from parts.job_script import Ran, pod, shell, work
from parts.pool import Pool

from jupyter_offload.pod import Work
from jupyter_offload.translator import Options, Policy, translate, write
from jupyter_offload.translator.frames import FrameParser

pytestmark = pytest.mark.pool

NODE = "ep1"
OPTIONS = Options(policy=Policy(images=("*",), host_paths=("/etc",)))
USER = 1001

# A root file system of a few programs, as a SIF image and as a plain folder: built in a second, without a registry.
BUILD = """
set -e
root=$1/folder; mkdir -p $root/bin $root/usr/bin $root/lib $root/lib64 $root/etc $root/tmp $root/var/tmp $root/proc $root/sys $root/dev $root/root $root/home
for program in sh env cat ls sleep id touch stat mkdir mv ln rmdir; do
  path=$(type -P $program); cp -L $path $root/bin/; cp -L $path $root/usr/bin/
  for library in $(ldd $path | grep -o '/[^ ]*'); do mkdir -p $root$(dirname $library); cp -L $library $root$library; done
done
apptainer --silent build -F $1/image.sif $root
chmod -R a+rX $1
"""


@dataclass
class Node:
    """An execute node and a folder that it shares with this machine."""

    pool: Pool
    share: Path
    images: str

    @property
    def sif(self) -> str:
        return f"{self.images}/image.sif"

    @property
    def plain(self) -> str:
        return f"{self.images}/folder"

    def prepare(self, given: Work, options: Options = OPTIONS) -> Path:
        folder = self.share / uuid.uuid4().hex
        folder.mkdir()
        write(translate(given, options), folder)
        for path in (folder, *folder.iterdir()):
            os.chown(path, USER, USER)
        return folder

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        argv = [
            str(self.pool.description["engine"]),
            "exec",
            "--user",
            "alice",
            "--workdir",
            str(folder),
            self.pool.container(NODE),
        ]
        return subprocess.Popen(
            [*argv, "bash", "-c", "echo $$ > pid; exec bash job.sh 3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, given: Work, options: Options = OPTIONS) -> Ran:
        folder = self.prepare(given, options)
        return self.ended(self.start(folder), folder)

    def ended(self, process: subprocess.Popen[bytes], folder: Path, seen: bytes = b"") -> Ran:
        out, err = process.communicate(timeout=120)
        return Ran(folder, process.returncode, seen + out, err.decode(), FrameParser().feed(seen + out))


@pytest.fixture(scope="module")
def node(pool: Pool) -> Iterator[Node]:
    share = pool.share / f"translator-{uuid.uuid4().hex}"
    share.mkdir()
    share.chmod(0o755)
    images = f"/var/tmp/offload-{uuid.uuid4().hex}"
    pool.exec(NODE, "bash", "-c", BUILD, "build", images)
    yield Node(pool, share, images)
    pool.exec(NODE, "rm", "-rf", images)
    shutil.rmtree(share)


@pytest.fixture(params=["sif", "plain"])
def image(request: pytest.FixtureRequest, node: Node) -> str:
    return str(getattr(node, request.param))


def contained(image: str, script: str, **fields: Any) -> dict[str, Any]:
    return shell(script, image=image, **fields)


def test_containers_share_volumes_and_nothing_else(node: Node, image: str) -> None:
    out = {"name": "out", "mountPath": "/work/out"}
    keys = {"name": "keys", "mountPath": "/work/.offload/secrets"}
    manifest = pod(
        contained(image, "cat x; cat .offload/secrets/k; stat -L -c %a .offload/secrets/k; echo r > out/r; touch .offload/secrets/w; touch /etc/w && touch /tmp/t; echo late > /tmp/t; ls /tmp", mounts=[out, keys]),
        contained(image, "until [ -e /work/out/r ]; do sleep 0.05; done; ls /tmp /home; ls /root; id -u; touch out/w", name="other", mounts=[{**out, "readOnly": True}]),
        initContainers=[{"name": "prep", "image": image, "command": ["sh", "-c", "echo from prep > /data/x"], "volumeMounts": [{"name": "work", "mountPath": "/data"}]}],
        volumes=[{"name": "out", "emptyDir": {}}, {"name": "keys", "secret": {"secretName": "s", "defaultMode": 0o400}}],
        fetch=["x", "out/*", "**/k", ".offload/**"],
    )  # fmt: skip
    ran = node.run(work(manifest, secrets=({"metadata": {"name": "s"}, "stringData": {"k": "hush\n"}},)))
    assert ran.log() == b"from prep\nhush\n400\nt\n", ran.stderr
    assert b"Read-only file system" in ran.log(stream="stderr")
    assert ran.log("other") == b"/home:\noffload\n\n/tmp:\n1001\n", (
        ran.log("other", "stderr"),
        ran.status,
        ran.frames,
        ran.stderr,
    )
    assert b"Read-only file system" in ran.log("other", "stderr")
    assert ran.files == {"x": b"from prep\n", "out/r": b"r\n"}
    assert ran.states["prep"] == ("terminated", 0, "")
    assert ran.states["main"] == ("terminated", 0, "")


def test_hostile_arguments_and_variables(node: Node, image: str) -> None:
    texts = [text for text in examples(TEXT, 400) if text]
    script = 'env -0 > env; for text; do printf "%s\\0" "$text"; done > args'
    made = contained(image, script)
    made["command"] += ["sh", *[escaped(text) for text in texts]]
    made["env"] = [{"name": f"E_{number}", "value": escaped(text)} for number, text in enumerate(texts)]
    ran = node.run(work(pod(made, fetch=["*"])))
    assert ran.code == 0, ran.stderr
    assert set(ran.files) == {"env", "args"}, "something else ran"
    assert ran.files["args"].split(b"\0")[:-1] == [text.encode() for text in texts]
    found = dict(entry.partition(b"=")[::2] for entry in ran.files["env"].split(b"\0"))
    for number, text in enumerate(texts):
        assert found[f"E_{number}".encode()] == text.encode(), text
    assert found[b"JOB_COMPLETION_INDEX"] == found[b"OFFLOAD_TASK_INDEX"] == b"3"
    assert not [name for name in found if name.startswith((b"o_", b"HOSTNAME", b"_CONDOR"))], (
        "the worker's variables came in"
    )


def test_variables_that_mean_something_to_the_runtime(node: Node) -> None:
    value = "/a$(touch pwned)`touch pwned`\"'\\$x é\n:/usr/bin:/bin"
    values = {
        "PATH": value,
        "TMPDIR": value,
        "LD_PRELOAD_X": value,
        "USER": value,
        "HOME": "/work/home",
        "LC_ALL": "C",
        "UID": "7",
        "SHLVL": "9",
        "BASH_ENV": value,
    }
    made = contained(
        node.sif, "exec env -0 > env", env=[{"name": name, "value": escaped(text)} for name, text in values.items()]
    )
    made["command"][0] = "/bin/sh"
    ran = node.run(work(pod(made, fetch=["*"])))
    assert set(ran.files) == {"env"}, ran.log(stream="stderr")
    found = dict(entry.partition(b"=")[::2] for entry in ran.files["env"].split(b"\0"))
    assert {name: found[name.encode()].decode() for name in values} == values


def test_a_plain_folder_cannot_be_given_every_variable(node: Node, pool: Pool) -> None:
    """Without /.singularity.d/env the runtime ignores such variables: said, not ignored."""
    plain = node.run(work(pod(contained(pool.image(12), "true", env=[{"name": "PATH", "value": "/bin"}]))))
    assert (plain.code, plain.status["reason"]) == (125, "Error")
    assert "plain folder" in plain.status["message"]


def test_the_science_image_runs_python(node: Node, pool: Pool) -> None:
    made = {
        "image": pool.image(12),
        "command": ["python3", "-c", "import os, numpy; print(os.getcwd(), numpy.__version__[0])"],
    }
    ran = node.run(work(pod(made)))
    assert ran.log() == b"/work 1\n", ran.log(stream="stderr")


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"command": ["no-such-command"]}, 255, "CommandNotFound"),
        ({"command": ["/no/such"]}, 255, "CommandNotFound"),
        ({"command": ["/etc"]}, 255, "CommandNotFound"),
        ({"command": ["sh", "-c", "exit 255"]}, 255, "Error"),
        ({"command": ["sh", "-c", "exit 7"]}, 7, "Error"),
        ({"command": ["sh", "-c", "kill -9 $$$$"]}, 137, "Error"),
        ({"command": ["sh", "-c", "no-such"]}, 127, "CommandNotFound"),
        ({"command": ["true"], "image": "/no/such.sif"}, 255, "ImageNotFound"),
        ({"command": ["true"], "image": "/etc/passwd"}, 255, "ImageNotFound"),
        ({"command": ["true"], "image": "localhost:1/nope"}, 255, "ImageNotFound"),
    ],
)
def test_how_a_container_can_fail(node: Node, fields: dict[str, Any], code: int, reason: str) -> None:
    ran = node.run(work(pod({"image": node.sif, **fields})))
    assert ran.states["main"] == ("terminated", code, reason), ran.status["message"]
    assert (ran.code, ran.status["reason"]) == (code, reason)


def test_a_worker_without_the_runtime(node: Node) -> None:
    ran = node.run(work(pod(contained(node.sif, "true"))), replace(OPTIONS, runtime_path="/opt/no-such-apptainer"))
    assert (ran.code, ran.last_status["reason"]) == (125, "RuntimeMissing")
    assert ran.states["main"] == ("waiting", None, "")
    assert "/opt/no-such-apptainer" in ran.status["message"]


def test_site_mounts_host_paths_and_the_cache(node: Node) -> None:
    cache = f"{node.images}-cache"
    node.pool.exec(NODE, "install", "-d", "-o", "alice", cache)
    options = replace(OPTIONS, mounts=("/etc/passwd:/site/passwd:ro",), cache=cache)
    manifest = pod(
        contained(
            node.sif,
            f"cat /site/passwd > a; cat /host/hostname > b; echo kept > {cache}/x && cat {cache}/x",
            mounts=[{"name": "h", "mountPath": "/host"}],
        ),
        volumes=[{"name": "h", "hostPath": {"path": "/etc"}}],
        fetch=["a", "b"],
    )
    ran = node.run(work(manifest), options)
    assert ran.log() == b"kept\n", ran.log(stream="stderr")
    assert b"alice" in ran.files["a"]
    assert ran.files["b"]
    node.pool.exec(NODE, "rm", "-rf", cache)


def test_the_image_default_command_gets_the_args(node: Node) -> None:
    """Without a command the image's own runscript runs; an image from a folder has only a shell to offer."""
    ran = node.run(work(pod({"image": node.plain, "args": ["-c", 'echo "$0|$1"', "a b", "$$(x)"]})))
    assert b"a b|$(x)\n" in ran.log(), ran.log(stream="stderr")


def test_a_root_file_system_that_can_be_written_or_not(node: Node) -> None:
    made = contained(node.sif, "touch /x && echo written")
    assert node.run(work(pod(made))).log() == b"written\n"
    made["securityContext"] = {"readOnlyRootFilesystem": True}
    assert node.run(work(pod(made))).log() == b""


def test_a_sub_path_that_an_init_container_turned_into_a_link_is_refused(node: Node) -> None:
    init = {
        "name": "evil",
        "image": node.sif,
        "command": ["sh", "-c", "cd /w; mkdir moved; mv sub old; ln -s /etc sub"],
        "volumeMounts": [{"name": "work", "mountPath": "/w"}],
    }
    manifest = pod(
        contained(node.sif, "cat /s/passwd", mounts=[{"name": "work", "mountPath": "/s", "subPath": "sub"}]),
        initContainers=[init],
    )
    ran = node.run(work(manifest))
    assert b"alice" not in ran.log()


def test_deadline(node: Node) -> None:
    began = time.monotonic()
    ran = node.run(work(pod(contained(node.sif, "echo ready; sleep 1000"), activeDeadlineSeconds=1)))
    assert time.monotonic() - began < 20
    assert ran.status["reason"] == "DeadlineExceeded"
    assert ran.framed() == b"ready\n"


def test_a_signal_reaches_the_program_inside(node: Node) -> None:
    script = "trap 'echo asked; echo done > late; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    folder = node.prepare(work(pod(contained(node.sif, script), fetch=["late"])))
    process = node.start(folder)
    seen = b""
    assert process.stdout is not None
    while b"ready\n" not in seen:
        piece = os.read(process.stdout.fileno(), 65536)
        assert piece, seen
        seen += piece
    node.pool.exec(NODE, "kill", "-TERM", (folder / "pid").read_text().strip())
    ran = node.ended(process, folder, seen)
    assert ran.framed() == b"ready\nasked\n"
    assert ran.files == {"late": b"done\n"}
    state, code, reason = ran.states["main"]
    assert (state, reason) == ("terminated", "Terminated")
    assert code in (5, 143)  # apptainer does not always tell the program's own code after it passed a signal on
    assert ran.status["host"]
