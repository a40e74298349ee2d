"""From a request to what the site will be asked for: image, Python, limits, end of life.

What cannot be is refused here, before anything is sent.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from jupyter_offload.errors import CapabilityMissing, LimitExceeded, PythonMismatch, UnknownName
from jupyter_offload.job import Kind, Request, Resources
from jupyter_offload.quantity import parse_bytes, parse_cpus, show_bytes, show_duration
from jupyter_offload.sites.base import Image, Limits, SiteInfo

__all__ = ["HOST", "Resolved", "check_input", "check_limits", "end_of_life", "fill", "resolve"]

HOST = "host"
"""The image name that means: no container, the site's own Python."""
_REFERENCE = re.compile(r"[/:@]|\.sif$")


@dataclass(frozen=True)
class Resolved:
    """What a request becomes at a site."""

    image: str | None
    """Image reference, or None: the site's own Python."""
    python: str | None
    """``major.minor`` there, where the site declares it."""
    resources: Resources
    """What is asked for, the site's defaults filled in and within its limits."""


def resolve(request: Request, info: SiteInfo, defaults: Resources) -> Resolved:
    """Return what the request becomes. Raises `UnknownName`, `CapabilityMissing`, `LimitExceeded` or `PythonMismatch`."""
    image = _image(request, info)
    python = image.python if image is not None else info.python
    _check_gpus(request.resources, info)
    check_limits(request.resources, info)
    if request.needs_equal_python and python and request.python and python != request.python:
        where = f"image {image.name}" if image is not None else f"site {info.name}"
        raise PythonMismatch(
            f"this notebook runs Python {request.python}, {where} has Python {python}, and what the job ships was pickled",
            hint=_python_hint(request.python, info),
            job_id=request.id,
            here=request.python,
            there=python,
        )
    return Resolved(image.ref if image is not None else None, python, fill(request.resources, defaults, info.limits))


def _check_gpus(asked: Resources, info: SiteInfo) -> None:
    # what a pool shows may lack the GPU nodes that are busy or asleep now; this machine is known
    if asked.gpus and info.batch == "local" and not info.capabilities.gpus:
        raise CapabilityMissing(
            f"the job asks for {plural(str(asked.gpus), 'GPU')} and site {info.name} has none",
            hint="Leave --gpus out, or choose a site that has GPUs: `%offload sites`.",
        )


def plural(count: str, what: str) -> str:
    """Return the count with its unit: ``1 GPU``, ``2 GPUs``, ``0.5 cores``."""
    return f"{count} {what}" if count == "1" else f"{count} {what}s"


def _image(request: Request, info: SiteInfo) -> Image | None:
    wanted = request.image
    if wanted == HOST or (wanted is None and (not info.images or info.capabilities.containers is False)):
        return None
    if wanted is None:
        return info.images[0]
    named = next((image for image in info.images if wanted in (image.name, image.ref)), None)
    if named is None and not _REFERENCE.search(wanted):
        raise UnknownName(f"site {info.name} has no image {wanted!r}", hint=_image_hint(wanted, info.images))
    if info.capabilities.containers is False:
        raise CapabilityMissing(
            f"site {info.name} cannot run container images: it has no apptainer",
            hint="Leave --image out, or choose a site with containers: `%offload sites`.",
        )
    return named or Image(wanted, wanted)


def _image_hint(wanted: str, images: Iterable[Image]) -> str:
    names = [image.name for image in images]
    close = difflib.get_close_matches(wanted, names, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"It offers: {', '.join(names)}." if names else "It offers none by name; give a reference such as docker://…"


def _python_hint(wanted: str, info: SiteInfo) -> str:
    fitting = [image.name for image in info.images if image.python == wanted]
    if fitting:
        return f"Use --image {fitting[0]}, which has Python {wanted}."
    return "Ship plain data and functions of the notebook's own source, or use a kernel of that Python."


def check_limits(asked: Resources, info: SiteInfo) -> None:
    """Raise `LimitExceeded` when more is asked for than the site allows."""
    limits = info.limits
    memory = parse_bytes(asked.memory) if asked.memory else None
    disk = parse_bytes(asked.disk, field="disk") if asked.disk else None
    cpus = float(parse_cpus(asked.cpus)) if asked.cpus else None
    # most pools give a job without `--gpus` none, so that only an explicit limit of 0 or more refuses
    _limit(info.name, "memory", memory, limits.memory_bytes, show_bytes, "--memory")
    _limit(info.name, "disk", disk, limits.disk_bytes, show_bytes, "--disk")
    _limit(info.name, "cpus", cpus, limits.cpus, lambda count: plural(f"{count:g}", "core"), "--cpus")
    _limit(info.name, "time", asked.time_seconds, limits.time_seconds, show_duration, "--time")
    _limit(info.name, "gpus", asked.gpus or None, limits.gpus, lambda count: plural(f"{count}", "GPU"), "--gpus")


def _limit(site: str, what: str, asked: float | None, allowed: float | None, show: object, option: str) -> None:
    if asked is None or allowed is None or asked <= allowed:
        return
    shown = show if callable(show) else str
    raise LimitExceeded(
        f"{what}: asked {shown(asked)}, the site {site} allows {shown(allowed)}",
        hint=f"Ask for less with {option}, or choose another site: `%offload sites`.",
        resource=what,
        asked=asked,
        allowed=allowed,
    )


def check_input(site: str, size_bytes: int, allowed_bytes: int) -> None:
    """Raise `LimitExceeded` when a submission is larger than the site takes."""
    if size_bytes > allowed_bytes:
        raise LimitExceeded(
            f"the job would ship {show_bytes(size_bytes)}, the site {site} takes {show_bytes(allowed_bytes)}",
            hint="Ship less with -i, or let the job read its data where it runs.",
            resource="input",
            asked=size_bytes,
            allowed=allowed_bytes,
        )


def fill(asked: Resources, defaults: Resources, limits: Limits) -> Resources:
    """Return what is asked for with the site's defaults, which its limits cap, for what is not asked."""
    memory = asked.memory or _capped(defaults.memory, limits.memory_bytes, "memory")
    disk = asked.disk or _capped(defaults.disk, limits.disk_bytes, "disk")
    cpus = asked.cpus or defaults.cpus
    if not asked.cpus and cpus and limits.cpus is not None and float(parse_cpus(cpus)) > limits.cpus:
        cpus = f"{limits.cpus:g}"
    seconds = asked.time_seconds or defaults.time_seconds or limits.time_seconds
    return Resources(cpus, memory, disk, asked.gpus, asked.gpu_model, seconds)


def _capped(default: str | None, limit: int | None, field: str) -> str | None:
    if default is None or limit is None or parse_bytes(default, field=field) <= limit:
        return default
    return str(limit)


def end_of_life(resources: Resources, limits: Limits, now: float) -> float:
    """Return when nothing of the job may be left at the site: its time (30 days when unlimited) plus the site's longest queueing time."""
    return now + (resources.time_seconds or 30 * 86400) + limits.queue_seconds


def python_kind(kind: Kind) -> bool:
    """Whether the runner executes it, so that a result bundle comes back."""
    return kind is not Kind.COMMAND
