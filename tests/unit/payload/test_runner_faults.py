"""Whatever becomes of the code: the result says it, and what was printed is in it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from parts.running import Run, command, prepare, run

from jupyter_offload.errors import DiskExceeded, JobFailed, RemoteError


@pytest.mark.parametrize(
    ("source", "code", "details"),
    [
        ("import ctypes\nctypes.string_at(0)", 139, {"signal": 11}),
        ("import os\nos.abort()", 134, {"signal": 6}),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", 137, {"signal": 9}),
        ("import os\nos._exit(3)", 3, {"exit_code": 3}),
        ("import os\nos._exit(0)", 1, {"exit_code": 0}),
        ("import sys\nsys.exit(4)", 4, {"exit_code": 4}),
        ("import sys\nsys.exit('in words')", 1, {"exit_code": 1}),
        ("exit(5)", 5, {"exit_code": 5}),
    ],
)
def test_a_process_that_dies_leaves_what_it_printed(
    tmp_path: Path, source: str, code: int, details: dict[str, int]
) -> None:
    done = run(tmp_path, "a = 1\nprint('before', end='')\n" + source, outputs=["a"])
    assert done.code == code
    assert isinstance(done.result.error, JobFailed)
    assert details.items() <= done.result.error.details.items()
    assert done.text() == "before"
    assert done.stdout.startswith(b"before")
    assert done.result.error.hint


def test_a_crash_tells_the_line(tmp_path: Path) -> None:
    done = run(tmp_path, "import ctypes\n\nctypes.string_at(0)")
    assert 'File "<offload svm-fit>", line 3 in <module>' in done.text("stderr")


def test_exit_without_a_code_is_a_success(tmp_path: Path) -> None:
    done = run(tmp_path, "import sys\na = 1\nsys.exit()\na = 2", outputs=["a"])
    assert (done.code, done.result.error) == (0, None)
    assert done.result.values["a"] == 1


def test_a_crash_after_the_end_loses_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "import atexit, os\na = 1\natexit.register(os.abort)", outputs=["a"])
    assert (done.code, done.result.error) == (0, None)
    assert done.result.values["a"] == 1


@pytest.mark.parametrize(
    ("source", "ename"),
    [
        ("def f(n): return f(n + 1)\nf(0)", "RecursionError"),
        ("x = bytearray(1 << 62)", "MemoryError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("class E(BaseException):\n    def __str__(self): raise ValueError\nraise E", "E"),
        ("class E(Exception):\n    def __repr__(self): return 1 / 0\n__name__ = E()\nE().missing", "AttributeError"),
        ("class R:\n    def __repr__(self): raise ValueError('repr')\nR()", "ValueError"),
    ],
)
def test_odd_errors(tmp_path: Path, source: str, ename: str) -> None:
    done = run(tmp_path, "print('before')\n" + source)
    assert done.code == 1
    assert isinstance(done.result.error, RemoteError), done.result
    assert done.result.error.ename == ename
    assert done.text() == "before\n"
    assert len(done.result.error.traceback) < 20_000


def start(folder: Path, source: str, **options: object) -> subprocess.Popen[bytes]:
    prepare(folder, source, **options)
    return subprocess.Popen(
        command(folder), cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(process: subprocess.Popen[bytes], text: bytes) -> bytes:
    assert process.stdout is not None
    seen = b""
    while text not in seen:
        data = os.read(process.stdout.fileno(), 1 << 16)
        assert data, seen
        seen += data
    return seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "busy", ["time.sleep(60)", "os.system('sleep 60')", "subprocess.run(['sleep', '60'])", "\n  while True: pass"]
)
def test_a_signal_saves_what_there_is(tmp_path: Path, number: int, busy: str) -> None:
    source = (
        f"import os, subprocess, time\n\ntry:\n  print('started')\n  {busy.strip()}\nfinally:\n  print('cleaned up')"
    )
    process = start(tmp_path, source)
    seen = wait_for(process, b"started\n")
    process.send_signal(number)
    rest, errors = process.communicate(timeout=30)
    done = Run(tmp_path, subprocess.CompletedProcess([], process.returncode, seen + rest, errors))
    assert done.code == 143
    assert isinstance(done.result.error, JobFailed)
    assert done.result.error.reason == "Terminated"
    assert done.text() == "started\ncleaned up\n"
    assert any(output.get("ename") == "KeyboardInterrupt" for output in done.result.outputs)


def test_a_stubborn_process_is_killed_after_the_grace(tmp_path: Path) -> None:
    process = start(
        tmp_path, "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('started')\ntime.sleep(60)"
    )
    seen = wait_for(process, b"started\n")
    began = time.monotonic()
    process.terminate()
    rest, errors = process.communicate(timeout=40)
    done = Run(tmp_path, subprocess.CompletedProcess([], process.returncode, seen + rest, errors))
    assert 9 < time.monotonic() - began < 20
    assert done.result.error.reason == "Terminated"
    assert done.text() == "started\n"


def test_a_process_left_behind_does_not_hold_the_job(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run(
        tmp_path, "import subprocess\np = subprocess.Popen(['sleep', '30'])\nprint('x')\npid = p.pid", outputs=["pid"]
    )
    pid = done.result.values["pid"]
    os.kill(pid, signal.SIGKILL)
    assert time.monotonic() - began < 15
    assert done.result.error is None


def test_a_long_output_is_kept_at_both_ends_in_bounded_memory(tmp_path: Path) -> None:
    source = "import os\nfor i in range(120_000):\n    print(f'line {i:06} ' + 'x' * 90)\n"
    source += "peak = [line for line in open(f'/proc/{os.getppid()}/status') if line.startswith('VmHWM')][0]"
    done = run(tmp_path, source, outputs=["peak"])
    assert int(done.result.values["peak"].split()[1]) < 60_000  # KiB
    text = done.text()
    assert done.stdout.count(b"\n") > 120_000
    assert text.startswith("line 000000 ")
    assert text.endswith("line 119999 " + "x" * 90 + "\n")
    assert len(text) < 6 << 20
    assert "bytes of output are left out here" in done.text("stderr")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    done = run(tmp_path, "import os\nos.write(1, bytes(range(256)))\nprint('é\\ud800')")
    assert bytes(range(256)) in done.stdout
    assert done.text().endswith("é\\ud800\n")


def test_text_split_in_the_middle_of_a_character(tmp_path: Path) -> None:
    source = "import os, time\nfor byte in 'ü€😀'.encode():\n    os.write(1, bytes([byte]))\n    time.sleep(0.02)"
    assert run(tmp_path, source).text() == "ü€😀"


def limited(folder: Path) -> Run:
    # RLIMIT_FSIZE stands in for a full disk: writing fails in the same place with another errno.
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = subprocess.run(command(folder), cwd=folder, capture_output=True, timeout=60, check=False, preexec_fn=limit)
    return Run(folder, done)


def test_a_full_disk_gives_the_rest_of_the_result(tmp_path: Path) -> None:
    prepare(tmp_path, "print('kept')\na = 1\nb = bytes(10_000_000)\nc = 2", outputs=["a", "b", "c"])
    done = limited(tmp_path)
    result = done.result
    assert result.values["a"] == 1
    assert isinstance(result.problems["b"], DiskExceeded)
    assert result.values["c"] == 2
    assert done.text() == "kept\n"


def test_a_result_that_finds_no_room_comes_without_its_values(tmp_path: Path) -> None:
    prepare(tmp_path, "print('k' * 200_000)\nb = bytes(900_000)", outputs=["b"])
    done = limited(tmp_path)
    assert done.text() == "k" * 200_000 + "\n"
    assert isinstance(done.result.error, DiskExceeded)
    assert isinstance(done.result.problems["b"], DiskExceeded)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "result"]


def test_a_closed_log_does_not_end_the_job(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        "print('x' * 1000)\nimport time\ntime.sleep(0.5)\nfor i in range(1000): print('y' * 1000)\na = 1",
        outputs=["a"],
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr is not None
    process.stderr.close()
    result = Run(tmp_path, subprocess.CompletedProcess([], 0, b"", b"")).result
    assert result.values["a"] == 1
    assert len(result.outputs[0]["text"]) == 1001 * 1001


def test_a_fork_that_comes_out_at_the_end_of_the_cell_changes_nothing(tmp_path: Path) -> None:
    source = """
