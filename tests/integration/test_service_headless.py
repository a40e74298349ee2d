"""The headless service as a process: one per home, quick to start, ends by itself, takes over, forwards nothing by mistake."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from parts.service import Service
from parts.submissions import command

from jupyter_offload.errors import ConfigError
from jupyter_offload.job import Resources, State


@pytest.fixture
def service(tmp_path):
    part = Service(tmp_path)
    yield part
    part.close()


def test_five_starts_at_once_give_one_service(service):
    processes = [service.launch() for _ in range(5)]
    service.wait_until(lambda: sum(process.poll() is None for process in processes) == 1 and service._answers())
    (left,) = [process for process in processes if process.poll() is None]
    assert [process.returncode for process in processes if process is not left] == [0] * 4
    assert service.json("GET", "/health")["pid"] == left.pid
    assert service.connection()["pid"] == left.pid


def test_everything_it_writes_is_private(service):
    service.start()
    assert stat.S_IMODE(service.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(service.file.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(service.data.stat().st_mode) == 0o700
    open_to_others = [
        path for path in service.data.rglob("*") if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    assert not open_to_others


def test_a_second_runtime_folder_is_pointed_to_the_owner(service):
    owner = service.start()
    other = service.root / "elsewhere"
    environ = {**service.environ, "JUPYTER_RUNTIME_DIR": str(other)}
    command_line = [sys.executable, "-m", "jupyter_offload.service.headless", "--foreground"]
    assert subprocess.run(command_line, env=environ, timeout=30, capture_output=True).returncode == 0
    assert json.loads((other / "jupyter-offload" / "service.json").read_text())["pid"] == owner.pid


def test_when_the_owner_is_killed_the_next_start_takes_over_at_once(service):
    service.start()
    service.put(command("true", id="a" * 32))
    service.wait("a" * 32)
    service.kill()
    begun = time.monotonic()
    service.start()
    assert time.monotonic() - begun < 15
    assert service.job("a" * 32).state is State.SUCCEEDED


def test_a_long_poll_does_not_keep_it_from_ending(service):
    process = service.start()
    revision = json.loads(service.ask("GET", "/jobs")[1])["revision"]

    def wait_for_news():
        with contextlib.suppress(OSError):
            service.ask("GET", "/jobs", since=revision, wait=25)

    waiting = threading.Thread(target=wait_for_news)
    waiting.start()
    time.sleep(0.3)
    begun = time.monotonic()
    process.terminate()
    process.wait(15)
    waiting.join()
    assert time.monotonic() - begun < 8


def test_it_ends_by_itself_when_idle_but_not_while_a_job_is_active(service):
    process = service.start("--idle-seconds", "0.5")
    job = command("sleep", "2.5")
    service.put(job)
    time.sleep(1.5)
    assert process.poll() is None
    service.wait_until(lambda: process.poll() is not None, seconds=15)
    assert process.returncode == 0
    assert not service.file.exists()
    service.start()
    assert service.job(job.id).state is State.SUCCEEDED


def test_it_leaves_the_session_of_whoever_starts_it(service):
    command_line = [sys.executable, "-m", "jupyter_offload.service.headless"]
    starter = subprocess.Popen(command_line, env=service.environ, start_new_session=False)
    service.wait_until(lambda: bool(service.connection()) and service._answers())
    pid = service.connection()["pid"]
    try:
        assert os.getsid(pid) == pid != os.getsid(0)
        assert Path(f"/proc/{pid}/fd/1").readlink() == Path("/dev/null")
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    finally:
        os.kill(pid, 15)
        service.wait_until(lambda: not service.file.exists())
        starter.wait(10)


def test_it_imports_no_server_and_starts_quickly(service):
    code = (
        "import sys, jupyter_offload.service.headless;"
        "print([name for name in ('jupyter_server', 'IPython', 'kubernetes', 'htcondor2', 'htcondor', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=service.environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bad_requests_are_refused_with_the_way_out(service):
    service.start()

    def refusal(request, **query):
        status, answer = service.put(request, **query)
        assert status >= 400, answer
        return answer

    cases = [
        (command("true", site="nowhere"), "UnknownName", "there is no site 'nowhere'"),
        (command("true", image="nothing"), "UnknownName", "has no image 'nothing'"),
        (
            command("true", resources=Resources(memory="100TiB")),
            "LimitExceeded",
            "memory: asked 100 TiB, the site local allows",
        ),
        (command("true", resources=Resources(memory="12 apples")), "BadQuantity", "12 apples"),
        (command("true", name="a'b\n$(x)"), "UsageError", "is not a job name"),
        (command(), "UsageError", "no command"),
        (command("true", fetch=("../x",)), "FileRefused", "../x"),
        (command("tr\0ue"), "UsageError", "command[0]"),
        (command("true", python="3.8", needs_equal_python=True), "PythonMismatch", "3.8"),
    ]
    for request, kind, words in cases:
        answer = refusal(request)
        assert answer["error"] == kind, answer
        assert words in answer["message"]
        assert answer["hint"]
    assert service.json("GET", "/jobs")["jobs"] == []
    assert list((service.data / "jobs").iterdir()) == []
    assert list((service.data / "incoming").iterdir()) == []
    status, answer, _ = service.ask("PUT", "/jobs/" + "0" * 32, b"not a bundle")
    assert (status, json.loads(answer)["error"]) == (400, "UsageError")
    assert service.ask("PUT", "/jobs/../../etc", b"x")[0] in (400, 404)


def test_a_faulty_configuration_is_told_to_whoever_needs_a_site(service):
    (service.root / "config" / "sites.yaml").write_text("sites:\n  pool:\n    batch: {type: condr}\n")
    service.start()
    with pytest.raises(ConfigError) as caught:
        service.json("GET", "/sites")
    assert caught.value.line == 3
    status, answer = service.put(command("true"))
    assert (status, answer["error"]) == (400, "ConfigError")


def test_the_doctor_ends_with_the_round_trip_of_a_tiny_job(service):
    service.start()
    answer = service.json("POST", "/doctor", {})
    names = [check["name"] for check in answer["checks"]]
    assert names[0] == "job folders"
    assert names[-1] == "round trip"
    assert answer["checks"][-1]["ok"] is True, answer["checks"][-1]
    assert service.json("GET", "/jobs")["jobs"] == []


def test_a_changed_configuration_is_taken_while_jobs_run(service):
    service.start()
    job = command("sh", "-c", "sleep 4; echo done")
    service.put(job)
    sites = service.root / "config" / "sites.yaml"
    sites.write_text("sites:\n  local: {batch: {type: local, slots: 1}}\n  second: {batch: {type: local}}\n")
    service.wait_until(lambda: [site["name"] for site in service.json("GET", "/sites")] == ["local", "second"])
    sites.write_text("sites: nonsense\n")

    def refused():
        try:
            service.json("GET", "/sites")
        except ConfigError:
            return True
        return False

    service.wait_until(refused)
    sites.unlink()
    (ended,) = service.wait(job.id)
    assert ended.state is State.SUCCEEDED
    assert service.ask("GET", f"/jobs/{job.id}/logs")[1] == b"done\n"


def test_a_secret_is_in_its_file_alone_and_gone_after_the_end(service):
    word = "geheim-5f2c"
    service.start()
    # the job itself says how its secret looks there
    script = 'stat -c %a "$OFFLOAD_SECRET_TOKEN"; sha256sum <"$OFFLOAD_SECRET_TOKEN"; tr "\\0" "\\n" </proc/$$/environ | grep -c geheim; sleep 2'
    job = command("sh", "-c", script, secrets=("TOKEN",))
    service.put(job, secrets={"TOKEN": word.encode()})
    service.wait_until(lambda: service.job(job.id).state is State.RUNNING)
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue
    assert not [line for line in lines if word.encode() in line]
    assert word not in service.log()
    assert word.encode() not in (service.data / "jobs.sqlite").read_bytes()
    shown = [path for path in service.data.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]
    assert all(stat.S_IMODE(path.stat().st_mode) in (0o400, 0o600) for path in shown)
    service.wait(job.id)
    out = service.ask("GET", f"/jobs/{job.id}/logs")[1].decode().split()
    assert out[0] in ("400", "600")
    assert out[1] == hashlib.sha256(word.encode()).hexdigest()
    assert out[3] == "0"

    def left():
        found = []
        for here, _, names in os.walk(service.data):
            for path in (Path(here) / name for name in names):
                try:
                    if word.encode() in path.read_bytes():
                        found.append(path)
                except OSError:
                    continue  # removed just now
        return found

    service.wait_until(lambda: not left())
