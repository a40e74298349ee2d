"""Execute a notebook for real, cell by cell, and say what each offloaded cell did: `make demo` and the notebook tests use it.

    python notebooks/execute.py [--site local|pool] [--build build/demo] notebooks/01_quickstart.ipynb

The notebook runs in a folder of its own with a service of its own, so that nothing of the user's home is touched. With ``--site pool`` an
HTCondor pool of three roles is built (once) and started first. Exit code 1 when a cell failed that is not tagged `raises-exception`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
POOL = ROOT / "containers" / "htcondor" / "pool"
SCIENCE = ROOT / "containers" / "science" / "build"
MIME = "application/vnd.jupyter-offload.job.v1+json"


@dataclass(frozen=True)
class Place:
    """Where a notebook runs: its folder, and the environment that keeps it apart from the user's own service."""

    folder: Path
    environ: dict[str, str]


@contextmanager
def place(build: Path, sites: str | None) -> Iterator[Place]:
    """Prepare an empty folder and a private Jupyter home; end the service that the notebook started."""
    folder = build.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("OFFLOAD_C", "JUPYTER_"))}
    environ.update(
        JUPYTER_DATA_DIR=str(folder / ".jupyter" / "data"),
        JUPYTER_RUNTIME_DIR=str(folder / ".jupyter" / "runtime"),
        JUPYTER_CONFIG_DIR=str(folder / ".jupyter" / "config"),
        JUPYTER_NO_CONFIG="1",
        IPYTHONDIR=str(folder / ".ipython"),
        MPLCONFIGDIR=str(folder / ".matplotlib"),
        PYTHONUNBUFFERED="1",
    )
    if sites is not None:
        config = folder / ".jupyter" / "sites.yaml"
        config.parent.mkdir(mode=0o700)
        config.write_text(sites)
        environ["OFFLOAD_CONFIG"] = str(config)
    try:
        yield Place(folder, environ)
    finally:
        stop_service(environ)


def connection_file(environ: dict[str, str]) -> Path:
    """Return where the service of this place writes how to reach it."""
    return Path(environ["JUPYTER_RUNTIME_DIR"]) / "jupyter-offload" / "service.json"


