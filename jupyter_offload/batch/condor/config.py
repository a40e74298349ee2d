"""What a condor batch must know about its schedd: plain data, filled from ``sites.yaml`` by the site layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

__all__ = ["CondorConfig"]


@dataclass(frozen=True)
class CondorConfig:
    """How to reach one schedd, as whom, and how files get there."""

    type: Literal["condor", "condor-ce"] = "condor"
    """``condor-ce``: an HTCondor-CE, asked in its own attributes and always by spooling."""
    collector: str | None = None
    """``host:port`` (``None`` with ``condor_config: system``: the one of the machine's configuration)."""
    schedd: str | None = None
    """The schedd's name as the collector knows it (``None``: the machine's own schedd)."""
    token_file: Path | None = None
    """An IDTOKEN, SciToken or WLCG token. ``None`` with a CE: found by the WLCG bearer token discovery."""
    condor_config: Literal["none", "system"] = "none"
    """``none``: the worker knows only what is written here. ``system``: it reads the machine's configuration (Kerberos, CAs, a local
    schedd)."""
    shared_filesystem: bool = False
    """Whether the schedd's machine sees the job folders under the same path as this machine: nothing is spooled then."""
    submit: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Further submit attributes, from the allow-list of `jupyter_offload.batch.condor.description`."""
    ca_file: Path | None = None
    """Certificates for SSL and token servers (``None``: the machine's)."""
    logs: Literal["live", "delayed", "at_end"] | None = None
    """``None``: ``live`` for a schedd, ``delayed`` for a CE."""
    batch_size: int = 1000
    """The most tasks in one schedd submission; less after the schedd refused that many."""
    keep_seconds: int = 10 * 86400
    """How long an ended job stays in the queue when nobody fetches it."""
    unstarted_seconds: int = 86400
    """How long a job that was handed over but never started stays in the queue."""
    lost_after_seconds: float = 60.0
    """How long a job must be missing, in queue and history, before it is called lost."""
    locate_seconds: float = 10.0
    query_seconds: float = 25.0
    act_seconds: float = 25.0
    submit_seconds: float = 60.0
    """Deadline of a submission, without 0.1 s per job and the time for the files."""
    transfer_bytes_per_second: int = 1_000_000
    """The slowest transfer that still meets its deadline."""
    idle_seconds: float = 600.0
    """Workers that had nothing to do for so long are ended."""

    @property
    def spool(self) -> bool:
        """Whether files travel through the schedd's spool."""
        return self.type == "condor-ce" or not self.shared_filesystem

    @property
    def log_mode(self) -> Literal["live", "delayed", "at_end"]:
        """What `Batch.read` can promise."""
        return self.logs or ("delayed" if self.type == "condor-ce" else "live")
