"""Samples, figures and tables: how measurements are summed up and written down."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Figure", "Report", "Table", "middle", "spread"]


def middle(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def spread(values: Sequence[float], unit: str = "s", scale: float = 1.0, digits: int = 2) -> str:
    """Return ``median (min–max, n)`` in a unit."""
    low, mid, high = min(values) * scale, middle(values) * scale, max(values) * scale
    return f"{mid:,.{digits}f} {unit} ({low:,.{digits}f}–{high:,.{digits}f}, n={len(values)})"


@dataclass(frozen=True)
class Figure:
    """One figure that was set as a goal, and what was measured."""

    name: str
    wanted: str
    measured: str
    reached: bool | None
    """``None``: it could not be measured here."""
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """A titled table; the first row of ``rows`` is the head."""

    title: str
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """Return it as Markdown."""
        head, *rest = [[cell.replace("|", "\\|") for cell in row] for row in self.rows]
        lines = [f"### {self.title}", "", "| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
        lines += ["| " + " | ".join(row) + " |" for row in rest]
        if self.note:
            lines += ["", self.note]
        return "\n".join(lines)


@dataclass
class Report:
    """Everything that one run found."""

    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def add(self, figure: Figure) -> None:
        """Take a figure in and print it: a long run should show what it has."""
        self.figures.append(figure)
        mark = {True: "reached", False: "MISSED", None: "not measured"}[figure.reached]
        print(f"  {mark:12} {figure.name}: {figure.measured}  (wanted {figure.wanted})", flush=True)

    def markdown(self) -> str:
        """Return the figures and then the tables."""
        marks = {True: "yes", False: "**no**", None: "not measured"}
        rows = [
            ["figure", "wanted", "measured", "reached"],
            *[[one.name, one.wanted, one.measured, marks[one.reached]] for one in self.figures],
        ]
        notes = "\n".join(f"- {one.name}: {one.detail}" for one in self.figures if one.detail)
        parts = [Table("Figures", rows, notes), *self.tables]
        return "\n\n".join(part.markdown() for part in parts)
