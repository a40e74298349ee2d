"""From the configuration to sites: the one place that knows which batch systems there are."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path

from jupyter_offload.batch.base import Batch
from jupyter_offload.batch.condor.batch import CondorBatch
from jupyter_offload.batch.condor.config import CondorConfig as Condor
from jupyter_offload.batch.local import LocalBatch
from jupyter_offload.errors import CapabilityMissing, OffloadError
from jupyter_offload.sites.base import Site
from jupyter_offload.sites.direct import DirectSite
from jupyter_offload.sites.schema import CondorConfig, LocalConfig, SiteConfig, SitesConfig
from jupyter_offload.translator.options import Runtime

__all__ = ["build_site", "build_sites", "choose_runtime"]


def build_sites(config: SitesConfig, state: Path) -> Mapping[str, Site | OffloadError]:
    """Return every configured site by name, or why it cannot be set up: one such site must not take the others away.

    ``state`` is a folder (0700) where batch systems may keep files of their own.
    """
    return {name: _try(name, site, state) for name, site in config.sites.items()}


def _try(name: str, config: SiteConfig, state: Path) -> Site | OffloadError:
    try:
        return build_site(name, config, state)
    except OffloadError as error:
        return error
    except Exception as error:
        said = OffloadError(f"site {name} cannot be set up: {error!r}", hint="The service's log says more.")
        said.__cause__ = error
        return said


def build_site(name: str, config: SiteConfig, state: Path) -> Site:
    """Return one site. Raises `CapabilityMissing` where the extra that it needs is not installed."""
    return DirectSite(name, config, _batch(name, config, state), choose_runtime(config))


def choose_runtime(config: SiteConfig) -> Runtime:
    """Return what runs images: for `auto` apptainer, but on the local site what this machine has."""
    if config.runtime != "auto":
        return config.runtime
    if not isinstance(config.batch, LocalConfig):
        return "apptainer"
    if shutil.which("apptainer"):
        return "apptainer"
    return "singularity" if shutil.which("singularity") else "host"


def _batch(name: str, config: SiteConfig, state: Path) -> Batch:
    batch = config.batch
    if isinstance(batch, LocalConfig):
        return LocalBatch(state / "local" / name, batch.slots)
    if importlib.util.find_spec("htcondor2") is None:
        raise CapabilityMissing(
            f"site {name} needs HTCondor's Python bindings",
            hint="Install them (pip install 'jupyter_offload[condor]') and restart the service.",
        )
    return CondorBatch(_condor(batch, config))


def _condor(batch: CondorConfig, config: SiteConfig) -> Condor:
    return Condor(
        type=batch.type,
        collector=batch.collector,
        schedd=batch.schedd,
        token_file=Path(batch.token_file).expanduser() if batch.token_file else None,
        condor_config=batch.condor_config,
        shared_filesystem=batch.filesystem == "shared",
        submit=dict(config.submit),
        ca_file=Path(batch.ca_file).expanduser() if batch.ca_file else None,
        batch_size=batch.max_jobs_per_submit,
    )