def stop_service(environ: dict[str, str], *, how: signal.Signals = signal.SIGTERM) -> None:
    """End the service of this place, if it runs, and wait for its end."""
    try:
        pid = int(json.loads(connection_file(environ).read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return
    try:
        os.kill(pid, how)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
            time.sleep(0.05)
    except ProcessLookupError:
        return


def pool_sites(console: Console) -> str:
    """Build what is missing, start the pool `demo`, and return a sites.yaml for it."""
    console.print(
        "[dim]HTCondor pool: central manager, submit and two execute nodes, from one image that is built here on first use …[/dim]"
    )
    image = (
        subprocess.run([SCIENCE, "12"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip().splitlines()[-1]
    )
    subprocess.run(
        [POOL, "up", "--name", "demo", "--execute", "2", "--slots", "4", "--config", "fast"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    about = json.loads(
        subprocess.run([POOL, "describe", "--json", "--name", "demo"], check=True, stdout=subprocess.PIPE).stdout
    )
    token = ROOT / "build" / "pool-token" / "alice"
    token.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    subprocess.run([POOL, "token", "alice", "--name", "demo", "--file", token], check=True, stdout=subprocess.DEVNULL)
    site = {
        "batch": {
            "type": "condor",
            "collector": about["collector"],
            "schedd": about["schedd"],
            "token_file": str(token),
        },
        "runtime": "apptainer",
        "images": {"science": {"ref": f"/images/{Path(image).name}", "python": "3.11"}},
        "limits": {"cpus": 4, "memory": "8GiB", "time": "1h"},
    }
    return json.dumps({"default": "pool", "sites": {"pool": site}}, indent=2)  # JSON is YAML


class Reporter:
    """Prints a row for each code cell when it ends."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.failed: list[int] = []
        self._begun: dict[int, float] = {}

    def begins(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        """Note the time."""
        if cell.cell_type == "code":
            self._begun[cell_index] = time.monotonic()

    def ends(self, cell: nbformat.NotebookNode, cell_index: int, **_: object) -> None:
        """Print what the cell did."""
        if cell.cell_type != "code":
            return
        seconds = time.monotonic() - self._begun[cell_index]
        first = next((line for line in cell.source.splitlines() if line.strip()), "")
        errors = [output for output in cell.outputs if output.output_type == "error"]
        deliberate = "raises-exception" in cell.metadata.get("tags", [])
        if errors and not deliberate:
            self.failed.append(cell_index)
            mark = "[red]✗[/red]"
        else:
            mark = "[yellow]![/yellow]" if errors else "[green]✓[/green]"
        self.console.print(f"{mark} [dim]{seconds:5.1f} s[/dim]  {escape(first[:100])}", highlight=False)
        said = errors[0].ename + ": " + errors[0].evalue.splitlines()[0] if errors else _last_text(cell)
        if said:
            self.console.print(f"           [dim]{escape(said[:130])}[/dim]", highlight=False)


def _last_text(cell: nbformat.NotebookNode) -> str:
    for output in reversed(cell.outputs):
        data = output.get("data", {})
        if MIME in data:
            continue
        if "image/png" in data:
            return "a figure"
        text = output.get("text") or data.get("text/plain") or ""
        lines = [line for line in text.splitlines() if line.strip()]
        if lines:
            return str(lines[-1]).strip()
    return ""


def execute(notebook: Path, where: Place, console: Console, timeout: int) -> tuple[Path, Reporter]:
    """Execute the notebook in its place; return the executed copy and what happened."""
    for companion in sorted(notebook.parent.glob("*.ipynb")):
        shutil.copy(companion, where.folder)
    book = nbformat.read(notebook, as_version=4)
    reporter = Reporter(console)
    manager = KernelManager(kernel_name="python3")
    client = NotebookClient(
        book,
        km=manager,
        timeout=timeout,
        allow_errors=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(where.folder)}},
        on_cell_execute=reporter.begins,
        on_cell_executed=reporter.ends,
    )
    client.execute(env=where.environ)
    executed = where.folder / f"{notebook.stem}.executed.ipynb"
    nbformat.write(book, executed)
    page, _ = HTMLExporter().from_notebook_node(book)
    executed.with_suffix(".html").write_text(page)
    return executed, reporter


def jobs_table(where: Place) -> Table:
    """Ask the service for its jobs and draw them."""
    listed = subprocess.run(
        [sys.executable, "-m", "jupyter_offload.cli", "list", "--json"],
        env=where.environ,
        check=True,
        stdout=subprocess.PIPE,
    )
    data = json.loads(listed.stdout)
    table = Table("job", "kind", "site", "state", "duration", "result", box=None, header_style="bold", pad_edge=False)
    for job in sorted(data["jobs"] if isinstance(data, dict) else data, key=lambda job: job["request"]["created"]):
        task = job["tasks"][0]
        seconds = f"{task['finished'] - task['started']:.1f} s" if task["finished"] and task["started"] else ""
        colour = {"succeeded": "green", "failed": "red", "cancelled": "yellow"}.get(job["state"], "cyan")
        brought = ", ".join([*job["request"]["outputs"], *job["files"]]) or job["reason"]
        table.add_row(
            f"{job['name']}-{job['id'][:4]}",
            job["request"]["kind"],
            job["site"],
            f"[{colour}]{job['state']}[/{colour}]",
            seconds,
            escape(brought[:60]),
        )
    return table


RESTART_FIRST = """
import os, json, signal
import jupyter_offload as offload
def slow_square(x):
    import time
    time.sleep(3)
    return x * x
job = offload.submit(slow_square, 12)
import time
while str(job.state) in ("preparing", "queued"):
    time.sleep(0.05)
print(job.id)
"""
RESTART_SECOND = """
import sys
import jupyter_offload as offload
print(offload.get(sys.argv[1]).result(timeout=180))
"""


def restart_scene(where: Place, console: Console) -> bool:
    """Submit; kill the submitting process and the service; start again; the value is there."""
    console.print(
        "\n[bold]The restart scene[/bold]: submit, kill −9 the kernel and the service while the job runs, start both again"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", RESTART_FIRST + "\nimport time; time.sleep(600)"],
        env=where.environ, cwd=where.folder, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert first.stdout is not None
    job_id = first.stdout.readline().strip()
    first.kill()
    first.wait()
    first.stdout.close()
    stop_service(where.environ, how=signal.SIGKILL)
    console.print(f"  killed kernel and service; job {job_id[:4]} goes on")
    second = subprocess.run(
        [sys.executable, "-c", RESTART_SECOND, job_id],
        env=where.environ,
        cwd=where.folder,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    good = second.stdout.strip() == "144"
    console.print(
        f"  offload.get({job_id[:4]!r}).result() → {second.stdout.strip() or 'nothing'} {'[green]✓[/green]' if good else '[red]✗[/red]'}"
    )
    return good


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--site", choices=["local", "pool"], default="local")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "demo")
    parser.add_argument("--timeout", type=int, default=600, help="seconds for one cell")
    options = parser.parse_args(arguments)
    console = Console(width=140 if not sys.stdout.isatty() else None)
    begun = time.monotonic()
    sites = pool_sites(console) if options.site == "pool" else None
    with place(options.build, sites) as where:
        console.print(f"[bold]{options.notebook.name}[/bold] on site [bold]{options.site}[/bold]\n")
        executed, reporter = execute(options.notebook, where, console, options.timeout)
        console.print("\n[bold]Jobs[/bold]")
        console.print(jobs_table(where))
        survived = restart_scene(where, console)
        console.print(f"\nexecuted notebook  {executed}\nas a page          {executed.with_suffix('.html')}")
        console.print(f"[dim]{time.monotonic() - begun:.0f} s in all[/dim]")
    if options.site == "pool":
        console.print("[dim]The pool `demo` keeps running; `make pool-down` ends it.[/dim]")
    for index in reporter.failed:
        console.print(f"[red]cell {index} failed[/red]")
    return 0 if survived and not reporter.failed else 1


if __name__ == "__main__":
    sys.exit(main())
