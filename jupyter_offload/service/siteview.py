"""The sites as the service sees them: each with its settings, what it last said of itself, and since when it does not answer."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from jupyter_offload.errors import OffloadError, SiteError, SiteTimeout, UnknownName
from jupyter_offload.job import Resources
from jupyter_offload.service.service import SiteView
from jupyter_offload.sites.base import Capabilities, Gpu, Image, Limits, Site, SiteInfo

__all__ = ["SiteBook", "SiteEntry", "Unbuilt", "Visit", "deadline", "info_from_json"]

_T = TypeVar("_T")

FRESH_SECONDS = 60.0
"""How long a site's description is used without asking again."""
DESCRIBE_SECONDS = 20.0


async def deadline(site: str, what: str, call: Awaitable[_T], seconds: float) -> _T:
    """Await a call to a site, for ``seconds`` at most. Raises `SiteTimeout`."""
    try:
        return await asyncio.wait_for(call, seconds)
    except asyncio.TimeoutError as error:
        raise SiteTimeout(
            f"site {site} did not answer within {seconds:.0f} s ({what})",
            hint="It is asked again by itself; `%offload doctor` shows which link of the chain is broken.",
        ) from error


@dataclass(frozen=True)
class SiteEntry:
    """A site with the settings that the service needs of it."""

    site: Site
    kind: str = "direct"
    cache: str | None = None
    """Folder on the worker nodes for images and environments."""
    defaults: Resources = field(default_factory=Resources)
    """What a task gets that does not ask."""


@dataclass(frozen=True)
class Unbuilt:
    """A configured site that cannot be set up in this process; ``error`` is told to whoever asks for it."""

    error: OffloadError
    kind: str = "direct"


@dataclass
class Visit:
    """What the service knows of one site now."""

    entry: SiteEntry
    info: SiteInfo | None = None
    asked: float = float("-inf")
    """When ``info`` was last asked for, on the monotonic clock."""
    stale_since: float | None = None
    error: OffloadError | None = None

    @property
    def name(self) -> str:
        """The site's name."""
        return self.entry.site.name


class SiteBook:
    """All sites. ``remember`` is called with a site's name and description (JSON) when it answered."""

    def __init__(
        self,
        entries: Mapping[str, SiteEntry | Unbuilt],
        default: str | None,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        remember: Callable[[str, str], Awaitable[None]],
        log: logging.Logger,
        problem: OffloadError | None = None,
    ) -> None:
        self._problem = problem
        self._visits = {name: Visit(entry) for name, entry in entries.items() if isinstance(entry, SiteEntry)}
        self._unbuilt = {name: entry for name, entry in entries.items() if isinstance(entry, Unbuilt)}
        self._names = tuple(entries)
        self.default = default or next(iter(entries), "")
        self._clock = clock
        self._wall = wall
        self._remember = remember
        self._log = log
        self._asking: dict[str, asyncio.Task[SiteInfo]] = {}

    def __iter__(self) -> Any:
        return iter(self._visits.values())

    def recall(self, notes: Mapping[str, str]) -> None:
        """Take what the sites said to an earlier service, until they answer again."""
        for name, text in notes.items():
            visit = self._visits.get(name)
            if visit is not None:
                try:
                    visit.info = info_from_json(json.loads(text))
                except (ValueError, TypeError, KeyError) as error:
                    self._log.info("what site %s said to an earlier release is not used: %s", name, error)

    def visit(self, name: str | None) -> Visit:
        """Return the site of this name, or the default one. Raises `UnknownName`, or why there is no such site to work with."""
        if self._problem is not None:
            raise self._problem
        wanted = name or self.default
        self.check_built(wanted)
        found = self._visits.get(wanted)
        if found is None:
            raise UnknownName(
                f"there is no site {wanted!r}", hint=f"The sites are: {', '.join(self._names) or 'none'}."
            )
        return found

    def known(self, name: str) -> Visit | None:
        """Return the site of this name, or None when the configuration has it no more or it could not be set up."""
        return self._visits.get(name)

    def check_built(self, name: str) -> None:
        """Raise why the site of this name could not be set up, if it is configured and could not."""
        if name in self._unbuilt:
            raise self._unbuilt[name].error

    async def info(self, visit: Visit, *, seconds: float = DESCRIBE_SECONDS, fresh: bool = False) -> SiteInfo:
        """Return what the site says of itself: what is known if it is fresh, else by asking. Raises `SiteError`.

        A site that does not answer is described by what it said last; only one that never answered raises.
        """
        if visit.info is not None and not fresh and self._clock() - visit.asked < FRESH_SECONDS:
            return visit.info
        task = self._asking.get(visit.name)
        if task is None:
            task = asyncio.create_task(self._ask(visit))
            self._asking[visit.name] = task
            task.add_done_callback(lambda _: self._asking.pop(visit.name, None))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        if visit.info is not None and not fresh:
            return visit.info  # the answer that is under way is for the next one
        return await deadline(visit.name, "describe", asyncio.shield(task), seconds)

    async def _ask(self, visit: Visit) -> SiteInfo:
        visit.asked = self._clock()
        try:
            info = await deadline(visit.name, "describe", visit.entry.site.describe(), DESCRIBE_SECONDS)
        except SiteError as error:
            self.went_stale(visit, error)
            raise
        visit.info = info
        self.answered(visit)
        await self._remember(visit.name, json.dumps(dataclasses.asdict(info)))
        return info

    def went_stale(self, visit: Visit, error: OffloadError) -> bool:
        """Note that the site could not be looked at; return whether that is news."""
        news = visit.stale_since is None
        if news:
            visit.stale_since = self._wall()
            self._log.warning("site %s does not answer: %s", visit.name, error.message)
        visit.error = error
        return news

    def answered(self, visit: Visit) -> bool:
        """Note that the site answers; return whether that is news."""
        news = visit.stale_since is not None
        visit.stale_since = None
        visit.error = None
        return news

    async def views(self) -> list[SiteView]:
        """Return all sites with their health; sites that were not asked lately are asked, for a few seconds."""
        if self._problem is not None:
            raise self._problem
        await asyncio.gather(*(self._try(visit) for visit in self._visits.values()))
        return [
            self._view(self._visits[name]) if name in self._visits else self._broken(name, self._unbuilt[name])
            for name in self._names
        ]

    async def _try(self, visit: Visit) -> None:
        try:
            await self.info(visit, seconds=5.0)
        except SiteError as error:
            self.went_stale(visit, error)

    def _broken(self, name: str, entry: Unbuilt) -> SiteView:
        return SiteView(name, name == self.default, entry.kind, "error", None, entry.error.to_json(), None)

    def _view(self, visit: Visit) -> SiteView:
        state = "ok" if visit.stale_since is None else ("stale" if visit.info is not None else "error")
        return SiteView(
            visit.name,
            visit.name == self.default,
            visit.entry.kind,
            state,
            visit.stale_since,
            visit.error.to_json() if visit.error else None,
            dataclasses.asdict(visit.info) if visit.info else None,
        )


def info_from_json(data: Mapping[str, Any]) -> SiteInfo:
    """Rebuild a `SiteInfo` from plain data. Raises `TypeError` or `KeyError` when another release wrote it."""
    values = dict(data)
    values["capabilities"] = Capabilities(**values["capabilities"])
    values["limits"] = Limits(**values["limits"])
    values["images"] = tuple(Image(**image) for image in values["images"])
    values["gpus"] = tuple(Gpu(**gpu) for gpu in values["gpus"])
    values["notes"] = tuple(values["notes"])
    return SiteInfo(**values)
