"""What a submission would be, without submitting it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from jupyter_offload.errors import ManifestError
from jupyter_offload.job import Job, Request, Task, new_id
from jupyter_offload.pod import Work
from jupyter_offload.service.intake import Intake
from jupyter_offload.service.resolve import end_of_life
from jupyter_offload.service.service import Preview
from jupyter_offload.service.siteview import SiteBook

__all__ = ["of_manifest", "of_request"]


async def of_request(book: SiteBook, intake: Intake, owner: str, request: Request, now: float) -> Preview:
    """Return manifest and script of a request. Raises what submitting it would raise, and `SiteError` for a site that never answered."""
    visit = book.visit(request.site)
    info = await book.info(visit)
    resolved = intake.resolve(request, visit, info)
    job = Job(request, owner, visit.name, image=resolved.image, tasks=tuple(Task(i) for i in range(request.tasks)))
    with tempfile.TemporaryDirectory(prefix="offload-preview-") as folder:
        expires = end_of_life(resolved.resources, info.limits, now)
        work = intake.work(job, resolved, visit, Path(folder), expires)
        script = visit.entry.site.preview(work)
    notes = []
    if request.needs_equal_python and not resolved.python:
        notes.append(f"the Python of {resolved.image or 'the site'} is not declared: a mismatch would show only there")
    if visit.stale_since is not None:
        notes.append(f"site {visit.name} does not answer now")
    return Preview(visit.name, resolved.image, _yaml(work), script, tuple(notes))


async def of_manifest(book: SiteBook, owner: str, manifest: str, site: str | None) -> Preview:
    """Return the script of a Pod manifest (YAML; Secrets and ConfigMaps may follow as further documents). Raises `ManifestError`."""
    visit = book.visit(site)
    try:
        documents = [item for item in yaml.safe_load_all(manifest) if item is not None]
    except yaml.YAMLError as error:
        raise ManifestError(f"the manifest is not YAML: {error}", hint="Mend the YAML.", path="") from error
    kinds: dict[str, list[dict[str, Any]]] = {"Pod": [], "Secret": [], "ConfigMap": []}
    for place, item in enumerate(documents):
        kind = item.get("kind") if isinstance(item, dict) else None
        if kind not in kinds:
            raise ManifestError(
                f"document {place + 1}: kind {kind!r}",
                hint="Give one Pod, and its Secrets and ConfigMaps.",
                path="kind",
            )
        kinds[kind].append(item)
    if len(kinds["Pod"]) != 1:
        raise ManifestError(f"{len(kinds['Pod'])} Pods", hint="Give exactly one Pod.", path="kind")
    pod = kinds["Pod"][0]
    metadata = pod.get("metadata")
    name = str(metadata.get("name") or "pod") if isinstance(metadata, dict) else "pod"
    work = Work(new_id(), owner, name, pod, tuple(kinds["Secret"]), tuple(kinds["ConfigMap"]))
    return Preview(visit.name, None, _yaml(work), visit.entry.site.preview(work))


def _yaml(work: Work) -> str:
    """Return the manifest as YAML; Secrets with their keys alone."""
    documents: list[dict[str, Any]] = [dict(work.pod)]
    for secret in work.secrets:
        keys = [*(secret.get("data") or {}), *(secret.get("stringData") or {})]
        hidden = {key: value for key, value in secret.items() if key not in ("data", "stringData")}
        documents.append({**hidden, "stringData": dict.fromkeys(keys, "(hidden)")})
    documents += [dict(item) for item in work.config_maps]
    return yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True)
