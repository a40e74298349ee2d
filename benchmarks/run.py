"""Measure every figure in one run, beside raw HTCondor in the same mode, and write docs/performance.md: `make bench`.

    python benchmarks/run.py [--quick] [--only capture,translate,import,blackhole,local,fast,default] [--output FILE]

It starts the pools that it needs (names beginning `bench`) and ends them. ``--quick`` is a smoke test: few rounds, no pool, nothing
written.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_blackhole
import bench_capture
import bench_cell
import bench_import
import bench_translate
from figures import Figure, Report, Table, middle, spread
from place import HERE, as_user, place

ROOT = HERE.parent
POOL = ROOT / "containers" / "htcondor" / "pool"
SCIENCE = ROOT / "containers" / "science" / "build"
DOCUMENT = ROOT / "docs" / "performance.md"
SHARE = Path(f"/srv/jupyter_offload-bench-{os.getpid()}")
"""The shared disk of the pools; not below /tmp or /root, which HTCondor jobs do not see."""
USER, USER_ID = "alice", 1001
"""As whom jobs run in the pool; with a shared filesystem the service must be the same user."""
PARTS = ("capture", "translate", "import", "blackhole", "local", "fast", "default")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    quick: bool
    only: tuple[str, ...]

    def rounds(self, full: int, quick: int = 2) -> int:
        """Return the number of rounds."""
        return quick if self.quick else full


# -- pools -------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """A running pool and an image that its worker nodes have."""

    about: dict[str, Any]
    image: str
    token: Path

    def told(self, *, shared: bool) -> dict[str, Any]:
        """Return what a client must know."""
        return {
            "collector": self.about["collector"],
            "schedd": self.about["schedd"],
            "token_file": str(self.token),
            "shared": shared,
        }

    def sites(self, *, shared: bool) -> dict[str, Any]:
        """Return a sites.yaml for it."""
        batch = {
            "type": "condor",
            "collector": self.about["collector"],
            "schedd": self.about["schedd"],
            "token_file": str(self.token),
            "filesystem": "shared" if shared else "spool",
        }
        site = {
            "batch": batch,
            "runtime": "apptainer",
            "images": {"science": {"ref": self.image, "python": _minor(self.image)}},
        }
        return {"default": "pool", "sites": {"pool": site}}

    def knobs(self) -> str:
        """Return the cycles in force."""
        return _output(POOL, "config", "--name", self.about["name"]).strip()


def _minor(image: str) -> str:
    return "3.11" if image.endswith("12") else "3.13"


def _output(*argv: str | Path) -> str:
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(str(word) for word in argv)}: {done.stderr.strip()[-2000:]}")
    return done.stdout


@contextmanager
def pool(name: str, config: str, image: str) -> Iterator[Pool]:
    """Start a pool, and end it."""
    _output(POOL, "down", "--time", "1", "--name", name)
    options = ("--config", "fast", "--execute", "2", "--slots", "4", "--share", str(SHARE))
    try:
        about = json.loads(_output(POOL, "up", "--json", "--name", name, *options))
        if config != "fast":
            # Started fast all the same: with the default cycles a daemon that came up before the collector is heard of minutes later.
            _output(POOL, "config", config, "--name", name)
        token = SHARE / f"{name}-token" / "token"
        shutil.rmtree(token.parent, ignore_errors=True)
        token.parent.mkdir(mode=0o700)
        _output(POOL, "token", USER, "--name", name, "--file", token)
        for path in (token.parent, token):
            os.chown(path, USER_ID, USER_ID)
        yield Pool(about, image, token)
    finally:
        _output(POOL, "down", "--time", "3", "--name", name)


def why_no_pool() -> str | None:
    """Return why this machine cannot measure pools, or None."""
    if os.geteuid() != 0:
        return "a pool needs root"
    if not any(shutil.which(engine) for engine in ("podman", "docker")) or not shutil.which("mmdebstrap"):
        return "a pool needs podman or docker, and mmdebstrap"
    if shutil.which("setpriv") is None:
        return "measuring as the pool's user needs setpriv (util-linux)"
    seen = subprocess.run(
        [*as_user(USER_ID), sys.executable, "-c", "import jupyter_offload, htcondor2, IPython"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return f"the pool's user cannot import what it needs: {seen.stderr.strip()[-200:]}" if seen.returncode else None


# -- parts -------------------------------------------------------------------------------------------------------------------------------


def measure_local(report: Report, settings: Settings) -> None:
    """Cells on the local site."""
    with place(ROOT / "build" / "bench" / "local", None) as where:
        rounds, first, python = bench_cell.local(where, settings.rounds(10))
    note = (
        f"First cell of the kernel, with the start of the service: {first:.2f} s. Kernel's Python {python}, which also runs the cell. "
        "Times are by the clock of this machine; a step that runs beside another shows only what it adds."
    )
    taken = [one["result"] for one in rounds]
    report.tables.append(
        bench_cell.steps(f"A no-op cell on the local site: {spread(taken)}, where the time goes", rounds, note)
    )
    print(f"  local no-op cell {spread(taken)}", flush=True)
    with place(ROOT / "build" / "bench" / "local", None) as where:
        figures, table = bench_cell.blocking(where, settings.rounds(12))
    for figure in figures:
        report.add(figure)
    report.tables.append(table)


def measure_fast(report: Report, settings: Settings, image: str) -> None:
    """Cells and 1,000 Pods on the fast pool, plain and spooled."""
    with pool("bench-fast", "fast", image) as running:
        report.tables.append(_knobs("Fast pool", running))
        for shared in (True, False):
            mode = "plain (shared filesystem)" if shared else "spool"
            told = running.told(shared=shared)
            with place(SHARE / "fast", running.sites(shared=shared), USER_ID) as where:
                found = bench_cell.cold(
                    where, told, f"No-op cell, fast pool, {mode}", rounds=settings.rounds(14), jitter_seconds=1.0
                )
            report.tables += [
                bench_cell.summary(found),
                bench_cell.steps(f"The same cells, step by step ({mode})", found.ours),
            ]
            limit = 0.4 if shared else 0.5
            report.add(
                Figure(
                    f"Cold no-op cell, fast pool, {mode}: beyond raw",
                    f"≤ {limit * 1e3:.0f} ms" + ("" if shared else " + the transfer"),
                    f"{found.beyond * 1e3:+,.0f} ms (client's own part {found.client_beyond * 1e3:+,.0f} ms)",
                    found.beyond <= limit,
                )
            )
            report.add(Figure(f"The same as a ratio, {mode}", "≤ 1.20", f"{found.ratio:.3f}", found.ratio <= 1.2))
            with place(SHARE / "many", None, USER_ID) as where:
                _many(report, settings, where, told, mode)


def _many(report: Report, settings: Settings, where: Any, told: dict[str, Any], mode: str) -> None:
    process = where.start(str(HERE / "bench_condor.py"))
    sizes = [1, 100, 1000] if not settings.quick else [1, 10]
    out, _ = process.communicate(json.dumps({"told": told, "rounds": settings.rounds(3), "sizes": sizes}) + "\n")
    if process.returncode:
        raise RuntimeError(f"bench_condor.py ended with {process.returncode}")
    found = json.loads(out)
    many = found["many"]
    raw = [one["raw"] for one in many]
    ours = [one["batch"] + one["start"] for one in many]
    whole = [one["site"] + one["start"] for one in many]
    written = [one["site"] - one["batch"] for one in many]
    submits = max(one["submits"] for one in many)
    count = f"{sizes[-1]:,}"
    ratio, all_ratio = middle(ours) / middle(raw), middle(whole) / middle(raw)
    report.add(
        Figure(
            f"{count} Pods in one call, {mode}: schedd submits",
            "≤ 3",
            f"{submits} ({many[0]['clusters']} cluster)",
            submits <= 3,
        )
    )
    report.add(
        Figure(
            f"{count} Pods in one call, {mode}: time against one raw submission",
            "≤ 1.3",
            f"{ratio:.2f} ({all_ratio:.2f} with translating and writing {count} scripts)",
            ratio <= 1.3,
            "raw: `submit` with itemdata (and `spool`) of the same scripts, already written; ours: hand over and make runnable.",
        )
    )
    rows = [
        ["", "seconds", "against raw"],
        [f"raw: one submission of {count} procs", spread(raw), "1"],
        [
            "ours: hand over",
            spread([one["batch"] for one in many]),
            f"{middle([o['batch'] for o in many]) / middle(raw):.2f}",
        ],
        [
            "ours: make runnable",
            spread([one["start"] for one in many]),
            f"{middle([o['start'] for o in many]) / middle(raw):.2f}",
        ],
        ["ours: both", spread(ours), f"{ratio:.2f}"],
        [f"ours: translate and write {count} scripts", spread(written), f"{middle(written) / middle(raw):.2f}"],
        ["ours: all", spread(whole), f"{all_ratio:.2f}"],
    ]
    report.tables.append(Table(f"{count} Pods in one call, {mode}", rows))
    rows = [["jobs", "schedd queries a sweep", "ours", "raw query of the same attributes"]]
    queries: set[int] = set()
    for size, look in found["looks"].items():
        queries |= set(look["queries"])
        cells = [spread(look[side], "ms", 1e3, 1) for side in ("ours", "raw")]
        rows.append([f"{int(size):,}", ", ".join(str(n) for n in look["queries"]), *cells])
    report.tables.append(Table(f"One sweep, {mode}", rows))
    report.add(
        Figure(
            f"Schedd queries a sweep, {mode}",
            "1 at " + ", ".join(f"{size:,}" for size in sizes) + " jobs",
            ", ".join(str(n) for n in sorted(queries)),
            queries == {1},
        )
    )


class Default(threading.Thread):
    """Cells on pools with HTCondor's default cycles: minutes of waiting, so it runs beside everything else."""

    def __init__(self, settings: Settings, image: str, *, shared: bool) -> None:
        self.mode = "plain (shared filesystem)" if shared else "spool"
        super().__init__(name=f"default, {self.mode}")
        self._settings, self._image, self._shared = settings, image, shared
        self.found: bench_cell.Rounds | None = None
        self.knobs: Table | None = None
        self.problem: BaseException | None = None

    def run(self) -> None:
        """Measure on a pool of its own."""
        name = "bench-plain" if self._shared else "bench-spool"
        try:
            with pool(name, "default", self._image) as running:
                self.knobs = _knobs("Default pools", running)
                told = running.told(shared=self._shared)
                with place(SHARE / name, running.sites(shared=self._shared), USER_ID) as where:
                    title = f"No-op cell, default pool, {self.mode}"
                    rounds = self._settings.rounds(3, 1)
                    self.found = bench_cell.cold(where, told, title, rounds=rounds, jitter_seconds=60.0, seed=len(name))
        except BaseException as problem:
            self.problem = problem

    def report(self, report: Report) -> None:
        """Wait for it and take in what it found."""
        self.join()
        if self.problem is not None or self.found is None:
            raise RuntimeError(f"{self.name}: {self.problem!r}") from self.problem
        found = self.found
        report.tables.append(bench_cell.summary(found))
        raw = middle(found.of("raw", "result"))
        client = (raw + found.client_beyond) / raw
        report.add(
            Figure(
                f"Cold no-op cell, default pool, {self.mode}: ratio",
                "≤ 1.05",
                f"{client:.3f} (by the client's own part; {found.ratio:.2f} by totals, n={len(found.ours)})",
                client <= 1.05,
                "totals of a few jobs on a default pool are those of the negotiation cycle's phase (0–60 s); the ratio that counts "
                "adds to raw's median what our client takes beyond raw before a job is runnable and after its script has ended.",
            )
        )


