"""Puts a process' service together: configuration → sites → lease → service → loopback listener → connection file."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jupyter_offload import __version__
from jupyter_offload.errors import ConfigError, OffloadError
from jupyter_offload.job import Resources
from jupyter_offload.service.connection import Connection, default_path
from jupyter_offload.service.folders import Folders
from jupyter_offload.service.lease import Lease
from jupyter_offload.service.local import Local
from jupyter_offload.service.rest.api import Api, Traffic
from jupyter_offload.service.rest.loopback import Loopback
from jupyter_offload.service.shared import Shared
from jupyter_offload.service.siteview import SiteEntry, Unbuilt
from jupyter_offload.sites.build import build_sites
from jupyter_offload.sites.config import config_files, load_sites
from jupyter_offload.sites.schema import SiteConfig, SitesConfig

__all__ = ["Assembled", "assemble", "entries", "own_name"]


def own_name(environ: Mapping[str, str]) -> str:
    """Return whose jobs these are: the hub's user, else the user of the operating system."""
    if environ.get("JUPYTERHUB_USER"):
        return environ["JUPYTERHUB_USER"]
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container that runs as a number without a name
        return str(os.getuid())


def entries(config: SitesConfig, folders: Folders, log: logging.Logger) -> Mapping[str, SiteEntry | Unbuilt]:
    """Return the sites of a configuration with what the service needs of their settings; those that cannot be set up with the reason."""
    found: dict[str, SiteEntry | Unbuilt] = {}
    for name, site in build_sites(config, folders.sites).items():
        settings = config.sites[name]
        if isinstance(site, OffloadError):
            log.error("site %s cannot be used: %s", name, site.message, exc_info=site.__cause__)
            found[name] = Unbuilt(site, settings.kind)
        else:
            found[name] = SiteEntry(site, settings.kind, *_settings(settings))
    return found


def _settings(config: SiteConfig) -> tuple[str | None, Resources]:
    given = config.defaults
    return config.cache, Resources(cpus=given.cpus, memory=given.memory, disk=given.disk, time_seconds=given.time)


@dataclass
class Assembled:
    """A running service with its loopback listener."""

    folders: Folders
    shared: Shared
    api: Api
    loopback: Loopback
    connection: Connection

    async def close(self) -> None:
        """Stop listening, then stop owning. Jobs go on."""
        await self.loopback.close()
        await self.shared.close()


def assemble(
    environ: Mapping[str, str], log: logging.Logger, *, published: Path | None = None, address: str = "127.0.0.1"
) -> Assembled:
    """Put everything together; nothing is owned before ``shared.open`` was called.

    ``published`` is the connection file that the owner of the jobs keeps. A faulty sites.yaml does not keep the service from
    starting: everything that needs a site then tells what is wrong with it.
    """
    folders = Folders.from_environ(environ)
    folders.make()
    token = secrets.token_urlsafe(32)

    async def make() -> Local:
        """Open the service with the configuration as it is now."""
        try:
            config = load_sites(environ)
            return await Local.open(folders, entries(config, folders, log), config.default, log=log)
        except ConfigError as error:
            log.error("%s", error.message)
            return await Local.open(folders, {}, None, log=log, problem=error)

    def settings() -> object:
        """Return something that differs when a configuration file was changed."""
        try:
            files = config_files(environ)
            return [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
        except (OSError, ConfigError) as error:
            return str(error)

    shared = Shared(folders, Lease(folders), make, published=published or default_path(), settings=settings, log=log)
    api = Api(
        shared, own_name(environ), folders.new_incoming, forwarded_to=lambda: shared.forwarded_to, traffic=Traffic()
    )
    loopback = Loopback(api, token, address)
    connection = Connection(loopback.url, token, os.getpid(), __version__)
    shared.listens(connection)
    return Assembled(folders, shared, api, loopback, connection)
