"""The kernel of a benchmark: a real IPython shell that runs `%%offload` cells as ordered and notes when what happened.

Orders come as JSON lines, one answer each. Nothing of the chain is replaced; `Client.submit` is only timed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

CELL = "%%offload {options}\nimport time\nat = time.time()\n"
"""The no-op cell: all that it does is to say when it was executed."""


def main() -> int:
    """Serve orders until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - cards and outputs, for as long as the process lives
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.run_cell("%load_ext jupyter_offload")
    times = _timed_submit()
    for line in sys.stdin:
        order = json.loads(line)
        action = {"hello": _hello, "cell": _cell, "block": _block, "wait": _wait}[order.pop("do")]
        answers.write(json.dumps(action(shell, times, **order)) + "\n")
        answers.flush()
    return 0


def _timed_submit() -> dict[str, float]:
    from jupyter_offload.kernel.session import session

    client, times = session().client, {}
    submit = client.submit

    def timed(*args: Any, **kwargs: Any) -> Any:
        times["put"] = time.time()
        try:
            return submit(*args, **kwargs)
        finally:
            times["put_done"] = time.time()

    client.submit = timed  # type: ignore[method-assign]
    return times


def _hello(shell: Any, times: dict[str, float]) -> dict[str, Any]:
    return {"python": sys.version.split()[0]}


def _run(shell: Any, text: str) -> None:
    done = shell.run_cell(text)
    if not done.success:
        raise SystemExit(f"the cell failed: {done.error_before_exec or done.error_in_exec!r}")


def _cell(shell: Any, times: dict[str, float], *, name: str, options: str, jobs: str, keep: str = "") -> dict[str, Any]:
    """Run a no-op cell to its end: seconds since its begin of every step, by one clock of one machine."""
    import jupyter_offload as offload

    begun = time.time()
    _run(shell, CELL.format(options=f"--name {name} -o at --detach {options}"))
    returned = time.time()
    job = offload.get(name)
    folder = Path(jobs) / job.id
    if keep:
        _keep(folder, Path(keep))
    value = job.result(timeout=600)
    result = time.time()
    status = json.loads((folder / "task-0" / "status.json").read_text())
    [main] = status["containers"]
    task = job.record.tasks[0]
    moments = {
        "put": times["put"],
        "put_done": times["put_done"],
        "returned": returned,
        "script": (folder / "job.sh").stat().st_mtime,
        "queued": task.queued,
        "started": status["started"],
        "main_started": main["started"],
        "executed": value["at"],
        "main_finished": main["finished"],
        "finished": status["finished"],
        "result": result,
    }
    return {key: moment - begun for key, moment in moments.items()}


def _keep(folder: Path, target: Path) -> None:
    """Keep the job's script and inputs, so that the raw bindings can submit the very same."""
    deadline = time.monotonic() + 60
    while not (folder / "job.sh").exists() or not (folder / "task-0").exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"no job script in {folder}")
        time.sleep(0.01)
    target.mkdir(mode=0o700)
    for path in (folder / "job.sh", *folder.glob("inputs*.tar")):
        shutil.copy2(path, target)


def _block(shell: Any, times: dict[str, float], *, name: str, options: str, megabytes: float) -> dict[str, Any]:
    """Submit a cell with an array as its input; return for how long the cell kept the kernel."""
    import numpy as np

    shell.user_ns["x"] = np.random.default_rng().random(int(megabytes * 1e6) // 8)
    begun = time.time()
    _run(shell, f"%%offload --name {name} {options}\nx.sum()\n")
    ended = time.time()
    return {"prepare": times["put"] - begun, "put": times["put_done"] - times["put"], "blocked": ended - begun}


def _wait(shell: Any, times: dict[str, float], *, name: str) -> dict[str, Any]:
    import jupyter_offload as offload

    job = offload.get(name)
    job.wait(60)
    return {"state": job.state.value}


if __name__ == "__main__":
    sys.exit(main())
