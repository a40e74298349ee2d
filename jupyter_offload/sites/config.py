"""sites.yaml: found, merged, locked, checked.

Files come from ``OFFLOAD_CONFIG`` (one path) and then ``sites.yaml`` in each folder of the Jupyter config path, nearest to the user
first. They merge key by key, site by site, and the nearest wins, except for the key paths that a farther file (the administrator's)
lists under ``locked``. Without any file there is the one site `local`.
"""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_config_path
from pydantic import ValidationError

from jupyter_offload.batch.condor.description import check_site_attributes
from jupyter_offload.errors import ConfigError
from jupyter_offload.sites.schema import (
    CondorConfig,
    DefaultsConfig,
    ImageConfig,
    LimitsConfig,
    LocalConfig,
    PolicyConfig,
    SiteConfig,
    SitesConfig,
)
from jupyter_offload.sites.yaml_lines import Document, read_document

__all__ = ["config_files", "default_sites", "load_sites", "merge"]

_Path = tuple[str, ...]


def config_files(environ: Mapping[str, str]) -> list[Path]:
    """Return the files that exist, nearest to the user first. Raises `ConfigError` when ``OFFLOAD_CONFIG`` names none."""
    files: list[Path] = []
    named = environ.get("OFFLOAD_CONFIG")
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"OFFLOAD_CONFIG={named}: no such file", hint="Correct or unset OFFLOAD_CONFIG.", file=str(path)
            )
        files.append(path)
    files += [path for folder in jupyter_config_path() if (path := Path(folder) / "sites.yaml").is_file()]
    return list(dict.fromkeys(files))


def default_sites() -> SitesConfig:
    """Return the configuration without any file: this machine, with the Python that runs the service."""
    folder = shlex.quote(str(Path(sys.executable).parent))
    site = SiteConfig(
        batch=LocalConfig(type="local", slots=None),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        setup=(f'export PATH={folder}:"$PATH"',),
        cache=str(Path.home() / ".cache" / "jupyter_offload"),
        limits=LimitsConfig(cpus=float(os.cpu_count() or 1), memory=_machine_memory_bytes(), gpus=None),
    )
    return SitesConfig(default="local", sites={"local": site})


def _machine_memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def load_sites(environ: Mapping[str, str]) -> SitesConfig:
    """Read, merge and check the configuration. Raises `ConfigError` with file, line and key."""
    documents = [read_document(file) for file in config_files(environ)]
    return merge(documents) if documents else default_sites()


def merge(documents: Sequence[Document]) -> SitesConfig:
    """Merge documents, nearest first, and check the outcome. Raises `ConfigError` with file, line and key."""
    merged: dict[str, Any] = {}
    origin: dict[_Path, Document] = {}
    locks: list[tuple[_Path, Document]] = []
    for document in reversed(documents):
        _refuse_locked(document, locks)
        _overlay(merged, document.values, document, origin, ())
        locks += [(tuple(str(key).split(".")), document) for key in document.values.get("locked") or ()]
    merged["locked"] = [".".join(path) for path, _ in locks]
    try:
        config = SitesConfig.model_validate(merged)
    except ValidationError as error:
        raise _config_error(error, origin, documents) from error
    for name, site in config.sites.items():
        _check_submit(name, site, origin, documents)
    if not config.sites:
        raise ConfigError(
            f"{documents[0].file}: no site", hint="Add one under `sites:`.", file=str(documents[0].file), key="sites"
        )
    if config.default is not None and config.default not in config.sites:
        where = origin.get(("default",), documents[0])
        line = where.line(("default",))
        raise ConfigError(
            f"{where.file}:{line}: default: there is no site {config.default!r}",
            hint=f"The sites are: {', '.join(config.sites)}.",
            file=str(where.file), line=line, key="default",
        )  # fmt: skip
    return config


