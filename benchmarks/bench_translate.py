"""What the translator costs: Pods per second, and what a job script adds to the program that it runs.

Side by side in one run: the script of a no-op container against the bare program.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from figures import Figure, Table, middle, spread

from jupyter_offload.pod import ANNOTATION_FETCH, Work
from jupyter_offload.translator import Options, Policy, translate, write

STAMP = ["date", "+%s%N"]


def work(image: str, command: list[str]) -> Work:
    """A one-container Pod as payload builds it."""
    container = {
        "name": "main",
        "image": image,
        "workingDir": "/work",
        "command": command,
        "env": [{"name": "OFFLOAD_WORKDIR", "value": "/work"}, {"name": "GREETING", "value": "it's $$HOME"}],
        "resources": {"limits": {"cpu": "500m", "memory": "1.5Gi"}},
        "volumeMounts": [{"name": "work", "mountPath": "/work"}],
    }
    spec = {"restartPolicy": "Never", "containers": [container], "volumes": [{"name": "work", "emptyDir": {}}]}
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"annotations": {ANNOTATION_FETCH: '["*.png"]'}},
        "spec": spec,
    }
    return Work("0" * 32, "bench", "bench", manifest)


def pods_per_second(image: str, options: Options, runs: int, pods: int) -> tuple[list[float], list[float]]:
    """Translations of a one-container Pod per second of each run, by the wall's clock and by the core's."""
    given = work(image, ["python3", ".offload/runner.py"])
    translate(given, options)
    wall, core = [], []
    for _ in range(runs):
        began, used = time.perf_counter(), time.process_time()
        for _ in range(pods):
            translate(given, options)
        wall.append(pods / (time.perf_counter() - began))
        core.append(pods / (time.process_time() - used))
    return wall, core


def around(argv: list[str], folder: Path, read: Path | None) -> tuple[float, float]:
    """Seconds before and after the moment that the program prints, of one start."""
    began = time.time()
    done = subprocess.run(argv, cwd=folder, capture_output=True, check=True)
    ended = time.time()
    if read is None:
        stamp = done.stdout
    else:
        stamp = subprocess.run(["tar", "xOf", str(read), "logs/main.stdout"], capture_output=True, check=True).stdout
    return int(stamp) / 1e9 - began, ended - int(stamp) / 1e9


def measure(rounds: int) -> tuple[list[Figure], list[Table]]:
    """Measure translations, and a job script beside the bare program."""
    host, images = Options(runtime="host"), Options(policy=Policy(images=("*",)))
    runs, pods = (5, 1000) if rounds > 5 else (2, 200)
    speeds = {
        "apptainer": pods_per_second("/images/x", images, runs, pods),
        "host": pods_per_second("host", host, runs, pods),
    }
    slowest = min((wall for wall, _ in speeds.values()), key=middle)
    figure = Figure(
        "Translate, one-container Pods on one core (the slower runtime)",
        "≥ 1,000 Pods/s",
        spread(slowest, "Pods/s", digits=0),
        middle(slowest) >= 1000,
    )
    rows = [["runtime", "Pods a second", "Pods a second of CPU time"]]
    rows += [[name, *[spread(side, "", digits=0) for side in sides]] for name, sides in speeds.items()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(translate(work("host", STAMP), host), folder)
        script, bare = [], []
        for _ in range(rounds):  # alternating, so that both see the same machine
            script.append(around(["bash", "job.sh", "0"], folder, folder / "output.tar"))
            bare.append(around(["bash", "-c", " ".join(STAMP)], folder, None))
    around_rows = [["", "job script", "bare bash"]]
    for place, when in enumerate(("before the program", "after the program")):
        left, right = [item[place] for item in script], [item[place] for item in bare]
        around_rows.append([when, spread(left, "ms", 1e3, 0), spread(right, "ms", 1e3, 0)])
    return [figure], [
        Table("Translator", rows),
        Table("What the job script adds to a program (host runtime)", around_rows),
    ]
