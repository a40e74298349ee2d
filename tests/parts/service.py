"""A real service process: `python -m jupyter_offload.service.headless` on folders of its own; started, waited for, killed, ended."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from pathlib import Path
from typing import Any

from jupyter_offload.errors import from_json
from jupyter_offload.job import Job, Request
from parts.submissions import bundle


class Service:
    """Starts services on one data folder, and asks them as a kernel would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.file = root / "run" / "jupyter-offload" / "service.json"
        (root / "config").mkdir(parents=True)
        self.environ = {
            **os.environ,
            "OFFLOAD_DATA_DIR": str(self.data),
            "JUPYTER_RUNTIME_DIR": str(root / "run"),
            "JUPYTER_CONFIG_DIR": str(root / "config"),
            "JUPYTER_NO_CONFIG": "",
        }
        self.environ.pop("OFFLOAD_CONFIG", None)
        self.environ.pop("OFFLOAD_CONNECTION", None)
        self.processes: list[subprocess.Popen[bytes]] = []

    def launch(self, *options: str) -> subprocess.Popen[bytes]:
        """Start a process and do not wait for it. It stays our child, so that its end can be seen."""
        command = [sys.executable, "-m", "jupyter_offload.service.headless", "--foreground", *options]
        process = subprocess.Popen(command, env=self.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start a process and wait until it answers."""
        process = self.launch(*options)
        self.wait_until(lambda: self.connection().get("pid") == process.pid and self._answers())
        return process

    def connection(self) -> dict[str, Any]:
        try:
            return json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}

    def _answers(self) -> bool:
        try:
            return self.ask("GET", "/health")[0] == 200
        except OSError:
            return False

    def wait_until(self, true: Any, seconds: float = 20.0) -> Any:
        until = time.monotonic() + seconds
        while not (value := true()):
            assert time.monotonic() < until, f"not within {seconds} s: {self.log()}"
            time.sleep(0.01)
        return value

    def log(self) -> str:
        path = self.data / "service.log"
        return path.read_text()[-5000:] if path.exists() else "no log"

    def kill(self) -> None:
        """SIGKILL the process that owns the jobs."""
        process = self.processes[-1]
        process.kill()
        process.wait()

    def close(self) -> None:
        """End everything, jobs too."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # -- REST ---------------------------------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: bytes | None = None, **query: Any) -> tuple[int, bytes, dict[str, str]]:
        known = self.connection()
        if not known:
            raise ConnectionError("no connection file")
        url = known["url"] + path + ("?" + urllib.parse.urlencode(query) if query else "")
        headers = {"Authorization": f"token {known['token']}"}
        request = urllib.request.Request(url, method=method, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), dict(error.headers)
        except OSError:
            # a service killed in the middle of an answer: http.client leaves the half-read response to the collector
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
            raise

    def json(self, method: str, path: str, body: dict[str, Any] | None = None, **query: Any) -> Any:
        data = json.dumps(body).encode() if body is not None else (b"{}" if method == "POST" else None)
        status, answer, _ = self.ask(method, path, data, **query)
        if status >= 400:
            raise from_json(json.loads(answer))
        return json.loads(answer) if answer else None

    def put(self, request: Request, **query: Any) -> tuple[int, Any]:
        path = bundle(self.root, request, query.pop("source", ""), query.pop("secrets", None))
        status, answer, _ = self.ask("PUT", f"/jobs/{request.id}", path.read_bytes(), **query)
        return status, json.loads(answer)

    def job(self, job_id: str) -> Job:
        return Job.from_json(self.json("GET", f"/jobs/{job_id}"))

    def wait(self, *job_ids: str, seconds: float = 60.0) -> list[Job]:
        """Wait for the ends of jobs, through restarts of the service."""
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                jobs = {job["id"]: job for job in self.json("GET", "/jobs")["jobs"]}
                if all(jobs.get(i, {}).get("state") in ("succeeded", "failed", "cancelled", "lost") for i in job_ids):
                    return [Job.from_json(jobs[job_id]) for job_id in job_ids]
            assert time.monotonic() < until, f"{[(i, jobs.get(i, {}).get('state')) for i in job_ids]} {self.log()}"
            time.sleep(0.05)
