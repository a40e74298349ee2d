"""The captured names agree with real execution."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable

from . import oracle, programs
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from jupyter_offload.payload.names import free_names


def judge(source: str, make: Callable[[], dict[str, object]]) -> None:
    """Compare the analysis with execution, for each name of the namespace.

    No name whose absence raises `NameError`, even a caught one, may be missing from the loads. A name that is reported
    too many must not have been read: its place was not reached, or the cell binds it before on this path.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # generated programs hold SyntaxWarnings and coroutines nobody awaits
        found = {load.name: load for load in free_names(source).loads}
        baseline = oracle.execute(source, make(), places=True)
        for name in make():
            run = oracle.missing(source, make, name)
            if name in run.raised - baseline.raised:
                assert name in found, f"{name} raises {run.escaped!r} and is not captured"
            load = found.get(name)
            if load is None or name in run.raised or not oracle.POSITIONS:
                continue
            if load.kind == "required":
                place = (load.line, load.line, load.column, load.column + len(name.encode()))
                assert place not in baseline.reached, f"{name} is read at {load.line}:{load.column} and was not needed there"


@settings(
    max_examples=250,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(programs.programs(), st.integers(0, 1000))
def test_made_programs(source: str, seed: int) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        assume(False)
    for offset in range(3):
        judge(source, lambda offset=offset: programs.world(seed + offset))
