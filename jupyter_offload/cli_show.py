"""How the command line shows things: tables and words for people; everything also as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from jupyter_offload.job import Job, State, short_ids
from jupyter_offload.quantity import show_bytes, show_duration

__all__ = ["checks_table", "job_details", "jobs_table", "sites_table", "state_text"]

_LOOK: dict[State, tuple[str, str]] = {
    State.PREPARING: ("◌", "cyan"),
    State.QUEUED: ("◔", "cyan"),
    State.RUNNING: ("●", "blue"),
    State.FINISHING: ("◕", "blue"),
    State.HELD: ("‖", "yellow"),
    State.CANCELLING: ("◌", "yellow"),
    State.SUCCEEDED: ("✓", "green"),
    State.FAILED: ("✗", "red"),
    State.CANCELLED: ("⊘", "yellow"),
    State.LOST: ("?", "red"),
}


def state_text(state: State) -> Text:
    """Return the state with its sign and colour; the word alone says it too."""
    sign, colour = _LOOK[state]
    return Text(f"{sign} {state.value}", style=colour)


def _when(seconds: float | None, now: float) -> str:
    if not seconds:
        return ""
    return f"{show_duration(max(0.0, now - seconds))} ago"


def _took(job: Job, now: float) -> str:
    started = [task.started for task in job.tasks if task.started]
    if not started:
        return ""
    ended = [task.finished for task in job.tasks if task.finished]
    return show_duration(max(0.0, (max(ended) if ended and job.state.terminal else now) - min(started)))


def _stale(job: Job) -> str:
    return (
        time.strftime("stale since %H:%M", time.localtime(job.stale_since))
        if job.stale_since and not job.state.terminal
        else ""
    )


def jobs_table(jobs: Sequence[Job], known: Iterable[Job] = ()) -> RenderableType:
    """Return the jobs, newest first, one line each. ``known``: all jobs, against which the shown ids are unique."""
    if not jobs:
        return Text("No jobs. `%%offload` above a cell, or `jupyter offload run`, makes one.", style="dim")
    now = time.time()
    names = short_ids([*jobs, *known])
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("job", "kind", "site", "state", "submitted", "ran"):
        table.add_column(title, no_wrap=True)
    table.add_column("reason", overflow="fold")
    for job in sorted(jobs, key=lambda job: -job.request.created):
        reason = " · ".join(word for word in (job.reason, _stale(job)) if word)
        table.add_row(
            names[job.id],
            job.request.kind.value,
            job.site,
            state_text(job.state),
            _when(job.request.created, now),
            _took(job, now),
            Text(reason),
        )
    return table


def job_details(job: Job) -> RenderableType:
    """Return all that is known of one job."""
    now = time.time()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    wants = job.request.resources
    asked = [
        f"{wants.cpus} cores" if wants.cpus else "",
        f"{wants.memory} memory" if wants.memory else "",
        f"{wants.disk} disk" if wants.disk else "",
        f"{wants.gpus} × {wants.gpu_model or 'any GPU'}" if wants.gpus else "",
        f"at most {show_duration(wants.time_seconds)}" if wants.time_seconds else "",
    ]
    task = job.tasks[0]
    rows: list[tuple[str, str | Text]] = [
        ("state", state_text(job.state)),
        ("reason", job.reason),
        ("what to do", job.hint if job.state in (State.HELD, State.FAILED, State.LOST) else ""),
        ("site", " · ".join(word for word in (job.site, job.image or "the site's own Python", _stale(job)) if word)),
        ("asked for", ", ".join(word for word in asked if word) or "the site's defaults"),
        ("submitted", _when(job.request.created, now)),
        ("ran", " on ".join(word for word in (_took(job, now), task.host or "") if word)),
        ("started", f"{task.attempts} times" if task.attempts > 1 else ""),
        ("exit code", "" if task.exit_code is None else str(task.exit_code)),
        ("progress", str((task.progress or {}).get("label", ""))),
        ("ships", ", ".join(f"{item.name} ({item.kind}, {show_bytes(item.size_bytes)})" for item in job.request.ships)),
        ("brings back", ", ".join([*job.request.outputs, *job.files])),
        ("result", show_bytes(job.result_bytes) if job.result_bytes else ""),
        ("id", job.id),
        *(("note", note) for note in job.notes),
    ]
    for key, value in rows:
        if value:
            table.add_row(key, value)
    return Group(Text(f"{job.name}-{job.id[:4]}", style="bold"), table)


def sites_table(sites: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the sites with what they can do and whether they answer."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("site", "state", "batch", "cores free", "GPUs", "containers", "logs"):
        table.add_column(title, no_wrap=True)
    table.add_column("images", overflow="fold")
    for site in sites:
        can = site.get("capabilities") or {}
        gpus = ", ".join(f"{gpu['free']} of {gpu['total']} {gpu['model']}" for gpu in site.get("gpus") or ())
        colour = {"ok": "green", "stale": "yellow"}.get(str(site.get("state")), "red")
        containers = {True: "yes", False: "missing", None: "not known"}[can.get("containers")]
        images = ", ".join(f"{image['name']} (Python {image['python'] or '?'})" for image in site.get("images") or ())
        slots = site.get("slots") or {}
        cores = "" if slots.get("total") is None else f"{slots.get('free')} of {slots['total']}"
        own = f"own Python {site.get('python') or ''}"
        since = site.get("stale_since")
        state = str(site.get("state")) + (time.strftime(" since %H:%M", time.localtime(since)) if since else "")
        table.add_row(
            Text(str(site["name"]) + (" (default)" if site.get("default") else ""), style="bold"), Text(state, style=colour),
            str(site.get("batch", "")), cores, gpus or "none", containers, str(can.get("logs", "")), images or own,
        )  # fmt: skip
    problems = [
        Text(f"{site['name']}: {site['error'].get('message')}\n  → {site['error'].get('hint')}", style="yellow")
        for site in sites
        if site.get("error")
    ]
    return Group(table, *problems)


def checks_table(checks: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return what the doctor found, and the first thing to fix."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(3):
        table.add_column()
    for check in checks:
        mark = {True: Text("✓", style="green"), False: Text("✗", style="red"), None: Text("–", style="dim")}[
            check["ok"]
        ]
        table.add_row(mark, Text(str(check["name"]), style="bold"), Text(str(check["detail"])))
    bad = next((check for check in checks if check["ok"] is False), None)
    last = (
        Text(f"\nFix first: {bad['name']}: {bad['hint'] or bad['detail']}", style="yellow")
        if bad
        else Text("\nAll links hold.", style="green")
    )
    return Group(table, last)


def console() -> Console:
    """Return the console; a width that fits when the output is a file."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=max(140, made.width))
