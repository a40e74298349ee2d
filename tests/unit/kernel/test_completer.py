from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from jupyter_offload.errors import ServiceUnreachable
from jupyter_offload.job import Job, Kind, Request
from jupyter_offload.kernel import completer as module
from jupyter_offload.kernel.completer import Completer

SITES = [
    {"name": "local", "images": []},
    {"name": "pool", "images": [{"name": "science"}, {"name": "slim"}], "gpus": [{"model": "A100"}]},
]


class Service:
    """Answers as told: slowly, or not at all, which a real service cannot be made to."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.before = before
        self.calls = 0

    def sites(self) -> list[dict[str, Any]]:
        self.calls += 1
        self.before()
        return SITES

    def jobs(self, *, limit: int) -> tuple[int, list[Job], list[str]]:
        self.calls += 1
        self.before()
        return 1, [Job(Request(id="7f3a" + "0" * 28, name="svm", kind=Kind.CELL), "me", "local")], []


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    shell = InteractiveShell()
    shell.user_ns.update(xs=1, xylophone=2, other=3)
    yield shell
    atexit.unregister(shell.atexit_operations)
    shell.atexit_operations()


def offered(shell: InteractiveShell, line: str, service: Service | None = None) -> list[str]:
    completer = Completer(service or Service())  # type: ignore[arg-type]
    for command in ("%%offload", "%offload"):
        shell.set_hook("complete_command", completer, str_key=command)
    return list(shell.complete("", line, len(line))[1])


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # IPython's own, for the call that it still serves
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%%offload --s", ["--secret", "--site"]),
        ("%%offload --cpus 2 --gp", ["--gpus"]),
        ("%%offload --site ", ["local", "pool"]),
        ("%%offload --site po", ["pool"]),
        ("%%offload --image s", ["science", "slim"]),
        ("%%offload --site pool --image sl", ["slim"]),
        ("%%offload --gpus A", ["A100:1"]),
        ("%offload log", ["logs"]),
        ("%offload logs s", ["svm-7f3a"]),
        ("%offload cancel svm", ["svm-7f3a"]),
        ("%offload doctor p", ["pool"]),
        ("%offload run --no", ["--no-rerun"]),
        ("%offload logs svm-7f3a --f", ["--follow"]),
    ],
)
def test_tab(shell: InteractiveShell, line: str, expected: list[str]) -> None:
    assert offered(shell, line) == expected


def test_names_of_the_notebook_after_a_comma(shell: InteractiveShell) -> None:
    completer = Completer(Service())  # type: ignore[arg-type]
    assert list(completer.complete(["-i"], "other,x", shell, cell=True)) == ["other,xs", "other,xylophone"]
    assert "auto" in completer.complete(["-i"], "", shell, cell=True)
    assert list(completer.complete(["--site", "local", "--image"], "s", shell, cell=True)) == []
    assert "auto" not in completer.complete(["-o"], "", shell, cell=True)


def test_a_slow_service_is_not_waited_for(shell: InteractiveShell) -> None:
    completer = Completer(Service(lambda: time.sleep(1)))  # type: ignore[arg-type]
    begun = time.monotonic()
    assert list(completer.complete(["--site"], "", shell, cell=True)) == []
    assert time.monotonic() - begun < 0.6
    time.sleep(1.1)
    assert list(completer.complete(["--site"], "", shell, cell=True)) == ["local", "pool"]


def test_a_missing_service_completes_nothing_of_its_own(shell: InteractiveShell) -> None:
    def gone() -> None:
        raise ServiceUnreachable("no service")

    assert list(Completer(Service(gone)).complete(["--site"], "", shell, cell=True)) == []  # type: ignore[arg-type]


def test_answers_are_kept_for_a_while(shell: InteractiveShell) -> None:
    service = Service()
    completer = Completer(service)  # type: ignore[arg-type]
    for _ in range(5):
        completer.complete(["--site"], "", shell, cell=True)
    assert service.calls == 1
    assert module.FRESH_SECONDS > 0
