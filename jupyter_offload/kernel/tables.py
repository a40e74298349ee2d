"""Small tables for notebooks: HTML, and aligned text where there is none."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jupyter_offload.job import Job, short_ids
from jupyter_offload.kernel.card import STYLE, elapsed, state_badge
from jupyter_offload.quantity import show_bytes, show_duration

__all__ = ["html_table", "jobs_rows", "sites_rows", "table_bundle", "text_table"]

_CELL = "padding:2px 14px 2px 0;text-align:left;vertical-align:top"


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns."""
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
    return "\n".join(lines)


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table, everything escaped."""
    top = "".join(f'<th style="{_CELL};font-weight:600;color:var(--o-dim)">{html.escape(cell)}</th>' for cell in head)
    body = "".join(
        "<tr style='background:none'>"
        + "".join(f'<td style="{_CELL}">{html.escape(cell)}</td>' for cell in row)
        + "</tr>"
        for row in rows
    )
    style = "border-collapse:collapse;border:none;margin-top:6px;font-size:12.5px"
    return f'<table style="{style}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def table_bundle(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], nothing: str) -> tuple[str, str]:
    """Return HTML and text of a titled table."""
    text = text_table(head, rows) if rows else nothing
    inner = html_table(head, rows) if rows else f'<div class="o-note">{html.escape(nothing)}</div>'
    return f'<style>{STYLE}</style><div class="jp-Offload-card"><b>{html.escape(title)}</b>{inner}</div>', text


JOBS_HEAD = ["job", "state", "time", "site", "submitted", "reason"]


def jobs_rows(jobs: Sequence[Job], now: float) -> list[list[str]]:
    """Return a row for each job, newest first."""
    shown = short_ids(jobs)
    ordered = sorted(jobs, key=lambda job: job.request.created, reverse=True)
    return [
        [
            shown[job.id],
            state_badge(job.state) + (" (stale)" if job.stale_since and not job.state.terminal else ""),
            elapsed(job, now),
            job.site,
            f"{show_duration(max(0.0, now - job.request.created))} ago" if job.request.created else "",
            job.reason if len(job.reason) <= 70 else job.reason[:69] + "…",
        ]
        for job in ordered
    ]


SITES_HEAD = ["site", "state", "batch", "Python", "images", "logs", "containers", "GPUs", "limits"]


def sites_rows(sites: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a row for each site."""
    rows = []
    for site in sites:
        can = site.get("capabilities") or {}
        error = site.get("error") or {}
        state = str(site.get("state", ""))
        mark = {"ok": "✓ ok", "stale": "! stale", "error": "✗ error"}.get(state, state)
        if site.get("stale_since"):
            mark = f"! stale since {time.strftime('%H:%M', time.localtime(site['stale_since']))}"
        gpus = ", ".join(f"{gpu.get('model') or 'GPU'} × {gpu.get('total', '?')}" for gpu in site.get("gpus") or ())
        images = ", ".join(
            f"{image['name']} ({image['python']})" if image.get("python") else str(image["name"])
            for image in site.get("images") or ()
        )
        rows.append(
            [
                str(site["name"]) + (" (default)" if site.get("default") else ""),
                mark + (f": {error.get('message')}" if error and state == "error" else ""),
                str(site.get("batch") or site.get("kind") or ""),
                str(site.get("python") or ""),
                images or "—",
                str(can.get("logs", "")).replace("_", " "),
                {True: "yes", False: "no", None: "not known"}[can.get("containers")],
                gpus or ("yes" if can.get("gpus") else "no"),
                _limits(site.get("limits") or {}),
            ]
        )
    return rows


def _limits(limits: Mapping[str, Any]) -> str:
    found = []
    if limits.get("cpus"):
        found.append(f"{limits['cpus']:g} cores")
    if limits.get("memory_bytes"):
        found.append(show_bytes(int(limits["memory_bytes"])))
    if limits.get("gpus"):
        found.append(f"{limits['gpus']} GPUs")
    if limits.get("time_seconds"):
        found.append(show_duration(float(limits["time_seconds"])))
    return " · ".join(found) or "none"
