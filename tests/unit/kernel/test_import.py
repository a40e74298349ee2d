from __future__ import annotations

import json
import subprocess
import sys

import jupyter_offload

HEAVY = ["jupyter_server", "kubernetes", "htcondor2", "pydantic", "numpy", "pandas", "IPython", "tornado", "jinja2"]


def loaded(code: str) -> list[str]:
    ask = f"import json, sys; {code}; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", ask], check=True, stdout=subprocess.PIPE, text=True)
    return list(json.loads(done.stdout))


def test_importing_loads_nothing_heavy() -> None:
    assert loaded("import jupyter_offload") == []


def test_the_python_interface_loads_nothing_heavy() -> None:
    assert loaded("import jupyter_offload as offload; offload.submit; offload.Executor; offload.Job; offload.get") == []


def test_all_is_closed_and_every_name_is_there() -> None:
    assert sorted(jupyter_offload.__all__) == [
        "Executor",
        "Job",
        "Offload",
        "__version__",
        "get",
        "jobs",
        "load_ipython_extension",
        "options",
        "run",
        "submit",
        "unload_ipython_extension",
        "wait",
    ]
    for name in jupyter_offload.__all__:
        assert getattr(jupyter_offload, name) is not None
    assert not hasattr(jupyter_offload, "submti")
