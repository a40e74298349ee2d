from __future__ import annotations

import stat
from pathlib import Path

import pytest

from jupyter_offload.errors import UsageError
from jupyter_offload.kernel.options import make_options
from jupyter_offload.kernel.prepare import (
    Origin,
    Prepared,
    prepare_call,
    prepare_cell,
    prepare_command,
    prepare_notebook,
)
from jupyter_offload.payload.bundle import Bundle


def cell(
    source: str, folder: Path, namespace: dict[str, object], origin: Origin | None = None, **options: object
) -> Prepared:
    return prepare_cell(
        source,
        make_options(**options),  # type: ignore[arg-type]
        transformed=source,
        user_ns=namespace,
        hidden=(),
        origin=origin or Origin("nb.ipynb", "c1"),
        filename="<offload cell In[1]>",
        folder=folder,
    )


def test_a_cells_bundle_holds_what_it_needs_and_is_private(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2")
    (tmp_path / "token").write_text("hunter2")
    made = cell("y = x + 1", tmp_path, {"x": 1, "unused": 2}, outputs=("y",), files="data.csv", secrets={"T": "token"})
    with made.bundle() as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        bundle = Bundle.open(path)
        assert {(part.role, part.name) for part in bundle.parts} == {
            ("value", "x"),
            ("file", "data.csv"),
            ("secret", "T"),
        }
        assert bundle.request.inputs == ("x",)
        assert bundle.request.outputs == ("y",)
        assert bundle.key is not None
        assert "hunter2" not in str(bundle.header)
    assert not path.exists()
    assert made.size_bytes == sum(item.size_bytes for item in made.request.ships) > 0


def test_twins_are_alike_and_nothing_else_is(tmp_path: Path) -> None:
    def of(source: str = "y = x", value: object = 1, origin: Origin | None = None, **options: object) -> str | None:
        return cell(source, tmp_path, {"x": value}, origin, **options).request.fingerprint

    first = of()
    assert first == of()
    others = [
        of("y = x  "),
        of(value=2),
        of(value=True),
        of(origin=Origin("nb.ipynb", "c2")),
        of(cpus=2),
        of(outputs=("y",)),
    ]
    assert len({first, *others}) == 7


def test_a_call_is_never_a_twin(tmp_path: Path) -> None:
    made = prepare_call(len, ([1],), {}, make_options(), user_ns={}, folder=tmp_path)
    assert made.request.fingerprint is None
    assert made.request.name == "len"


def test_what_only_this_python_can_open_says_so(tmp_path: Path) -> None:
    class Own:
        pass

    Own.__module__ = "__main__"
    assert cell("x", tmp_path, {"x": [Own()]}).request.needs_equal_python
    assert not cell("x", tmp_path, {"x": [1]}).request.needs_equal_python


def test_a_command_is_words_not_text(tmp_path: Path) -> None:
    made = prepare_command(["/bin/My Tool", "$HOME; rm -rf /"], make_options(), origin=None, folder=tmp_path)
    assert made.request.command == ("/bin/My Tool", "$HOME; rm -rf /")
    assert made.request.name == "my-tool"
    with pytest.raises(UsageError):
        prepare_command([], make_options(), origin=None, folder=tmp_path)
    with pytest.raises(UsageError):
        prepare_command(["x"], make_options(pip="numpy"), origin=None, folder=tmp_path)


def test_a_notebook_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text("[]")
    with pytest.raises(UsageError, match=r"a\.ipynb"):
        prepare_notebook(tmp_path / "a.ipynb", make_options(), {}, origin=None, folder=tmp_path)
