"""What the pool behind a schedd has: slots, memory, GPU models, container runtimes, asked of the collector in one query."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from jupyter_offload.batch.base import BatchInfo, GpuModel
from jupyter_offload.batch.condor.schedd import Schedd
from jupyter_offload.errors import SiteError

__all__ = ["describe", "gpu_models"]

_SLOTS = (
    "Name",
    "PartitionableSlot",
    "TotalCpus",
    "TotalSlotCpus",
    "Cpus",
    "TotalSlotMemory",
    "HasSingularity",
    "HasContainer",
    "TotalGPUs",
    "GPUs",
    "GPUs_DeviceName",
    "GPUs_Capability",
    "GPUs_GlobalMemoryMb",
)


async def describe(schedd: Schedd) -> BatchInfo:
    """Return what the schedd and its worker nodes have. A CE does not know the nodes behind it, which is said in a note."""
    await schedd.locate()
    notes: list[str] = []
    slots: list[dict[str, Any]] = []
    if schedd.config.type == "condor-ce":
        notes.append("A CE shows neither nodes nor GPUs; a job finds out.")
        notes.append(
            "A CE's own rules: a job that is not routed within 30 minutes is held; a job that starts a second time is removed."
        )
    else:
        # Partitionable slots hold what is free; a static slot is itself. Dynamic slots repeat their parent's totals.
        slots = await schedd.startds('SlotType =!= "Dynamic"', _SLOTS)
    identity = await _identity(schedd, notes)
    runtimes = [slot.get("HasSingularity") is True or slot.get("HasContainer") is True for slot in slots]
    return BatchInfo(
        kind=schedd.config.type,
        logs="at_end" if _old(schedd) and schedd.config.spool else schedd.config.log_mode,
        apptainer=all(runtimes) if runtimes and all(runtimes) == any(runtimes) else None,
        cpus_total=_sum(slots, "TotalSlotCpus"),
        cpus_free=_sum(slots, "Cpus"),
        largest_memory_bytes=max((int(slot.get("TotalSlotMemory", 0)) << 20 for slot in slots), default=None),
        gpus=gpu_models(slots),
        version=schedd.version,
        identity=identity,
        shared_filesystem=not schedd.config.spool,
        notes=tuple(notes),
    )


def gpu_models(slots: Iterable[Mapping[str, Any]]) -> tuple[GpuModel, ...]:
    """Return the GPU models of these slots.

    ``GPUs`` of a partitionable slot is what is free; its lists of assigned and total GPUs do not shrink.
    """
    models: dict[tuple[str, float | None, int | None], list[int]] = {}
    for slot in slots:
        total = int(slot.get("TotalGPUs", 0) or 0)
        if total:
            memory = slot.get("GPUs_GlobalMemoryMb")
            key = (
                str(slot.get("GPUs_DeviceName", "unknown")),
                slot.get("GPUs_Capability"),
                int(memory) if memory else None,
            )
            counts = models.setdefault(key, [0, 0])
            counts[0] += total
            counts[1] += int(slot.get("GPUs", 0) or 0)
    return tuple(
        GpuModel(name, total, free, None if memory is None else memory << 20, capability)
        for (name, capability, memory), (total, free) in sorted(models.items(), key=lambda item: str(item[0]))
    )


def _old(schedd: Schedd) -> bool:
    # Before 25 a job whose streaming is an expression (see `description`) is not streamed; its log comes with its result.
    match = re.search(r"CondorVersion: (\d+)\.", schedd.version)
    return match is not None and int(match.group(1)) < 25


def _sum(slots: list[dict[str, Any]], attribute: str) -> int | None:
    return sum(int(slot.get(attribute, 0)) for slot in slots) if slots else None


async def _identity(schedd: Schedd, notes: list[str]) -> str:
    try:
        answer = await schedd.ping()
    except SiteError as error:
        notes.append(f"ping was refused: {error.message}")
        return ""
    notes.append("The identity is what `ping` says; an open session may still carry an older one for a minute.")
    return str(answer.get("MyRemoteUserName") or answer.get("User") or "")
