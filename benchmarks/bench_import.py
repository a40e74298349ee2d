"""What `import jupyter_offload` costs in a fresh process, beyond the bare interpreter, and which heavy packages came with it."""

from __future__ import annotations

import subprocess
import sys
import time

from figures import Figure, Table, middle, spread

HEAVY = ("jupyter_server", "kubernetes", "htcondor2", "pydantic", "numpy", "pandas", "tornado", "IPython")
USES = {
    "import jupyter_offload": "import jupyter_offload",
    "…, and the names of the API": "import jupyter_offload as o; o.submit, o.options, o.Job, o.Executor",
    "…, and %load_ext": "import jupyter_offload as o; o.load_ipython_extension",
    "import IPython (for scale)": "import IPython",
}


def _seconds(code: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begun


def heavy(code: str) -> list[str]:
    """Return which of `HEAVY` are loaded after ``code``."""
    text = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", text], check=True, stdout=subprocess.PIPE, text=True).stdout.split()


def measure(rounds: int) -> tuple[list[Figure], Table]:
    """Measure in turns with the bare interpreter."""
    taken: dict[str, list[float]] = {name: [] for name in ("pass", *USES)}
    for code in USES.values():
        _seconds(code)  # compiled and in the page cache
    for _ in range(rounds):
        taken["pass"].append(_seconds("pass"))
        for name, code in USES.items():
            taken[name].append(_seconds(code))
    bare = middle(taken["pass"])
    rows = [["", "beyond the bare interpreter", "heavy packages loaded"]]
    for name, code in USES.items():
        beyond = [value - bare for value in taken[name]]
        rows.append(
            [
                f"`{name}`" if name.startswith("import") else name,
                spread(beyond, "ms", 1e3, 1),
                ", ".join(heavy(code)) or "none",
            ]
        )
    beyond = [value - bare for value in taken["import jupyter_offload"]]
    found = heavy("import jupyter_offload")
    figure = Figure(
        "`import jupyter_offload`, and no heavy package with it",
        "≤ 60 ms, none",
        f"{spread(beyond, 'ms', 1e3, 1)}, {', '.join(found) or 'none'}",
        middle(beyond) <= 0.06 and not found,
    )
    return [figure], Table("Import", rows, f"Bare interpreter: {spread(taken['pass'], 'ms', 1e3, 1)}.")
