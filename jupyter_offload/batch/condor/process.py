"""One worker subprocess seen from the event loop: requests with a deadline, after which the process is killed.

A request that is broken off in any way (deadline, cancelled caller, garbled answer) ends the process, because its state is unknown; the
next request starts a new one (about 50 ms).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["BindingsError", "DeadlineExceeded", "WorkerEnded", "WorkerProcess", "WorkerRetired"]

_LINE_LIMIT = 64 << 20
_STDERR_KEPT = 4000


class BindingsError(Exception):
    """The bindings raised in the worker; the text is theirs, ``kind`` the name of the class."""

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text)
        self.kind = kind


class DeadlineExceeded(Exception):
    """The worker did not answer in time and was killed."""


class WorkerEnded(Exception):
    """The worker ended in the middle of a request (killed, crashed, out of memory)."""


class WorkerRetired(Exception):
    """The worker takes no more requests; this one was not begun."""


class WorkerProcess:
    """A worker that is started when it is needed and does one request after the other.

    ``environment`` is all that the process gets; ``calls_max`` and ``memory_max`` bound the life of one process, against leaks in the
    bindings.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        command: Sequence[str] = (sys.executable, "-m", "jupyter_offload.batch.condor.worker"),
        calls_max: int = 10_000,
        memory_max: int = 500 << 20,
    ) -> None:
        self._environment = dict(environment)
        self._command = tuple(command)
        self._calls_max = calls_max
        self._memory_max = memory_max
        self._process: asyncio.subprocess.Process | None = None
        self._stderr: asyncio.Task[None] | None = None
        self._stderr_text = b""
        self._lock = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._calls = 0
        self._memory = 0
        self._retired = False
        self.used = time.monotonic()

    @property
    def pid(self) -> int | None:
        """Process id of the living worker, or ``None``."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self._lock.locked()

    async def call(
        self,
        op: str,
        arguments: Mapping[str, Any],
        *,
        deadline: float,
        rows: Callable[[list[Any]], None] | None = None,
    ) -> Any:
        """Do one request; ``rows`` gets the answer's rows as they arrive.

        Raises `BindingsError`, `DeadlineExceeded` (``deadline`` seconds from the moment that the worker is free), `WorkerEnded` or
        `WorkerRetired`.
        """
        async with self._lock:
            if self._retired:
                raise WorkerRetired
            self.used = time.monotonic()
            try:
                return await asyncio.wait_for(self._call(op, arguments, rows), deadline)
            except asyncio.TimeoutError:
                await self._kill()
                raise DeadlineExceeded(f"no answer to {op} within {deadline:g} s") from None
            except BindingsError:
                raise
            except BaseException:
                await self._kill()
                raise
            finally:
                self.used = time.monotonic()

    async def _call(self, op: str, arguments: Mapping[str, Any], rows: Callable[[list[Any]], None] | None) -> Any:
        process = await self._started()
        if process.stdin is None or process.stdout is None:
            raise WorkerEnded("the worker has no pipes")
        number = next(self._numbers)
        line = json.dumps({"id": number, "op": op, "args": arguments}, separators=(",", ":"))
        try:
            process.stdin.write(line.encode() + b"\n")
            await process.stdin.drain()
            while True:
                answer = await self._answer(process.stdout, number)
                if "rows" not in answer:
                    break
                if rows is not None:
                    rows(answer["rows"])
                await asyncio.sleep(0)  # the next line may be here already, and so on for seconds
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise WorkerEnded(await self._last_words(process)) from error
        self._calls += 1
        self._memory = int(answer.get("rss", 0))
        if "error" in answer:
            raise BindingsError(str(answer["error"]), str(answer.get("type", "")))
        return answer["ok"]

    async def _answer(self, stream: asyncio.StreamReader, number: int) -> dict[str, Any]:
        line = await stream.readuntil(b"\n")
        answer = json.loads(line)
        if not isinstance(answer, dict) or answer.get("id") != number:
            raise WorkerEnded(f"the worker answered something else: {line[:200]!r}")
        return answer

    async def _started(self) -> asyncio.subprocess.Process:
        worn = self._calls >= self._calls_max or self._memory >= self._memory_max
        if worn:
            await self._kill()
        process = self._process
        if process is None or process.returncode is not None:
            self._calls = self._memory = 0
            self._stderr_text = b""
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment,
                cwd=os.sep,
                start_new_session=True,
                limit=_LINE_LIMIT,
            )
            self._process = process
            self._stderr = asyncio.create_task(self._keep_stderr(process))
        return process

    async def _keep_stderr(self, process: asyncio.subprocess.Process) -> None:
        while process.stderr is not None and (piece := await process.stderr.read(1 << 16)):
            self._stderr_text = (self._stderr_text + piece)[-_STDERR_KEPT:]

    async def _last_words(self, process: asyncio.subprocess.Process) -> str:
        code = await process.wait()
        if self._stderr is not None:
            await self._stderr
        said = self._stderr_text.decode(errors="replace").strip()
        return f"the HTCondor worker ended with code {code}" + (f": {said[-1000:]}" if said else "")

    async def _kill(self) -> None:
        process, self._process = self._process, None
        stderr, self._stderr = self._stderr, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        # Shielded, so that a cancelled caller still leaves no zombie and no open pipe behind.
        await asyncio.shield(asyncio.ensure_future(_reap(process, stderr)))

    async def rest(self) -> None:
        """End the process, also in the middle of a request; a later request starts another."""
        await self._kill()

    async def retire(self) -> None:
        """Take no more requests, let the one under way end, and end the process."""
        self._retired = True
        async with self._lock:
            await self._kill()

    async def close(self) -> None:
        """End the process now and take no more requests."""
        self._retired = True
        await self._kill()


async def _reap(process: asyncio.subprocess.Process, stderr: asyncio.Task[None] | None) -> None:
    await process.wait()
    if stderr is not None:
        await stderr
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()
