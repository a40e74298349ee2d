"""The documents say what the code does: links resolve, the configuration reference is generated from the schema."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def anchors(document: Path) -> set[str]:
    """The anchors that a Markdown renderer makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{document.name}: {target}"
        if anchor:
            assert anchor in anchors(linked), f"{document.name}: {target}"


def test_the_configuration_reference_is_up_to_date():
    assert subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], check=False).returncode == 0, (
        "run `make docs`"
    )


def test_every_dependency_has_its_reason():
    project = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[0]
    names = {
        name
        for name in re.findall(r'^    "([A-Za-z0-9_-]+)[\[>;"]', project, re.MULTILINE)
        if name != "jupyter_offload"
    }
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    assert len(names) > 20
    assert sorted(name for name in names if f"`{name}`" not in reasons) == []
