"""A service without a Jupyter server: ``python -m jupyter_offload.service.headless``.

Whoever needs it starts it and looks for the connection file; any number of them may do so at once, one service stays. It leaves its
starter's session, logs to a private file, and ends by itself when nobody has asked for anything for ten minutes and no job is active.
While a job is active it stays, so that results are brought home as soon as they are there; if it is killed all the same nothing is
lost, the next one goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import logging.handlers
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from jupyter_offload.service.assemble import Assembled, assemble
from jupyter_offload.service.connection import Connection, default_path
from jupyter_offload.service.folders import Folders, private_folder
from jupyter_offload.service.lease import Lease

__all__ = ["main", "serve"]

IDLE_SECONDS = 600.0
LOG_BYTES = 5_000_000
LOG_FILES = 3


async def serve(log: logging.Logger, *, idle_seconds: float = IDLE_SECONDS, published: Path | None = None) -> int:
    """Own the jobs until idle or told to end (SIGTERM, SIGINT); return the exit code.

    If another process owns them, tell kernels where it listens, and end.
    """
    path = published or default_path()
    assembled = assemble(os.environ, log, published=path)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        if not await assembled.shared.open(forward=False):
            _point_to_owner(assembled, path, log)
            return 0
        log.info("process %d owns the jobs below %s", os.getpid(), assembled.folders.root)
        await _until_idle(assembled, stop, idle_seconds, log)
    finally:
        await assembled.close()
    return 0


def _point_to_owner(assembled: Assembled, path: Path, log: logging.Logger) -> None:
    holder = Lease(assembled.folders).holder()
    if holder is None:
        return
    log.info("process %d on %s owns the jobs", holder.pid, holder.host)
    owner = Connection(holder.url, holder.token, holder.pid, holder.version)
    if Connection.read(path) != owner:
        owner.write(path)


async def _until_idle(assembled: Assembled, stop: asyncio.Event, idle_seconds: float, log: logging.Logger) -> None:
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), min(5.0, idle_seconds / 4))
        except asyncio.TimeoutError:  # noqa: PERF203
            local = assembled.shared.local
            active = local.active() if local is not None else 0
            if active == 0 and assembled.api.traffic.idle_seconds() > idle_seconds:
                log.info("idle: ending")
                return


def _detach(log_path: Path) -> None:
    """Leave the starter's session and its terminal."""
    if os.getpid() != os.getsid(0):
        if os.getpid() == os.getpgrp() and os.fork():  # a group's leader cannot leave its session
            os._exit(0)
        os.setsid()
    os.umask(0o077)
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    errors = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor, target in ((nothing, 0), (nothing, 1), (errors, 2)):
        os.dup2(descriptor, target)
    os.close(nothing)
    os.close(errors)


def _logger(path: Path, level: str) -> logging.Logger:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    path.chmod(0o600)
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    return logging.getLogger("jupyter_offload")


def main(arguments: Sequence[str] | None = None) -> int:
    """Start it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jupyter_offload.service.headless", description=__doc__)
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS, help="end after so long without a request")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    parser.add_argument(
        "--foreground", action="store_true", help="stay in the starter's session and log to its terminal too"
    )
    options = parser.parse_args(arguments)
    folders = Folders.from_environ(os.environ)
    private_folder(folders.root)
    if not options.foreground:
        _detach(folders.log)
    log = _logger(folders.log, options.log_level)
    if options.foreground:
        logging.getLogger().addHandler(logging.StreamHandler())
    return asyncio.run(serve(log, idle_seconds=options.idle_seconds))


if __name__ == "__main__":
    sys.exit(main())
