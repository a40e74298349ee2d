"""The job card: one MIME bundle that says what a job is, what it ships, where it goes and how it fares.

The HTML is static (no script, everything escaped), so that a saved notebook shows it anywhere; colours come from JupyterLab's theme where
there is one and follow the reader's light or dark scheme elsewhere. A state is always an icon and a word, never a colour alone.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Sequence

from jupyter_offload.job import Job, Kind, Shipment, State, short_ids
from jupyter_offload.quantity import show_bytes, show_duration

__all__ = ["ICONS", "MIME", "STYLE", "bundle", "elapsed", "resources_text", "ships_text", "state_badge", "where_text"]

MIME = "application/vnd.jupyter-offload.job.v1+json"
ICONS: dict[State, str] = {
    State.PREPARING: "◌",
    State.QUEUED: "◔",
    State.RUNNING: "▶",
    State.FINISHING: "◕",
    State.HELD: "‖",
    State.CANCELLING: "◌",
    State.SUCCEEDED: "✓",
    State.FAILED: "✗",
    State.CANCELLED: "⊘",
    State.LOST: "?",
}
_SHOWN_SHIPS = 12

STYLE = """
.jp-Offload-card{--o-fg:var(--jp-ui-font-color1,#1f2328);--o-dim:var(--jp-ui-font-color2,#59636e);--o-bg:var(--jp-layout-color1,#fff);
--o-soft:var(--jp-layout-color2,#f3f5f7);--o-line:var(--jp-border-color2,#d5dae0);--o-ok:var(--jp-success-color1,#1a7f37);
--o-bad:var(--jp-error-color1,#c62828);--o-warn:var(--jp-warn-color0,#9a6700);--o-go:var(--jp-brand-color1,#0b62c4);--o-tone:var(--o-dim);
font:13px/1.5 var(--jp-ui-font-family,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif);color:var(--o-fg);background:var(--o-bg);
border:1px solid var(--o-line);border-left:4px solid var(--o-tone);border-radius:6px;padding:10px 14px;margin:4px 0;max-width:860px;
box-sizing:border-box}
@media (prefers-color-scheme:dark){.jp-Offload-card{--o-fg:var(--jp-ui-font-color1,#e6edf3);--o-dim:var(--jp-ui-font-color2,#9da7b1);
--o-bg:var(--jp-layout-color1,#15191f);--o-soft:var(--jp-layout-color2,#222831);--o-line:var(--jp-border-color2,#384049);
--o-ok:var(--jp-success-color1,#4ac26b);--o-bad:var(--jp-error-color1,#ff7b72);--o-warn:var(--jp-warn-color0,#e0b341);
--o-go:var(--jp-brand-color1,#6cb0ff)}}
.jp-Offload-card *{box-sizing:border-box}
.jp-Offload-card .o-head{display:flex;flex-wrap:wrap;gap:4px 12px;align-items:baseline}
.jp-Offload-card .o-id{font-family:var(--jp-code-font-family,ui-monospace,Menlo,Consolas,monospace);font-size:14px;font-weight:600}
.jp-Offload-card .o-state{color:var(--o-tone);font-weight:600;white-space:nowrap}
.jp-Offload-card .o-time{color:var(--o-dim);margin-left:auto;font-variant-numeric:tabular-nums;white-space:nowrap}
.jp-Offload-card .o-meta,.jp-Offload-card .o-note{color:var(--o-dim)}
.jp-Offload-card .o-reason{margin-top:4px;overflow-wrap:anywhere}
.jp-Offload-card .o-hint{color:var(--o-dim);overflow-wrap:anywhere}
.jp-Offload-card .o-ships{display:flex;flex-wrap:wrap;gap:4px 6px;margin-top:6px}
.jp-Offload-card .o-chip{background:var(--o-soft);border-radius:4px;padding:0 7px;font-size:12px;white-space:nowrap;max-width:100%;
overflow:hidden;text-overflow:ellipsis}
.jp-Offload-card .o-chip b{font-weight:600}.jp-Offload-card .o-chip span{color:var(--o-dim)}
.jp-Offload-card .o-bar{height:4px;border-radius:2px;background:var(--o-soft);margin-top:8px;overflow:hidden}
.jp-Offload-card .o-bar i{display:block;height:100%;background:var(--o-tone)}
.jp-Offload-card code{background:none;color:inherit;
font-family:var(--jp-code-font-family,ui-monospace,Menlo,Consolas,monospace);font-size:12px}
.jp-Offload-card.o-ok{--o-tone:var(--o-ok)}.jp-Offload-card.o-bad{--o-tone:var(--o-bad)}
.jp-Offload-card.o-warn{--o-tone:var(--o-warn)}.jp-Offload-card.o-go{--o-tone:var(--o-go)}
"""

_TONES = {
    State.SUCCEEDED: "o-ok",
    State.FAILED: "o-bad",
    State.LOST: "o-warn",
    State.HELD: "o-warn",
    State.CANCELLED: "o-warn",
    State.CANCELLING: "o-warn",
    State.RUNNING: "o-go",
    State.FINISHING: "o-go",
}


def bundle(
    job: Job, *, shown: str | None = None, notes: Sequence[str] = (), now: float | None = None
) -> dict[str, object]:
    """Return the MIME bundle of a job: our own type (id, name, last state), HTML and text."""
    moment = time.time() if now is None else now
    label = shown or short_ids([job])[job.id]
    return {
        MIME: {"id": job.id, "name": job.name, "state": job.state.value},
        "text/html": _html(job, label, notes, moment),
        "text/plain": _text(job, label, notes, moment),
    }


def elapsed(job: Job, now: float) -> str:
    """Return for how long the job has been running or waiting, or how long it took, in words."""
    task = job.tasks[0]
    started = min((item.started for item in job.tasks if item.started), default=None)
    if job.state.terminal:
        ended = job.finished or task.finished
        if started and ended:
            return show_duration(max(0.0, ended - started))
        return ""
    if started and job.state in (State.RUNNING, State.FINISHING, State.CANCELLING):
        return show_duration(max(0.0, now - started))
    begun = task.queued or job.request.created
    return f"for {show_duration(max(0.0, now - begun))}" if begun else ""


def resources_text(job: Job) -> str:
    """Return what a task may use, in one line."""
    asked = job.request.resources
    found = []
    if asked.cpus:
        found.append(f"{asked.cpus} core{'' if asked.cpus == '1' else 's'}")
    if asked.memory:
        found.append(f"{asked.memory} memory")
    if asked.disk:
        found.append(f"{asked.disk} disk")
    if asked.gpus:
        found.append(
            f"{asked.gpus} GPU{'' if asked.gpus == 1 else 's'}" + (f" ({asked.gpu_model})" if asked.gpu_model else "")
        )
    if asked.time_seconds:
        found.append(f"at most {show_duration(asked.time_seconds)}")
    return " · ".join(found)


def where_text(job: Job) -> str:
    """Return where it goes: site, image or the site's Python, host."""
    image = job.request.image or job.image
    found = [f"on {job.site}"]
    if image:
        found.append(f"in {image}")
    hosts = {task.host for task in job.tasks if task.host}
    if len(hosts) == 1:
        found.append(f"at {hosts.pop()}")
    return " ".join(found)


def ships_text(ships: Sequence[Shipment]) -> str:
    """Return what travels, in one line."""
    if not ships:
        return "nothing but the code"
    total = sum(item.size_bytes for item in ships)
    named = ", ".join(f"{item.name} ({_what(item)})" for item in ships[:_SHOWN_SHIPS])
    more = f" and {len(ships) - _SHOWN_SHIPS} more" if len(ships) > _SHOWN_SHIPS else ""
    return f"{named}{more}; {show_bytes(total)} in all"


def _what(item: Shipment) -> str:
    kind = item.kind if item.what == "value" else item.what
    return f"{kind}, {show_bytes(item.size_bytes)}" if item.size_bytes else kind


def state_badge(state: State) -> str:
    """Return icon and word of a state."""
    return f"{ICONS[state]} {state.value}"


def _lines(job: Job, notes: Sequence[str]) -> list[str]:
    found = list(job.notes)
    attempts = max((task.attempts for task in job.tasks), default=0)
    if attempts > 1 and not any("again" in note for note in found):
        found.append(f"started {attempts} times: it was evicted and ran again from the beginning")
    if job.stale_since is not None and not job.state.terminal:
        found.append(f"stale since {time.strftime('%H:%M', time.localtime(job.stale_since))}: the site does not answer")
    if job.files:
        found.append(f"files back: {_listed(job.files)}")
    return list(dict.fromkeys([*found, *notes]))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _next_step(job: Job, label: str) -> str:
    state = job.state
    if state is State.SUCCEEDED:
        return f"%offload result {label}"
    if state.terminal:
        return f"%offload logs {label}"
    return f"%offload logs {label} -f · %offload cancel {label}"


def _text(job: Job, label: str, notes: Sequence[str], now: float) -> str:
    duration = elapsed(job, now)
    lines = [f"{label}  {state_badge(job.state)}{' ' + duration if duration else ''}  {where_text(job)}"]
    resources = resources_text(job)
    if resources:
        lines.append(f"  {resources}")
    lines.append(
        f"  ships {ships_text(job.request.ships)}" if job.request.kind is not Kind.COMMAND or job.request.ships else ""
    )
    progress = _progress(job)
    if progress and not job.state.terminal:
        lines.append(f"  {progress[1]}")
    if job.reason:
        lines.append(f"  {job.reason}")
    if job.hint and job.state is not State.SUCCEEDED:
        lines.append(f"  → {job.hint}")
    lines += [f"  {note}" for note in _lines(job, notes)]
    lines.append(f"  {_next_step(job, label)}")
    return "\n".join(line for line in lines if line)


def _progress(job: Job) -> tuple[float, str] | None:
    found = next((task.progress for task in job.tasks if task.progress), None)
    if not found:
        return None
    total = found.get("total") or 0
    return (float(found.get("done") or 0) / total if total else 0.0, str(found.get("label", "")))


def _html(job: Job, label: str, notes: Sequence[str], now: float) -> str:
    escape = html.escape
    tone = _TONES.get(job.state, "")
    duration = elapsed(job, now)
    body = [
        '<div class="o-head">',
        f'<span class="o-id">{escape(label)}</span>',
        f'<span class="o-state" role="status" aria-live="polite">{escape(state_badge(job.state))}</span>',
        f'<span class="o-meta">{escape(where_text(job))}</span>',
        f'<span class="o-time">{escape(duration)}</span></div>',
    ]
    resources = resources_text(job)
    if resources:
        body.append(f'<div class="o-meta">{escape(resources)}</div>')
    body.append(_ships_html(job.request.ships))
    progress = _progress(job)
    if progress and not job.state.terminal:
        share, text = progress
        body.append(
            f'<div class="o-bar" role="progressbar" aria-valuenow="{100 * share:.0f}">'
            f'<i style="width:{100 * share:.1f}%"></i></div>'
        )
        body.append(f'<div class="o-note">{escape(text)}</div>')
    if job.reason:
        body.append(f'<div class="o-reason">{escape(job.reason)}</div>')
    if job.hint and job.state is not State.SUCCEEDED:
        body.append(f'<div class="o-hint">→ {escape(job.hint)}</div>')
    body += [f'<div class="o-note">{escape(note)}</div>' for note in _lines(job, notes)]
    steps = " · ".join(f"<code>{escape(step)}</code>" for step in _next_step(job, label).split(" · "))
    body.append(f'<div class="o-note">{steps}</div>')
    return f'<style>{STYLE}</style><div class="jp-Offload-card {tone}">{"".join(body)}</div>'


def _ships_html(ships: Iterable[Shipment]) -> str:
    found = list(ships)
    if not found:
        return ""
    chips = [
        (
            f'<span class="o-chip" title="{html.escape(item.what)}"><b>{html.escape(item.name)}</b> '
            f"<span>{html.escape(_what(item))}</span></span>"
        )
        for item in found[:_SHOWN_SHIPS]
    ]
    if len(found) > _SHOWN_SHIPS:
        chips.append(f'<span class="o-chip">{len(found) - _SHOWN_SHIPS} more</span>')
    total = show_bytes(sum(item.size_bytes for item in found))
    return f'<div class="o-ships"><span class="o-meta">ships {total}:</span>{"".join(chips)}</div>'
