"""User modules travel as source; nothing of theirs is run to find that out."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from jupyter_offload.errors import CaptureError
from jupyter_offload.payload.modules import Limits, SourceFile, user_modules

EXPLODES = "raise RuntimeError('imported while being looked for')\n"


def make(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def find(folder: Path, *names: str, limits: Limits | None = None) -> list[SourceFile]:
    return user_modules(names, sys_modules={}, sys_path=[str(folder)], limits=limits)


def paths(files: list[SourceFile]) -> list[str]:
    return [file.path for file in files]


def test_a_single_module_and_what_it_imports(tmp_path: Path) -> None:
    make(
        tmp_path,
        {
            "fit.py": EXPLODES + "import os, tools.lines\ndef f():\n    from later import x\n",
            "tools/__init__.py": "",
            "tools/lines.py": "from . import other\nfrom .. import nothing\n",
            "tools/other.py": "import deep",
            "later.py": "x = 1",
            "deep.py": "import fit",
            "unused.py": "",
        },
    )
    found = find(tmp_path, "fit")
    assert paths(found) == ["deep.py", "fit.py", "later.py", "tools/__init__.py", "tools/lines.py", "tools/other.py"]
    assert found[1].data == (tmp_path / "fit.py").read_bytes()
    assert found[1].origin == tmp_path / "fit.py"
    assert [file.module for file in found] == ["deep", "fit", "later", "tools", "tools", "tools"]


def test_what_travels_can_be_imported_elsewhere(tmp_path: Path) -> None:
    make(
        tmp_path / "here",
        {
            "analysis/__init__.py": "from .core import run",
            "analysis/core.py": "from helpers import K\nfrom pathlib import Path\n"
            "def run():\n    return K + int(Path(__file__).with_name('n.txt').read_text())\n",
            "analysis/n.txt": "2",
            "helpers.py": "K = 40",
        },
    )
    there = tmp_path / "there"
    for file in find(tmp_path / "here", "analysis.core"):
        target = there / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.data)
    code = "import analysis.core; print(analysis.core.run())"
    done = subprocess.run([sys.executable, "-c", code], cwd=there, capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"


def test_a_package_comes_whole_without_what_is_hidden_compiled_or_large(tmp_path: Path) -> None:
    make(
        tmp_path,
        {
            "pkg/__init__.py": "",
            "pkg/sub/deep/mod.py": "",
            "pkg/table.csv": "1,2",
            "pkg/large.bin": "x" * 2000,
            "pkg/fast.so": "",
            "pkg/__pycache__/mod.pyc": "",
            "pkg/.git/config": "",
            "pkg/.hidden.py": "",
            "outside.txt": "secret",
        },
    )
    (tmp_path / "pkg/out.txt").symlink_to(tmp_path / "outside.txt")
    (tmp_path / "pkg/out").symlink_to(tmp_path)
    (tmp_path / "pkg/inside.csv").symlink_to(tmp_path / "pkg/table.csv")
    found = find(tmp_path, "pkg", limits=Limits(data_bytes=1000))
    assert paths(found) == ["pkg/__init__.py", "pkg/inside.csv", "pkg/sub/deep/mod.py", "pkg/table.csv"]


def test_a_namespace_package_has_several_folders(tmp_path: Path) -> None:
    make(tmp_path / "one", {"space/a.py": "import extra", "space/raw/events.dat": "x"})
    make(tmp_path / "two", {"space/b.py": "", "extra.py": ""})
    found = user_modules(["space.a"], sys_modules={}, sys_path=[str(tmp_path / "one"), str(tmp_path / "two")])
    assert paths(found) == ["extra.py", "space/a.py", "space/b.py"]


def test_loaded_modules_come_first(tmp_path: Path) -> None:
    make(tmp_path / "loaded", {"mine.py": "A = 1"})
    make(tmp_path / "path", {"mine.py": "A = 2"})
    module = types.ModuleType("mine")
    module.__file__ = str(tmp_path / "loaded/mine.py")
    (found,) = user_modules([module], sys_modules={"mine": module}, sys_path=[str(tmp_path / "path")])
    assert found.data == b"A = 1"


def test_installed_and_builtin_modules_stay(tmp_path: Path) -> None:
    make(tmp_path / "lib/site-packages", {"installed.py": "import mine"})
    names = ["sys", "os", "json.decoder", "numpy", "pytest", "__main__", "jupyter_offload.errors", "not_there_at_all"]
    assert user_modules([*names, pytest]) == []
    assert find(tmp_path / "lib/site-packages", "installed") == []


def test_an_editable_install_travels(tmp_path: Path) -> None:
    source = make(tmp_path / "src", {"editable_thing/__init__.py": "V = 1"})
    code = (
        "import site, sys; site.addsitedir(sys.argv[1])\n"
        "from jupyter_offload.payload.modules import user_modules\n"
        "print([file.path for file in user_modules(['editable_thing'])], 'editable_thing' in sys.modules)"
    )
    make(tmp_path / "site-packages", {"thing.pth": f"{source}\n"})
    run = [sys.executable, "-c", code, str(tmp_path / "site-packages")]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == "['editable_thing/__init__.py'] False\n"


def test_a_compiled_module_is_refused(tmp_path: Path) -> None:
    suffix = ".so"
    (tmp_path / f"fast{suffix}").write_bytes(b"\x7fELF")
    with pytest.raises(CaptureError, match="compiled") as caught:
        find(tmp_path, "fast")
    assert "--pip" in caught.value.hint


@pytest.mark.parametrize("limits", [Limits(total_bytes=1000), Limits(files=2)])
def test_too_much_names_the_largest_file(tmp_path: Path, limits: Limits) -> None:
    make(tmp_path, {"big/__init__.py": "", "big/a.py": "#" * 900, "big/b.py": "#" * 500})
    with pytest.raises(CaptureError, match="too large to travel") as caught:
        find(tmp_path, "big", limits=limits)
    assert caught.value.path == str(tmp_path / "big/a.py")
    assert caught.value.module == "big"


def test_a_folder_full_of_data_is_refused_early(tmp_path: Path) -> None:
    make(tmp_path, {"data/__init__.py": "", **{f"data/{index}.bin": "xxxx" for index in range(20)}})
    with pytest.raises(CaptureError, match="holds more than 16 files"):
        find(tmp_path, "data", limits=Limits(data_bytes=1, files=4))


def test_a_file_that_is_not_python_travels_all_the_same(tmp_path: Path) -> None:
    make(tmp_path, {"old.py": "print 'python 2'"})
    assert paths(find(tmp_path, "old")) == ["old.py"]