def _knobs(title: str, running: Pool) -> Table:
    rows = [["knob", "value"]]
    for line in running.knobs().splitlines():
        knob, _, value = line.partition(" ")
        rows.append([knob, value.strip() or "not set"])
    return Table(f"{title}: cycles in force", rows)


def machine() -> Table:
    """Return what the figures were measured on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "?",
    )
    memory = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, check=False
    )
    packages = ("jupyter_offload", "htcondor", "ipython", "jupyter_server", "numpy")
    rows = [
        ["", ""],
        ["when", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())],
        ["commit", commit.stdout.strip() or "none"],
        ["machine", f"{os.cpu_count()} cores, {cpu}, {memory / 1e6:.0f} GB, Linux {platform.release()}"],
        ["load average before", " ".join(f"{load:.1f}" for load in os.getloadavg())],
        ["Python", platform.python_version()],
        ["packages", ", ".join(f"{name} {_version(name)}" for name in packages)],
    ]
    return Table("Machine and versions", rows)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


# -- all ---------------------------------------------------------------------------------------------------------------------------------


def measure(settings: Settings) -> Report:
    """Measure what the settings ask for."""
    report = Report()
    report.tables.append(machine())
    reason = why_no_pool() if {"fast", "default"} & set(settings.only) else None
    image = ""
    slow: list[Default] = []
    if reason is None and {"fast", "default"} & set(settings.only):
        SHARE.mkdir(mode=0o1777, exist_ok=True)
        image = f"/images/{Path(_output(SCIENCE, '12').strip().splitlines()[-1]).name}"
        if "default" in settings.only:
            slow = [Default(settings, image, shared=shared) for shared in (True, False)]
            for one in slow:
                one.start()
                time.sleep(5)  # two pools are not built at the same moment
    elif reason is not None:
        report.add(Figure("Everything that needs a pool", "", reason, None))
    try:
        _quick_parts(report, settings)
        if "local" in settings.only:
            measure_local(report, settings)
        if "fast" in settings.only and reason is None:
            measure_fast(report, settings, image)
    finally:
        for one in slow:
            one.join()
        if image:
            shutil.rmtree(SHARE, ignore_errors=True)
    for number, one in enumerate(slow):
        one.report(report)
        if number == 0 and one.knobs is not None:
            report.tables.append(one.knobs)
    return report


def _quick_parts(report: Report, settings: Settings) -> None:
    parts: dict[str, Any] = {
        "capture": lambda: bench_capture.measure(settings.rounds(50, 5)),
        "translate": lambda: bench_translate.measure(settings.rounds(15, 3)),
        "import": lambda: bench_import.measure(settings.rounds(20, 3)),
        "blackhole": lambda: bench_blackhole.measure(settings.rounds(3, 1)),
    }
    for name, part in parts.items():
        if name in settings.only:
            figures, tables = part()
            for figure in figures:
                report.add(figure)
            report.tables += tables if isinstance(tables, list) else [tables]


def write(report: Report, document: Path) -> None:
    """Put what was measured between the document's marks; what was written by hand around them stays."""
    text = document.read_text(encoding="utf-8")
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise SystemExit(f"{document} has no marks {BEGIN} … {END}")
    document.write_text(f"{before}{BEGIN}\n\n{report.markdown()}\n\n{END}{after}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit code: a missed figure is told, it is not a failure of the run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few rounds and no pool")
    parser.add_argument("--only", default="", help=f"parts, of {','.join(PARTS)}")
    parser.add_argument("--output", type=Path, help="write the tables here instead of docs/performance.md")
    given = parser.parse_args(arguments)
    only = tuple(given.only.split(",")) if given.only else PARTS[: 5 if given.quick else None]
    if unknown := set(only) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}")
    begun = time.monotonic()
    report = measure(Settings(given.quick, only))
    text = report.markdown()
    print(f"\n{text}\n\n{time.monotonic() - begun:.0f} s in all")
    if given.output is not None:
        given.output.write_text(text + "\n", encoding="utf-8")
    elif not given.quick and only == PARTS:
        write(report, DOCUMENT)
        print(f"written: {DOCUMENT}")
    missed = [one.name for one in report.figures if one.reached is False]
    print("missed: " + "; ".join(missed) if missed else "every figure that was measured is reached")
    return 0


if __name__ == "__main__":
    sys.exit(main())
