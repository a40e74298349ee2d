"""The answers of the REST API as plain data, and back again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jupyter_offload.job import Job
from jupyter_offload.service.service import Accepted, Check, Cleaned, JobList, Preview, SiteView
from jupyter_offload.sites.base import FileEntry

__all__ = [
    "accepted_from",
    "check_from",
    "cleaned_from",
    "file_from",
    "from_accepted",
    "from_check",
    "from_cleaned",
    "from_file",
    "from_jobs",
    "from_preview",
    "from_site",
    "jobs_from",
    "preview_from",
    "site_from",
]

Json = Mapping[str, Any]


def from_accepted(accepted: Accepted) -> Json:
    """``{"job", "twin"}``; whether it is new is the status, 201."""
    return {"job": accepted.job.to_json(), "twin": accepted.twin}


def accepted_from(data: Json, *, created: bool) -> Accepted:
    """The inverse of `from_accepted`."""
    return Accepted(Job.from_json(data["job"]), bool(data["twin"]), created)


def from_jobs(listing: JobList) -> Json:
    """``{"revision", "jobs", "deleted"}``."""
    return {
        "revision": listing.revision,
        "jobs": [job.to_json() for job in listing.jobs],
        "deleted": list(listing.deleted),
    }


def jobs_from(data: Json) -> JobList:
    """The inverse of `from_jobs`."""
    return JobList(int(data["revision"]), tuple(Job.from_json(job) for job in data["jobs"]), tuple(data["deleted"]))


def from_preview(preview: Preview) -> Json:
    """``{"site", "image", "manifest", "script", "notes"}``."""
    return dataclasses.asdict(preview)


def preview_from(data: Json) -> Preview:
    """The inverse of `from_preview`."""
    return Preview(data["site"], data["image"], data["manifest"], data["script"], tuple(data["notes"]))


def from_file(entry: FileEntry) -> Json:
    """``{"path", "size"}``."""
    return {"path": entry.path, "size": entry.size_bytes}


def file_from(data: Json) -> FileEntry:
    """The inverse of `from_file`."""
    return FileEntry(data["path"], int(data["size"]))


def from_check(check: Check) -> Json:
    """``{"name", "ok", "detail", "hint", "seconds"}``."""
    return dataclasses.asdict(check)


def check_from(data: Json) -> Check:
    """The inverse of `from_check`."""
    return Check(data["name"], data["ok"], data["detail"], data["hint"], float(data["seconds"]))


def from_cleaned(cleaned: Cleaned) -> Json:
    """``{"removed", "bytes"}``."""
    return {"removed": list(cleaned.removed), "bytes": cleaned.freed_bytes}


def cleaned_from(data: Json) -> Cleaned:
    """The inverse of `from_cleaned`."""
    return Cleaned(tuple(data["removed"]), int(data["bytes"]))


_HEALTH = ("name", "default", "kind", "state", "stale_since", "error")


def from_site(view: SiteView) -> Json:
    """The site's health, and what it last said of itself beside it (empty where it never answered)."""
    data: dict[str, Any] = {key: getattr(view, key) for key in _HEALTH}
    info = dict(view.info or {})
    data["known"] = view.info is not None
    data["slots"] = {"total": info.pop("cpus_total", None), "free": info.pop("cpus_free", None)}
    data["capabilities"] = info.pop("capabilities", {})
    data["images"] = list(info.pop("images", ()))
    data["limits"] = info.pop("limits", {})
    data["gpus"] = list(info.pop("gpus", ()))
    data["notes"] = list(info.pop("notes", ()))
    data.update((key, info.get(key)) for key in ("batch", "python", "version", "identity"))
    return data


def site_from(data: Json) -> SiteView:
    """The inverse of `from_site`."""
    health = {key: data[key] for key in _HEALTH}
    if not data["known"]:
        return SiteView(**health)
    kept = ("capabilities", "images", "limits", "gpus", "notes", "batch", "python", "version", "identity")
    info = {key: data[key] for key in kept}
    info.update(name=data["name"], kind=data["kind"])
    info.update(cpus_total=data["slots"]["total"], cpus_free=data["slots"]["free"])
    return SiteView(**health, info=info)
