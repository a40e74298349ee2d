"""The links of the chain to a schedd, one after the other, in words: what `doctor` shows."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.batch.condor.environment import token_source
from jupyter_offload.batch.condor.resources import describe
from jupyter_offload.batch.condor.schedd import Schedd
from jupyter_offload.batch.condor.tokens import complaints, read_token
from jupyter_offload.errors import OffloadError
from jupyter_offload.quantity import show_bytes, show_duration

__all__ = ["Check", "checks"]


@dataclass(frozen=True)
class Check:
    """One link: whether it holds (``None``: cannot be told), what was seen, and what to do."""

    name: str
    ok: bool | None
    detail: str
    hint: str = ""
    seconds: float = 0.0


def _good(name: str, detail: str) -> Check:
    return Check(name, ok=True, detail=detail)


def _bad(name: str, detail: str, hint: str) -> Check:
    return Check(name, ok=False, detail=detail, hint=hint)


async def checks(schedd: Schedd, *, environ: Mapping[str, str] | None = None) -> AsyncIterator[Check]:
    """Yield the checks in the order of the chain; after a broken link those that need it are left out.

    TCP to the collector, the token as this machine reads it, the bindings, the schedd's address, permission to submit, the worker nodes.
    """
    config = schedd.config
    environment = os.environ if environ is None else environ
    steps: tuple[tuple[str, Callable[[], Awaitable[Check]], bool], ...] = (
        ("TCP", lambda: _tcp(config), True),
        ("token", lambda: _token(config, environment), True),
        ("bindings", lambda: _bindings(schedd), True),
        ("schedd", lambda: _located(schedd), True),
        ("ping", lambda: _ping(schedd), False),
        ("worker nodes", lambda: _nodes(schedd), False),
    )
    for name, step, needed in steps:
        begun = time.monotonic()
        try:
            check = await step()
        except OffloadError as error:
            check = _bad(name, error.message, error.hint)
        yield Check(check.name, check.ok, check.detail, check.hint, time.monotonic() - begun)
        if check.ok is False and needed:
            return


async def _tcp(config: CondorConfig) -> Check:
    if config.collector is None:
        return Check("TCP", None, "the collector is the one of this machine's configuration")
    host, _, port = config.collector.rpartition(":") if ":" in config.collector else (config.collector, "", "9618")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), config.locate_seconds)
    except (OSError, ValueError, asyncio.TimeoutError) as error:
        words = "no answer" if isinstance(error, asyncio.TimeoutError) else str(error)
        return _bad(
            "TCP",
            f"{config.collector} cannot be reached: {words}",
            "Check the address under `collector` in sites.yaml, the network and the firewall.",
        )
    writer.close()
    return _good("TCP", f"{config.collector} can be reached")


async def _token(config: CondorConfig, environ: Mapping[str, str]) -> Check:
    source = token_source(config, environ)
    if source is None:
        if config.condor_config == "system":
            return Check("token", None, "this machine's HTCondor configuration says who you are")
        return _bad(
            "token",
            "there is no token",
            "Name its file as `token_file` in sites.yaml, or set BEARER_TOKEN_FILE.",
        )
    token = read_token(source)
    said = complaints(token, config.collector if config.type == "condor-ce" else None)
    who = f"{source}: {token.subject or 'nobody'} of {token.issuer or 'no issuer'}"
    if said:
        return _bad("token", f"{who}: {'; '.join(said)}", "Fetch a new token with the rights to submit.")
    mode = source.stat().st_mode & 0o077
    if mode:
        return _bad("token", f"{source} can be read by others", f"chmod 600 {source}")
    if token.expires is None:
        return _good("token", f"{who}, without an end")
    return _good("token", f"{who}, good for {show_duration(token.expires - time.time())}")


async def _bindings(schedd: Schedd) -> Check:
    return _good("bindings", (await schedd.bindings()).strip("$ "))


async def _located(schedd: Schedd) -> Check:
    found = await schedd.locate()
    return _good("schedd", f"{found.get('Name')}, {found.get('CondorVersion', '').strip('$ ')}")


async def _ping(schedd: Schedd) -> Check:
    answer = await schedd.ping()
    who = answer.get("MyRemoteUserName") or "somebody"
    return _good("ping", f"the schedd knows us as {who} and lets us submit (what ping says, no proof)")


async def _nodes(schedd: Schedd) -> Check:
    info = await describe(schedd)
    if info.cpus_total is None:
        return Check("worker nodes", None, info.notes[0] if info.notes else "the collector shows no worker nodes")
    memory = show_bytes(info.largest_memory_bytes or 0)
    runtime = {True: "all with apptainer", False: "none with apptainer", None: "apptainer on some"}[info.apptainer]
    gpus = ", ".join(f"{model.total} {model.name}" for model in info.gpus) or "no GPUs"
    detail = f"{info.cpus_total} cores, {info.cpus_free} free; up to {memory} for one task; {runtime}; {gpus}"
    return _good("worker nodes", detail)
