"""What the translator costs: Pods per second, and what a job script adds to the program that it runs.

Side by side in one run: the script of a no-op container against the bare program.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jupyter_offload.pod import ANNOTATION_FETCH, Work
from jupyter_offload.translator import Options, Policy, translate, write

STAMP = ["date", "+%s%N"]
ROUNDS = 15


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


def pods_per_second(image: str, options: Options) -> float:
    """Translations of a one-container Pod per second on one core; the best of three runs of 1,000."""
    given = work(image, ["python3", ".offload/runner.py"])
    translate(given, options)
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(1000):
            translate(given, options)
        best = max(best, 1000 / (time.perf_counter() - began))
    return best


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


def main() -> None:
    """Print one line per figure."""
    host, images = Options(runtime="host"), Options(policy=Policy(images=("*",)))
    print(f"translate, host runtime       {pods_per_second('host', host):8.0f} Pods/s   (wanted: 1000)")
    print(f"translate, apptainer          {pods_per_second('/images/x', images):8.0f} Pods/s   (wanted: 1000)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(translate(work("host", STAMP), host), folder)
        script, bare = [], []
        for _ in range(ROUNDS):  # alternating, so that both see the same machine
            script.append(around(["bash", "job.sh", "0"], folder, folder / "output.tar"))
            bare.append(around(["bash", "-c", " ".join(STAMP)], folder, None))
    for place, when in enumerate(("before", "after")):
        ours = statistics.median(item[place] for item in script) * 1000
        floor = statistics.median(item[place] for item in bare) * 1000
        worst = max(item[place] for item in script) * 1000
        figures = (
            f"{ours:8.1f} ms  (bare bash {floor:.1f} ms, ratio {ours / floor:.1f}, worst {worst:.1f} ms, wanted: 60 ms)"
        )
        print(f"script, {when:6} the program    {figures}")


if __name__ == "__main__":
    sys.exit(main())
