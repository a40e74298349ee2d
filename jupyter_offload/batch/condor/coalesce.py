"""Group commit: what queues up while a call is under way goes together in the next one.

A lone caller never waits; a thousand concurrent ones cost two calls. It serves submissions (one schedd transaction for many callers) and
sweeps (one query for all who poll).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Coalescer"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Coalescer(Generic[Item, Result]):
    """Collects items and hands them to ``run``, which returns one result or one exception per item, in order.

    An exception that ``run`` raises goes to every caller of that round.
    """

    def __init__(self, run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]]) -> None:
        self._run = run
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._task: asyncio.Task[None] | None = None
        self.rounds = 0

    async def __call__(self, item: Item) -> Result:
        """Return the item's result of a round that begins after this call. A caller that gives up before that is left out of it."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._rounds())
        return await future

    async def _rounds(self) -> None:
        # One turn of the loop, so that callers that were made ready together share the first round.
        await asyncio.sleep(0)
        while self._waiting:
            batch = [(item, future) for item, future in self._waiting if not future.done()]
            self._waiting.clear()
            if not batch:
                continue
            self.rounds += 1
            try:
                results = await self._run([item for item, _ in batch])
            except BaseException as error:
                _settle(batch, [error] * len(batch))
                if not isinstance(error, Exception):
                    raise
            else:
                _settle(batch, results)

    async def close(self) -> None:
        """Break off what is under way; its callers get `asyncio.CancelledError`."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()


def _settle(batch: Sequence[tuple[Item, asyncio.Future[Result]]], results: Sequence[Result | BaseException]) -> None:
    for (_, future), result in zip(batch, results, strict=True):
        if future.done():
            continue
        if isinstance(result, asyncio.CancelledError):
            future.cancel()
        elif isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
