"""A job script on this machine: written, run and looked at, as a batch system would."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_offload.pod import ANNOTATION_FETCH, Work, WorkFile
from jupyter_offload.translator import Options, translate, write
from jupyter_offload.translator.frames import Frame, FrameParser, LogFrame, StatusFrame

HOST = Options(runtime="host")

_started: list[subprocess.Popen[bytes]] = []


def pod(
    *containers: dict[str, Any],
    fetch: list[str] | None = None,
    volumes: list[dict[str, Any]] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A Pod as payload builds it: every container works in the emptyDir `work` at /work."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"annotations": {ANNOTATION_FETCH: json.dumps(fetch)} if fetch else {}},
        "spec": {
            "restartPolicy": "Never",
            "containers": [container(**given) for given in containers],
            "volumes": [{"name": "work", "emptyDir": {}}, *(volumes or [])],
            **spec,
        },
    }


def container(name: str = "main", mounts: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
    """A container in the emptyDir `work`."""
    return {
        "name": name,
        "image": "host",
        "workingDir": "/work",
        "volumeMounts": [{"name": "work", "mountPath": "/work"}, *(mounts or [])],
        **fields,
    }


def shell(script: str, **fields: Any) -> dict[str, Any]:
    """A container that runs a shell script of the test's own, escaped as Kubernetes wants it (`$$` is a dollar sign)."""
    return {"command": ["sh", "-c", script.replace("$", "$$")], **fields}


def work(manifest: dict[str, Any], *files: WorkFile, **fields: Any) -> Work:
    return Work(**{"job_id": "0" * 32, "owner": "alice", "name": "test", "pod": manifest, "files": files, **fields})


@dataclass
class Ran:
    """What a script left."""

    folder: Path
    code: int
    stdout: bytes
    stderr: str
    frames: list[Frame] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        with self._tar() as tar:
            return tar.getnames()

    def member(self, name: str) -> bytes:
        with self._tar() as tar:
            content = tar.extractfile(name)
            assert content is not None, name
            return content.read()

    @property
    def files(self) -> dict[str, bytes]:
        """What came back, by its path."""
        with self._tar() as tar:
            found = {}
            for member in tar:
                if member.name.startswith("files/"):
                    assert member.isreg(), (member.name, member.type)
                    assert member.name.removeprefix("files/") not in found, f"{member.name} stands twice"
                    content = tar.extractfile(member)
                    assert content is not None
                    found[member.name.removeprefix("files/")] = content.read()
            return found

    @property
    def status(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.member("status.json"))
        return value

    def log(self, name: str = "main", stream: str = "stdout") -> bytes:
        return self.member(f"logs/{name}.{stream}")

    @property
    def states(self) -> dict[str, tuple[str, int | None, str]]:
        return {item["name"]: (item["state"], item["exit_code"], item["reason"]) for item in self.status["containers"]}

    @property
    def last_status(self) -> dict[str, Any]:
        return [frame.status for frame in self.frames if isinstance(frame, StatusFrame)][-1]

    def framed(self, name: str = "main", stream: str = "stdout") -> bytes:
        """The log as the frames carry it; they must follow each other without a gap."""
        found = b""
        for frame in self.frames:
            if isinstance(frame, LogFrame) and (frame.container, frame.stream) == (name, stream):
                assert frame.offset == len(found)
                found += frame.data
        return found

    def _tar(self) -> tarfile.TarFile:
        return tarfile.open(self.folder / "output.tar", encoding="utf-8", errors="surrogateescape")


def start(
    given: Work,
    folder: Path,
    options: Options = HOST,
    *,
    index: int = 0,
    env: dict[str, str] | None = None,
    **extra: Any,
) -> subprocess.Popen[bytes]:
    """Write the script and start it."""
    folder.mkdir(exist_ok=True)
    write(translate(given, options), folder)
    return launch(folder, index=index, env=env, **extra)


def _usual_signals() -> None:
    """Undo a SIGHUP that is ignored (as nohup leaves it): a shell cannot trap what was ignored at its start."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def launch(folder: Path, *, index: int = 0, env: dict[str, str] | None = None, **extra: Any) -> subprocess.Popen[bytes]:
    """Start the script in a session of its own, which `end_all` ends whatever happens."""
    extra.setdefault("preexec_fn", _usual_signals)
    process = subprocess.Popen(
        ["bash", "job.sh", str(index)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        start_new_session=True,
        **extra,
    )
    _started.append(process)
    return process


def end_all() -> None:
    """Kill what is left of every script that was started: what a batch system does at the end."""
    sessions = {process.pid for process in _started}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and session_of(int(entry.name)) in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(entry.name), signal.SIGKILL)
    for process in _started:
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    _started.clear()


def session_of(pid: int) -> int | None:
    """The session of a process, or None when it has ended."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def finish(process: subprocess.Popen[bytes], folder: Path, timeout: float = 60) -> Ran:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Ran(folder, process.returncode, out, err.decode(errors="replace"), FrameParser().feed(out))


def run(given: Work, folder: Path, options: Options = HOST, *, timeout: float = 60, **extra: Any) -> Ran:
    """Run a work's script to its end."""
    return finish(start(given, folder, options, **extra), folder, timeout)
