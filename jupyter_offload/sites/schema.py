"""The schema of sites.yaml, from which docs/configuration.md is generated. Unknown keys are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from jupyter_offload.errors import BadQuantity
from jupyter_offload.quantity import parse_bytes, parse_cpus, parse_duration

__all__ = [
    "BatchConfig",
    "CondorConfig",
    "ImageConfig",
    "LimitsConfig",
    "LocalConfig",
    "PolicyConfig",
    "SiteConfig",
    "SitesConfig",
]


def _reader(parse: Callable[[str | int | float], object]) -> BeforeValidator:
    def read(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            return value
        try:
            return parse(value)
        except BadQuantity as error:
            message = f"{error.message}. {error.hint}"
            raise ValueError(message) from error

    return BeforeValidator(read)


Bytes = Annotated[int, _reader(parse_bytes)]
Seconds = Annotated[int, _reader(parse_duration)]
Cores = Annotated[float, _reader(lambda text: float(parse_cpus(text)))]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LocalConfig(_Model):
    """Processes on the machine of the service itself."""

    type: Literal["local"]
    slots: int | None = Field(None, ge=1, description="Cores that jobs may use together. Default: all of the machine.")


class CondorConfig(_Model):
    """A real HTCondor pool (`condor`) or compute element (`condor-ce`)."""

    type: Literal["condor", "condor-ce"]
    collector: str | None = Field(
        None, description="`host:port` of the collector (9618 for a pool, 9619 for a compute element)."
    )
    schedd: str | None = Field(None, description="Name of the schedd. Default for a compute element: its host name.")
    token_file: str | None = Field(
        None, description="File with the IDTOKEN or SciToken; read anew when it changes. `~` is expanded."
    )
    condor_config: Literal["none", "system"] = Field(
        "none",
        description="`system`: use this machine's HTCondor configuration (local schedd, Kerberos, certificate authorities).",
    )
    filesystem: Literal["spool", "shared"] = Field(
        "spool",
        description="`spool`: files travel through the schedd. `shared`: its machine and the workers see the service's data folder.",
    )
    ca_file: str | None = Field(None, description="Certificate authorities for TLS. Default: the system's bundle.")
    max_jobs_per_submit: int = Field(
        1000, ge=1, description="Tasks in one submission to begin with; it learns down from refusals."
    )


BatchConfig = Annotated[LocalConfig | CondorConfig, Field(discriminator="type")]


class ImageConfig(_Model):
    """A container image that users choose by name."""

    ref: str = Field(
        description="What apptainer takes: `docker://…`, `oras://…`, or the path of a SIF file or sandbox on the worker nodes."
    )
    python: str | None = Field(
        None,
        pattern=r"^3\.\d+$",
        description="Python of the image, such as `3.11`: a mismatch is then told before submitting.",
    )


class PolicyConfig(_Model):
    """What users may ask for beyond the offered images. Everything else is refused."""

    images: tuple[str, ...] | None = Field(
        None,
        description="Glob patterns of image references. Default: any image while the site offers none by name, else those offered.",
    )
    hostPath: tuple[str, ...] = Field((), description="Path prefixes on the worker nodes that a Pod may mount.")  # noqa: N815
    annotations: tuple[str, ...] = Field(
        (), description="Annotations that inject commands or mounts and are allowed by name."
    )


class LimitsConfig(_Model):
    """The most that one task may ask for."""

    cpus: Cores | None = Field(None, description="Cores, such as `8` or `500m`.")
    memory: Bytes | None = Field(None, description="A size, such as `32GiB`.")
    disk: Bytes | None = Field(None, description="A size, such as `100GiB`.")
    gpus: int | None = Field(None, ge=0, description="GPUs.")
    time: Seconds | None = Field(None, description="A duration of one run, such as `24h`.")
    queue_time: Seconds = Field(
        14 * 86400, description="Longest queueing time; with the time limit it makes the end of a job's life."
    )
    input: Bytes = Field(2_000_000_000, description="Largest submission, in bytes.")
    result: Bytes = Field(2_000_000_000, description="Largest result, in bytes.")


class DefaultsConfig(_Model):
    """What a task gets that does not ask."""

    cpus: str = "1"
    memory: str = "2Gi"
    disk: str = "2Gi"
    time: Seconds | None = Field(None, description="Default: `limits.time`, or no time limit.")


class SiteConfig(_Model):
    """A named place that runs Work."""

    kind: Literal["direct"] = Field("direct", description="`direct`: this process talks to the batch system itself.")
    batch: BatchConfig
    submit: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="Submit attributes for every job, such as `accounting_group` or `+ProjectName`. Values are data.",
    )
    runtime: Literal["auto", "apptainer", "singularity", "host"] = Field(
        "auto",
        description="What runs images on the worker nodes; `host`: none. `auto`: apptainer, on the local site only if it is installed.",
    )
    images: dict[str, ImageConfig] = Field(
        default_factory=dict,
        description="Images by name; the first is the default. None: the site's own Python runs cells.",
    )
    python: str | None = Field(
        None, pattern=r"^3\.\d+$", description="Python of the site itself, for cells that run without an image."
    )
    mounts: tuple[str, ...] = Field((), description="`source:target[:ro]` binds that every container gets.")
    setup: tuple[str, ...] = Field(
        (), description="Bash lines that run first on the worker node (from the administrator, not from users)."
    )
    cache: str | None = Field(None, description="Folder on the worker nodes for images and `--pip` environments.")
    policy: PolicyConfig = PolicyConfig()
    limits: LimitsConfig = LimitsConfig()
    defaults: DefaultsConfig = DefaultsConfig()


class SitesConfig(_Model):
    """The whole of sites.yaml after merging."""

    default: str | None = Field(None, description="The site of a job that names none. Default: the first one.")
    locked: tuple[str, ...] = Field(
        (),
        description="Key paths that files nearer to the user must not set, such as `sites.pool.policy`; `*` stands for any one name.",
    )
    sites: dict[str, SiteConfig] = Field(default_factory=dict)
