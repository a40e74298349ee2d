"""Job scripts of the host runtime, run for real: order, logs, results, ends."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts.job_script import Ran, end_all, finish, launch, pod, run, session_of, shell, start, work
from parts.require import require

from jupyter_offload.pod import WorkFile
from jupyter_offload.translator import Options, translate, write
from jupyter_offload.translator.frames import FrameParser, StatusFrame


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    end_all()


def test_a_container_runs_and_everything_comes_back(tmp_path: Path) -> None:
    script = "echo out; echo err >&2; pwd > where; mkdir -p plots/deep; : > plots/empty.png; echo 1 > plots/a.png; echo 2 > plots/deep/b.png; echo no > plots/c.txt"
    ran = run(work(pod(shell(script), fetch=["plots/**/*.png", "plots/a.png", "where"])), tmp_path / "job")
    assert ran.code == 0
    assert ran.stderr == ""
    assert (ran.log(), ran.log(stream="stderr")) == (b"out\n", b"err\n")
    assert (ran.framed(), ran.framed(stream="stderr")) == (b"out\n", b"err\n")
    assert set(ran.files) == {"plots/a.png", "plots/empty.png", "plots/deep/b.png", "where"}
    assert ran.files["plots/empty.png"] == b""
    assert ran.status["phase"] == "Succeeded"
    assert ran.states == {"main": ("terminated", 0, "")}
    assert ran.last_status == ran.status
    assert (
        ran.status["started"]
        <= ran.status["containers"][0]["started"]
        <= ran.status["containers"][0]["finished"]
        <= ran.status["finished"]
    )
    # Nothing but the inputs and the output stays in the folder, and nobody else can read it.
    assert sorted(path.name for path in ran.folder.iterdir()) == ["inputs.tar", "job.sh", "output.tar"]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in ran.folder.iterdir())
    assert ran.folder.stat().st_mode & 0o777 == 0o700


def test_the_index_says_when_which_part_of_a_log_was_written(tmp_path: Path) -> None:
    ran = run(work(pod(shell("echo first; sleep 0.6; echo second"))), tmp_path / "job")
    lines = [line.split() for line in ran.member("logs/main.index").decode().splitlines()]
    assert [(stream, offset) for _, stream, offset in lines] == [("stdout", "0"), ("stdout", "6")]
    assert float(lines[1][0]) - float(lines[0][0]) > 0.3


def test_init_containers_run_one_after_the_other_and_containers_together(tmp_path: Path) -> None:
    meet = "touch $0; i=0; until [ -e a ] && [ -e b ]; do sleep 0.02; i=$((i+1)); [ $i -lt 500 ] || exit 9; done"
    manifest = pod(
        {"name": "a", "command": ["sh", "-c", meet.replace("$", "$$"), "a"]},
        {"name": "b", "command": ["sh", "-c", meet.replace("$", "$$"), "b"]},
        initContainers=[
            {**pod(shell("sleep 0.2; echo one >> order", name="one"))["spec"]["containers"][0]},
            {**pod(shell("echo two >> order", name="two"))["spec"]["containers"][0]},
        ],
    )
    manifest["metadata"]["annotations"]["jupyter-offload/fetch"] = '["order"]'
    ran = run(work(manifest), tmp_path / "job")
    assert ran.code == 0
    assert ran.files == {"order": b"one\ntwo\n"}
    assert [item["name"] for item in ran.status["containers"]] == ["one", "two", "a", "b"]
    assert [item["init"] for item in ran.status["containers"]] == [True, True, False, False]


def test_a_failed_init_container_ends_it_all_and_the_others_are_reported(tmp_path: Path) -> None:
    init = [
        pod(shell(script, name=name))["spec"]["containers"][0]
        for name, script in (("bad", "exit 3"), ("never", "echo no"))
    ]
    ran = run(work(pod(shell("echo ran > proof"), fetch=["*"], initContainers=init)), tmp_path / "job")
    assert ran.code == 3
    assert ran.states == {
        "bad": ("terminated", 3, "Error"),
        "never": ("waiting", None, ""),
        "main": ("waiting", None, ""),
    }
    assert (ran.status["phase"], ran.status["reason"]) == ("Failed", "Error")
    assert ran.status["message"] == "container bad ended with exit code 3"
    assert ran.files == {}


def test_the_exit_code_is_the_first_that_is_not_zero(tmp_path: Path) -> None:
    ran = run(
        work(pod(shell("exit 0", name="a"), shell("sleep 0.2; exit 4", name="b"), shell("exit 5", name="c"))),
        tmp_path / "job",
    )
    assert ran.code == 4
    assert {name: code for name, (_, code, _) in ran.states.items()} == {"a": 0, "b": 4, "c": 5}


@pytest.mark.parametrize(
    ("command", "code", "reason", "number"),
    [
        (["no-such-command"], 127, "CommandNotFound", None),
        (["/etc/passwd"], 126, "CommandNotFound", None),
        ([""], 127, "CommandNotFound", None),
        (["sh", "-c", "kill -s SEGV $$$$"], 139, "Error", 11),
        (["sh", "-c", "kill -s KILL $$$$"], 137, "Error", 9),
        (["sh", "-c", "exit 255"], 255, "Error", None),
    ],
)
def test_how_a_container_can_fail(
    tmp_path: Path, command: list[str], code: int, reason: str, number: int | None
) -> None:
    ran = run(work(pod({"command": command})), tmp_path / "job")
    assert ran.code == code
    assert ran.states["main"] == ("terminated", code, reason)
    assert ran.status["containers"][0]["signal"] == number


def test_leftovers_of_a_container_end_with_it(tmp_path: Path) -> None:
    ran = run(work(pod(shell("sleep 1000 & echo $! > pid"), fetch=["pid"])), tmp_path / "job")
    pid = int(ran.files["pid"])
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_daemon_that_holds_the_log_open_does_not_hold_the_job(tmp_path: Path) -> None:
    began = time.monotonic()
    ran = run(work(pod(shell("setsid sleep 30 & echo $! > pid; sleep 0.1"), fetch=["pid"])), tmp_path / "job")
    os.kill(int(ran.files["pid"]), signal.SIGKILL)
    assert ran.code == 0
    assert time.monotonic() - began < 10


def test_deadline(tmp_path: Path) -> None:
    began = time.monotonic()
    script = "echo kept > kept; echo started; while :; do sleep 0.1; done"
    ran = run(work(pod(shell(script), fetch=["kept"], activeDeadlineSeconds=1)), tmp_path / "job")
    assert 1 <= time.monotonic() - began < 5
    assert ran.code == 143
    assert (ran.status["phase"], ran.status["reason"]) == ("Failed", "DeadlineExceeded")
    assert ran.states["main"] == ("terminated", 143, "DeadlineExceeded")
    assert ran.files == {"kept": b"kept\n"}
    assert ran.framed() == b"started\n"


def wait_for_log(process: subprocess.Popen[bytes], text: bytes) -> bytes:
    """Read the script's output until a text is in it; what was read."""
    assert process.stdout is not None
    seen = b""
    while text not in seen:
        piece = os.read(process.stdout.fileno(), 65536)
        assert piece, seen
        seen += piece
    return seen


