"""What a Pod asks for, by the rules of Kubernetes ("Resource sharing within containers", init containers)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from jupyter_offload.pod import GPU_RESOURCE
from jupyter_offload.quantity import whole
from jupyter_offload.translator.manifest import Pod

__all__ = ["WRITING_SECONDS", "Needs", "needs_of", "total"]

WRITING_SECONDS = 10
"""Time that the script has for output.tar after the containers' grace period."""


@dataclass(frozen=True)
class Needs:
    """What one task needs of a worker: the fields of the batch seam's ``Demand``, resolved and rounded up, and the grace period."""

    cpus: int = 1
    memory_bytes: int = 1 << 30
    disk_bytes: int = 1 << 30
    gpus: int = 0
    gpu_model: str | None = None
    time_seconds: int | None = None
    """Longest run time of one attempt: activeDeadlineSeconds, which the script itself keeps, and then the grace period, so that the batch
    system's own limit is met only when the script fails to keep it."""
    grace_seconds: int = 40
    """What the batch system must leave between SIGTERM and SIGKILL: the Pod's grace period and time to write the output."""
    exact_cpus: Fraction = Fraction(1)
    """Cores before rounding up to whole ones."""


def total(pod: Pod, resource: str) -> Fraction:
    """Return the exact amount of a resource: the largest init container or all containers together, whichever is more."""
    together = sum((container.resources.get(resource, Fraction(0)) for container in pod.containers), Fraction(0))
    return max([together, *(container.resources.get(resource, Fraction(0)) for container in pod.init)])


def needs_of(pod: Pod) -> Needs:
    """Return what the Pod needs; what it does not say is one core, 1 GiB of memory and 1 GiB of disk."""
    usual = Needs()
    cpus = total(pod, "cpu")
    disk = asked = total(pod, "ephemeral-storage")
    for volume in pod.volumes.values():
        if volume.kind == "emptyDir":  # limits of volumes count when the containers say nothing about disk
            limit = volume.source.quantity("sizeLimit")
            disk += limit if limit is not None and not asked else 0
    grace = pod.grace_seconds + WRITING_SECONDS
    gpus = int(total(pod, GPU_RESOURCE))
    return Needs(
        cpus=max(1, whole(cpus)),
        memory_bytes=whole(total(pod, "memory")) or usual.memory_bytes,
        disk_bytes=whole(disk) or usual.disk_bytes,
        gpus=gpus,
        gpu_model=pod.gpu_model if gpus else None,
        time_seconds=None if pod.deadline_seconds is None else pod.deadline_seconds + grace,
        grace_seconds=grace,
        exact_cpus=cpus or usual.exact_cpus,
    )