import os
child = os.fork()
if child:
    os.waitpid(child, 0)
print("parent" if child else "child")
display("shown")
x = "parent" if child else "child"
if not child:
    1 / 0
"""
    done = run(tmp_path, source, outputs=["x"])
    assert done.result.error is None
    assert done.result.values["x"] == "parent"
    assert sorted(done.text().split()) == ["'shown'", "child", "parent"]
    assert "ZeroDivisionError" in done.text("stderr")
    assert [output["output_type"] for output in done.result.outputs].count("display_data") == 1


def test_a_signal_just_before_the_end_does_not_lose_the_result(tmp_path: Path) -> None:
    for place in range(12):
        folder = tmp_path / str(place)
        folder.mkdir()
        process = start(folder, "print('started')\na = 1", outputs=["a"])
        seen = wait_for(process, b"started\n")
        time.sleep(place * 0.003)
        process.terminate()
        rest, errors = process.communicate(timeout=30)
        done = Run(folder, subprocess.CompletedProcess([], process.returncode, seen + rest, errors))
        assert done.text() == "started\n", errors


def test_a_module_that_cannot_be_written_is_said_in_the_result(tmp_path: Path) -> None:
    (tmp_path / "modules").write_text("in the way")
    done = run(tmp_path, "1", parts=[("module", "helpers.py", b"")])
    assert isinstance(done.result.error, JobFailed)
    assert "could not be prepared" in done.result.error.message