def ended(process: subprocess.Popen[bytes], folder: Path, seen: bytes) -> Ran:
    ran = finish(process, folder)
    return Ran(folder, ran.code, seen + ran.stdout, ran.stderr, FrameParser().feed(seen + ran.stdout))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_containers_with_grace_and_the_output_is_written(
    tmp_path: Path, number: signal.Signals
) -> None:
    script = "trap 'echo asked; echo done > late; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    process = start(work(pod(shell(script), fetch=["late"])), tmp_path / "job")
    seen = wait_for_log(process, b"ready\n")
    process.send_signal(number)
    ran = ended(process, tmp_path / "job", seen)
    assert ran.framed() == b"ready\nasked\n"
    assert ran.files == {"late": b"done\n"}
    assert (ran.status["phase"], ran.status["reason"], ran.code) == ("Failed", "Terminated", 143)
    assert ran.states["main"] == ("terminated", 0, "Terminated")


def test_after_the_grace_period_everything_is_killed(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 1000 & echo ready; wait; sleep 1000"
    process = start(
        work(pod(shell(script), shell("trap '' TERM; sleep 1000", name="other"), terminationGracePeriodSeconds=1)),
        tmp_path / "job",
    )
    seen = wait_for_log(process, b"ready\n")
    began = time.monotonic()
    process.terminate()
    ran = ended(process, tmp_path / "job", seen)
    assert 0.9 < time.monotonic() - began < 5
    assert ran.states == {"main": ("terminated", 137, "Terminated"), "other": ("terminated", 137, "Terminated")}


def test_a_signal_to_the_whole_group_is_survived(tmp_path: Path) -> None:
    """Some batch systems signal every process at once: helpers and the pump must not die of it."""
    process = start(
        work(pod(shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"))),
        tmp_path / "job",
    )
    seen = wait_for_log(process, b"ready\n")
    os.killpg(process.pid, signal.SIGTERM)
    ran = ended(process, tmp_path / "job", seen)
    assert ran.states["main"] == ("terminated", 7, "Terminated")
    assert ran.framed() == b"ready\n"


def test_signals_in_the_middle_of_frames_do_not_cut_them(tmp_path: Path) -> None:
    process = start(
        work(pod(shell("trap '' TERM; echo ready; head -c 30000000 /dev/zero"))),
        tmp_path / "job",
    )
    seen = [wait_for_log(process, b"ready\n")]
    assert process.stdout is not None
    while piece := os.read(process.stdout.fileno(), 1 << 20):
        seen.append(piece)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    ran = ended(process, tmp_path / "job", b"".join(seen))
    assert ran.framed() == ran.log() == b"ready\n" + bytes(30_000_000)


def test_a_helper_of_the_script_that_is_killed_does_not_hang_it(tmp_path: Path) -> None:
    process = start(work(pod(shell("echo $PPID $$; echo ready; sleep 1000"))), tmp_path / "job")
    seen = wait_for_log(process, b"ready\n")
    helper, container = next(line for line in seen.splitlines() if line.replace(b" ", b"").isdigit()).split()
    os.kill(int(helper), signal.SIGKILL)
    ran = ended(process, tmp_path / "job", seen)
    assert ran.states["main"] == ("terminated", 137, "Error")
    state = Path(f"/proc/{int(container)}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_signal_before_the_containers_start(tmp_path: Path) -> None:
    options = Options(runtime="host", setup=("kill -TERM $$",))
    ran = run(work(pod(shell("echo ran"))), tmp_path / "job", options)
    assert (ran.status["reason"], ran.code) == ("Terminated", 143)
    assert ran.states["main"] == ("waiting", None, "")


def test_output_arrives_while_the_container_runs(tmp_path: Path) -> None:
    process = start(work(pod(shell("echo early; until [ -e go ]; do sleep 0.02; done"))), tmp_path / "job")
    began = time.monotonic()
    seen = wait_for_log(process, b"early\n")
    assert time.monotonic() - began < 2
    statuses = [frame.status for frame in FrameParser().feed(seen) if isinstance(frame, StatusFrame)]
    assert statuses[-1]["containers"][0]["state"] == "running"
    (tmp_path / "job/offload-work/volumes/work/go").touch()
    assert ended(process, tmp_path / "job", seen).code == 0


def test_frames_stop_at_their_limit_and_the_log_goes_on(tmp_path: Path) -> None:
    options = Options(runtime="host", frame_limit_bytes=1000)
    ran = run(work(pod(shell("head -c 3000 /dev/zero; sleep 0.5; echo end; echo e >&2"))), tmp_path / "job", options)
    assert ran.framed() == bytes(1000)
    assert ran.log() == bytes(3000) + b"end\n"
    assert ran.log(stream="stderr") == b"e\n"


def test_a_large_log_arrives_byte_for_byte(tmp_path: Path) -> None:
    script = "import os,sys; [os.write(1, bytes(range(256)) * 4096) for _ in range(5)]; os.write(2, b'\\x1e{\"status\": {}}\\n' * 1000)"
    ran = run(work(pod({"command": [sys.executable, "-c", script]})), tmp_path / "job")
    assert ran.framed() == ran.log() == bytes(range(256)) * 4096 * 5
    assert ran.framed(stream="stderr") == b'\x1e{"status": {}}\n' * 1000


def test_a_container_cannot_cut_its_own_log(tmp_path: Path) -> None:
    ran = run(work(pod(shell("echo one >&2; echo two > /dev/stderr; echo three >&2"))), tmp_path / "job")
    assert ran.log(stream="stderr") == b"one\ntwo\nthree\n"


# --- files ---------------------------------------------------------------------------------------------------------


def test_files_of_the_work_and_of_its_tasks(tmp_path: Path) -> None:
    for name in ("all", "t0", "t1"):
        (tmp_path / name).write_text(name + "\n")
    files = [
        WorkFile("work", ".offload/runner.py", str(tmp_path / "all"), mode=0o755),
        WorkFile("work", "data/in", str(tmp_path / "t0"), task=0),
        WorkFile("work", "data/in", str(tmp_path / "t1"), task=1),
    ]
    given = work(
        pod(shell("cat data/in; stat -c %a .offload/runner.py; echo $JOB_COMPLETION_INDEX $OFFLOAD_TASK_INDEX")),
        *files,
        tasks=2,
    )
    folder = tmp_path / "job"
    folder.mkdir()
    written = write(translate(given, Options(runtime="host")), folder)
    assert written.inputs == ("inputs.tar",)
    assert written.task_inputs == (("inputs-0.tar",), ("inputs-1.tar",))
    for index in (0, 1):
        ran = finish(launch(folder, index=index), folder)
        assert ran.log().decode() == f"t{index}\n755\n{index} {index}\n"


def test_volumes_are_shared_and_secrets_arrive_with_their_modes(tmp_path: Path) -> None:
    mounts = [
        {"name": "keys", "mountPath": "/work/.offload/secrets"},
        {"name": "config", "mountPath": "/work/etc"},
        {"name": "config", "mountPath": "/work/one.conf", "subPath": "b.conf"},
        {"name": "out", "mountPath": "/work/out", "subPath": "x/y"},
    ]
    manifest = pod(
        shell("cd .offload/secrets; cat a b; stat -L -c '%n %a' a b; cd ../..; cat etc/* one.conf; ls etc; echo r > out/r", mounts=mounts),
        fetch=["out/*", "**/a", ".offload/**"],
        volumes=[
            {"name": "keys", "secret": {"secretName": "s", "defaultMode": 0o400, "items": [{"key": "A", "path": "a"}, {"key": "B", "path": "b", "mode": 0o440}]}},
            {"name": "config", "configMap": {"name": "c"}},
            {"name": "none", "secret": {"secretName": "absent", "optional": True}},
            {"name": "out", "emptyDir": {}},
        ],
    )  # fmt: skip
    given = work(
        manifest,
        secrets=({"kind": "Secret", "metadata": {"name": "s"}, "data": {"A": "AAH/"}, "stringData": {"B": "hush\n"}},),
        config_maps=(
            {
                "kind": "ConfigMap",
                "metadata": {"name": "c"},
                "data": {"a.conf": "A\n"},
                "binaryData": {"b.conf": "/wo="},
            },
        ),
    )
    ran = run(given, tmp_path / "job")
    assert ran.log() == b"\x00\x01\xffhush\na 400\nb 440\nA\n\xff\n\xff\na.conf\nb.conf\n", ran.stderr
    assert ran.files == {"out/r": b"r\n"}, "a secret came back"
    script = (ran.folder / "job.sh").read_bytes()
    assert b"hush" not in script


def test_only_files_inside_come_back_and_never_as_links(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("outside")
    script = f"""
    echo a > a; ln -s a inner; ln a hard; ln -s {tmp_path}/outside outer; ln -s {tmp_path} up; ln -s nowhere broken; mkfifo pipe
    mkdir d; echo b > d/b; echo h > d/.hidden; ln -s ../a d/link; ln -s {tmp_path} d/up; echo x > unreadable
    """
    ran = run(work(pod(shell(script), fetch=["*", "d", "up/outside", "missing", "no*match"])), tmp_path / "job")
    assert ran.files == {
        "a": b"a\n",
        "inner": b"a\n",
        "hard": b"a\n",
        "d/b": b"b\n",
        "d/.hidden": b"h\n",
        "d/link": b"a\n",
        "unreadable": b"x\n",
    }
    notes = "\n".join(ran.status["notes"])
    for name in ("outer", "broken", "pipe", "d/up", "up/outside", "missing", "no*match"):
        assert name in notes, name
    assert ran.code == 0


def test_wildcards(tmp_path: Path) -> None:
    names = ["a", "b", "é", "ab", ".h", "a*", "[x]", "x", "sub/a", "sub/t/a", "sub/.h/a"]
    script = "\n".join(f"mkdir -p \"$(dirname '{name}')\"; echo > '{name}'" for name in names)
    cases = {
        "?": {"a", "b", "é", "x"},
        "[ab]": {"a", "b"},
        "[!a-z]": {"é"},
        "a?": {"ab", "a*"},
        "a*": {"a", "ab", "a*"},
        ".?": {".h"},
        "[[]x]": {"[x]"},
        "**/a": {"a", "sub/a", "sub/t/a"},
        "sub/**/a": {"sub/a", "sub/t/a"},
        "sub/*/a": {"sub/t/a"},
        "sub": {"sub/a", "sub/t/a", "sub/.h/a"},
        "sub/t/": {"sub/t/a"},
        "./a": {"a"},
        "{a,b}": set(),
        "~": set(),
        "$(touch x)": set(),
    }
    for number, (pattern, expected) in enumerate(cases.items()):
        ran = run(
            work(pod(shell(script), fetch=[pattern])),
            tmp_path / f"job{number}",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )
        assert set(ran.files) == expected, pattern


def test_a_secret_is_in_its_file_and_nowhere_else(tmp_path: Path) -> None:
    word = "correct-horse-battery-staple"
    mounts = [{"name": "keys", "mountPath": "/work/.offload/secrets"}]
    manifest = pod(
        shell("cp .offload/secrets/k copy; mkdir own; cp copy own; rm copy; echo ready; sleep 1000", mounts=mounts),
        volumes=[{"name": "keys", "secret": {"secretName": "s", "defaultMode": 0o400}}],
        fetch=[".offload/**", "**"],
    )
    folder = tmp_path / "job"
    process = start(
        work(manifest, secrets=({"metadata": {"name": "s"}, "stringData": {"k": word}},)),
        folder,
    )
    seen = wait_for_log(process, b"ready\n")
    looked = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and session_of(int(entry.name)) == process.pid:
            with contextlib.suppress(ProcessLookupError):  # one that has just ended
                assert word.encode() not in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                looked += 1
    assert looked >= 3
    assert (folder / "offload-work/volumes/keys/k").stat().st_mode & 0o777 == 0o400
    assert (folder / "offload-work").stat().st_mode & 0o777 == 0o700
    process.terminate()
    ran = ended(process, folder, seen)
    assert set(ran.files) == {"own/copy"}, "only the program's own copy comes back"
    assert word not in (folder / "job.sh").read_text() + ran.stderr
    assert word.encode() not in ran.stdout


def test_what_comes_back_is_limited(tmp_path: Path) -> None:
    ran = run(
        work(pod(shell("echo 123 > a; head -c 5000 /dev/zero > b; echo 456 > c"), fetch=["a", "b", "c"])),
        tmp_path / "job",
        Options(runtime="host", output_limit_bytes=100),
    )
    assert set(ran.files) == {"a", "c"}
    assert "1 files not fetched: more than 100 bytes together" in ran.status["notes"]


# --- the site ------------------------------------------------------------------------------------------------------


def test_setup_lines_run_once_before_the_containers(tmp_path: Path) -> None:
    options = Options(
        runtime="host",
        setup=(
            "export FROM_SITE='a b'",
            "echo noise",
            "set -e; IFS=x; cd /",
            "PATH=/opt/site:$PATH",
            "alias ls=false",
            "shopt -s nullglob dotglob failglob",
        ),
        cache="/var/cache/it's",
    )
    ran = run(
        work(
            pod(
                shell('echo "$FROM_SITE|$OFFLOAD_CACHE|${PATH%%:*}"; touch r.txt', name="a"),
                shell("true", name="b"),
                fetch=["*.txt"],
            )
        ),
        tmp_path / "job",
        options,
    )
    assert ran.log("a") == b"a b|/var/cache/it's|/opt/site\n"
    assert ran.stderr == "noise\n"
    assert ran.code == 0
    assert set(ran.files) == {"r.txt"}


def test_setup_lines_that_end_the_script_are_told(tmp_path: Path) -> None:
    ran = run(work(pod(shell("true"))), tmp_path / "job", Options(runtime="host", setup=("exit 5",)))
    assert ran.code == 125
    assert ran.last_status["reason"] == "Error"
    assert "setup lines" in ran.last_status["message"]


def test_the_locale_of_the_site_reaches_the_container(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    assert run(work(pod(shell("echo $LC_ALL"))), tmp_path / "a", env=env).log() == b"C.UTF-8\n"
    assert (
        run(work(pod(shell("echo ${LC_ALL-unset}"))), tmp_path / "b", env={"PATH": os.environ["PATH"]}).log()
        == b"unset\n"
    )


def test_a_second_start_in_the_same_folder_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    process = start(work(pod(shell("ls; echo x > x; echo ready; sleep 1000"))), folder)
    seen = wait_for_log(process, b"ready\n")
    end_all()
    assert b"x\n" not in seen.replace(b"x > x", b"")
    (folder / "output.tar").write_bytes(b"of an earlier start")
    process = launch(folder)
    again = wait_for_log(process, b"ready\n")
    assert b"\nready" in again
    assert not (folder / "output.tar").exists()
    process.terminate()
    assert b"x\n" not in ended(process, folder, again).framed()


# --- faults of the worker -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 100, 3000, 6000])
def test_cut_off_inputs(tmp_path: Path, keep: int) -> None:
    (tmp_path / "f").write_bytes(b"x" * 5000)
    folder = tmp_path / "job"
    folder.mkdir()
    write(
        translate(work(pod(shell("echo ran")), WorkFile("work", "f", str(tmp_path / "f"))), Options(runtime="host")),
        folder,
    )
    os.truncate(folder / "inputs.tar", keep)
    ran = finish(launch(folder), folder)
    assert ran.code == 125
    assert (ran.last_status["phase"], ran.last_status["reason"]) == ("Failed", "InputsCorrupt")
    assert ran.framed() == b""


def test_lost_inputs(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    write(translate(work(pod(shell("echo ran"))), Options(runtime="host")), folder)
    (folder / "inputs.tar").unlink()
    assert finish(launch(folder), folder).last_status["reason"] == "InputsCorrupt"


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], capture_output=True).returncode:
        require("mounting a small tmpfs needs root")
    yield disk  # type: ignore[misc]
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_disk_full_of_logs(small_disk: Path) -> None:
    ran = run(work(pod(shell("head -c 4000000 /dev/zero; echo said >&2; exit 0"))), small_disk / "job")
    assert ran.last_status["reason"] == "DiskFull"
    assert "DiskFull" in ran.stderr
    assert ran.code != 0
    assert ran.status["reason"] == "DiskFull", "a small output.tar must still be there"


def test_disk_full_of_results(small_disk: Path) -> None:
    ran = run(work(pod(shell("head -c 1500000 /dev/zero > result; echo said"), fetch=["result"])), small_disk / "job")
    assert ran.last_status["reason"] == "DiskFull"
    assert ran.status["reason"] == "DiskFull"
    assert ran.log() == b"said\n"
    assert ran.files == {}
    assert ran.code != 0


def test_disk_full_of_inputs(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(1_200_000))
    ran = run(work(pod(shell("true")), WorkFile("work", "big", str(tmp_path / "big"))), small_disk / "job")
    assert ran.last_status["reason"] == "DiskFull"


def test_standard_output_that_cannot_be_written(tmp_path: Path) -> None:
    """A full disk under the batch system's own log: the job goes on and says so where it can."""
    folder = tmp_path / "job"
    folder.mkdir()
    write(translate(work(pod(shell("echo hi; echo r > r"), fetch=["r"])), Options(runtime="host")), folder)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            ["bash", "job.sh", "0"], cwd=folder, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    ran = Ran(folder, done.returncode, b"", done.stderr.decode())
    assert ran.files == {"r": b"r\n"}
    assert "standard output cannot be written" in ran.stderr


def test_a_reader_of_standard_output_that_goes_away(tmp_path: Path) -> None:
    process = start(
        work(pod(shell("echo ready; sleep 0.5; yes | head -n 1; echo r > r"), fetch=["r"])), tmp_path / "job"
    )
    wait_for_log(process, b"ready\n")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    ran = Ran(tmp_path / "job", 0, b"", "")
    assert ran.log() == b"ready\ny\n"
    assert ran.log(stream="stderr") == b""
    assert ran.files == {"r": b"r\n"}
    assert process.stderr is not None
    process.stderr.close()


def test_few_file_descriptors_and_an_odd_environment(tmp_path: Path) -> None:
    def poor() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    env = {
        "PATH": os.environ["PATH"],
        "IFS": "x",
        "CDPATH": "/",
        "GLOBIGNORE": "*",
        "POSIXLY_CORRECT": "1",
        "TAR_OPTIONS": "--totals",
        "BASH_ENV": "/nonexistent",
    }
    ran = run(
        work(pod(shell("echo hi; echo r > r"), fetch=["*"])),
        tmp_path / "job with 'quotes' $(x)\n&",
        env=env,
        preexec_fn=poor,
    )
    assert ran.code == 0
    assert ran.files == {"r": b"r\n"}
