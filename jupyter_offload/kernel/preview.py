"""What ``--dry-run`` shows: what would travel, the Pod and the job script."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from jupyter_offload.kernel.card import STYLE
from jupyter_offload.kernel.display import show_bundle
from jupyter_offload.kernel.prepare import Prepared
from jupyter_offload.kernel.tables import html_table, text_table
from jupyter_offload.quantity import show_bytes

__all__ = ["show_preview"]


def show_preview(prepared: Prepared, preview: Mapping[str, Any]) -> None:
    """Show a dry run."""
    request = prepared.request
    rows = [[item.name, item.what, item.kind, show_bytes(item.size_bytes)] for item in request.ships]
    head = ["name", "what", "type", "size"]
    where = f"{preview['site']}" + (f" in {preview['image']}" if preview.get("image") else "")
    title = f"{request.name}: dry run, nothing was submitted"
    lines = [
        f"would go to {where}",
        f"would ship {show_bytes(prepared.size_bytes)} and the code ({len(request.source)} characters)",
    ]
    if request.needs_equal_python:
        lines.append(f"something travels by pickle: the remote Python must be {request.python}")
    lines += [f"{blind} may read names that the text does not show" for blind in prepared.blind]
    lines += [str(note) for note in preview.get("notes", ())]
    table = text_table(head, rows) if rows else "nothing but the code travels"
    text = "\n".join(
        [
            title,
            *(f"  {line}" for line in lines),
            "",
            table,
            "",
            "Pod manifest:",
            str(preview["manifest"]).rstrip(),
            "",
            "Job script:",
            str(preview["script"]).rstrip(),
        ]
    )
    body = [
        '<div class="o-head">',
        f'<span class="o-id">{html.escape(request.name)}</span><span class="o-state">◇ dry run</span>',
        '<span class="o-meta">nothing was submitted</span></div>',
        *(f'<div class="o-note">{html.escape(line)}</div>' for line in lines),
        html_table(head, rows) if rows else "",
    ]
    for summary, content in (("Pod manifest", preview["manifest"]), ("Job script", preview["script"])):
        body.append(
            f'<details style="margin-top:6px"><summary>{summary}</summary>'
            f'<pre style="overflow:auto;max-height:28em;font-size:12px;line-height:1.4">{html.escape(str(content))}</pre></details>'
        )
    show_bundle(f'<style>{STYLE}</style><div class="jp-Offload-card o-go">{"".join(body)}</div>', text)