def _check_submit(name: str, site: SiteConfig, origin: Mapping[_Path, Document], documents: Sequence[Document]) -> None:
    """Check the submit attributes while file and line are known."""
    try:
        if site.submit and isinstance(site.batch, LocalConfig):
            key = next(iter(site.submit))
            raise ConfigError(
                f"submit: {key}: the local site has no submit attributes",
                hint="Remove `submit` here.",
                key=f"submit.{key}",
            )
        check_site_attributes(site.submit)
    except ConfigError as error:
        path = ("sites", name, "submit", *[key for key in site.submit if error.details.get("key") == f"submit.{key}"])
        document = origin.get(path, documents[0])
        line = document.line(path)
        words = f"{document.file}:{line}: sites.{name}.{error.message}"
        raise ConfigError(words, hint=error.hint, file=str(document.file), line=line, key=".".join(path)) from error


def _overlay(
    into: dict[str, Any], values: Mapping[str, Any], document: Document, origin: dict[_Path, Document], path: _Path
) -> None:
    for key, value in values.items():
        here = (*path, str(key))
        origin[here] = document
        below = into.get(key)
        if len(here) == 2 and isinstance(value, Mapping) and isinstance(below, dict) and _other_batch(value, below):
            below.pop("submit", None)  # it spoke of the batch system that is replaced
        if isinstance(value, Mapping) and isinstance(below, dict) and not _replaces(here, value, below):
            _overlay(below, value, document, origin, here)
        elif isinstance(value, Mapping):
            into[key] = {}
            _overlay(into[key], value, document, origin, here)
        else:
            into[key] = value


def _other_batch(value: Mapping[str, Any], below: Mapping[str, Any]) -> bool:
    new, old = value.get("batch"), below.get("batch")
    return isinstance(new, Mapping) and isinstance(old, Mapping) and new.get("type") not in (None, old.get("type"))


def _replaces(path: _Path, value: Mapping[str, Any], below: Mapping[str, Any]) -> bool:
    """Whether a nearer mapping replaces the farther one as a whole: images (their order matters) and a batch of another type."""
    if len(path) == 3 and path[2] == "batch":
        return value.get("type") not in (None, below.get("type"))
    return len(path) == 3 and path[2] == "images"


def _refuse_locked(document: Document, locks: Iterable[tuple[_Path, Document]]) -> None:
    for lock, holder in locks:
        for path, line in document.lines.items():
            covers = len(path) >= len(lock) and all(
                part in ("*", found) for part, found in zip(lock, path, strict=False)
            )
            if covers:
                raise ConfigError(
                    f"{document.file}:{line}: {'.'.join(path)} is locked by {holder.file}",
                    hint="Remove the key here, or ask the administrator.",
                    file=str(document.file), line=line, key=".".join(path),
                )  # fmt: skip


def _config_error(
    error: ValidationError, origin: Mapping[_Path, Document], documents: Sequence[Document]
) -> ConfigError:
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"]]
    # pydantic puts the discriminator's value behind `batch`, where the file has no such key
    path = tuple(
        part for place, part in enumerate(parts) if not (place == 3 and parts[2] == "batch" and part in _BATCH_TYPES)
    )
    known = path
    while known and known not in origin:
        known = known[:-1]
    document = origin.get(known, documents[0])
    line = document.line(path)
    key = ".".join(path)
    words = {"extra_forbidden": "unknown key", "missing": "missing"}.get(
        first["type"], first["msg"].removeprefix("Value error, ")
    )
    hint = _nearest(path) if first["type"] == "extra_forbidden" else "docs/configuration.md lists every key."
    return ConfigError(
        f"{document.file}:{line}: {key}: {words}", hint=hint, file=str(document.file), line=line, key=key
    )


_BATCH_TYPES = ("local", "condor", "condor-ce")


_MODELS = (SitesConfig, SiteConfig, CondorConfig, LocalConfig, LimitsConfig, PolicyConfig, ImageConfig, DefaultsConfig)


def _nearest(path: _Path) -> str:
    names = {name for model in _MODELS for name in model.model_fields}
    close = difflib.get_close_matches(path[-1], sorted(names), n=1)
    return f"Did you mean {close[0]!r}?" if close else "docs/configuration.md lists every key."
