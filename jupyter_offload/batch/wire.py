"""Every call of the batch seam as JSON text, so that a batch at another place is only a transport.

A call is ``{"method": name, "arguments": {…}}``; an answer is ``{"result": …}`` or ``{"error": OffloadError.to_json()}``. `bytes`
travel as base64 (the URL-safe alphabet of RFC 4648 §5). A method, a field or a type that the seam does not have is refused before
anything is called.

`serve` answers calls on a real batch; `Client` is a batch whose calls go through a function that carries text there and back;
`Loopback` is both ends in one process, by which the contract tests show that nothing but JSON passes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, with_config

from jupyter_offload.batch import base
from jupyter_offload.batch.base import Batch, BatchInfo, Chunk, Fetched, Found, Handle, Status, Submission
from jupyter_offload.errors import OffloadError, SiteUnreachable, UsageError, from_json

__all__ = ["METHODS", "Client", "Loopback", "serve"]

_STRICT = ConfigDict(extra="forbid", strict=True, ser_json_bytes="base64", val_json_bytes="base64")
_T = TypeVar("_T")

for _record in (base.Demand, Submission, Handle, Status, Chunk, Fetched, Found, base.GpuModel, BatchInfo):
    with_config(_STRICT)(_record)  # the records themselves stay plain dataclasses that know nothing of pydantic


class _Arguments(BaseModel):
    model_config = _STRICT


class _Call(_Arguments):
    method: str
    arguments: dict[str, Any]


class _Submissions(_Arguments):
    submissions: list[Submission]


class _Handles(_Arguments):
    handles: list[Handle]


class _Read(_Arguments):
    handle: Handle
    file: str
    offset: int
    limit: int


class _Cancel(_Arguments):
    handles: list[Handle]
    reason: str


class _JobIds(_Arguments):
    job_ids: list[str]


class _Nothing(_Arguments):
    """A call without arguments."""


_NONE: TypeAdapter[None] = TypeAdapter(None)

METHODS: dict[str, tuple[type[_Arguments], TypeAdapter[Any]]] = {
    "submit": (_Submissions, TypeAdapter(list[list[Handle]])),
    "start": (_Handles, _NONE),
    "poll": (_Handles, TypeAdapter(list[Status])),
    "read": (_Read, TypeAdapter(Chunk)),
    "cancel": (_Cancel, _NONE),
    "fetch": (_Handles, TypeAdapter(list[Fetched])),
    "remove": (_Handles, _NONE),
    "find": (_JobIds, TypeAdapter(list[Found])),
    "describe": (_Nothing, TypeAdapter(BatchInfo)),
    "close": (_Nothing, _NONE),
}
"""The seam as data: for each method the form of its arguments and of its result."""

_ERRORS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


async def serve(batch: Batch, call: str) -> str:
    """Carry out one call and return the answer. Errors of the tree are answered; any other is a fault of the batch and is raised."""
    try:
        method, arguments = _decode_call(call)
        _form, result = METHODS[method]
        value = await getattr(batch, method)(
            **{name: getattr(arguments, name) for name in type(arguments).model_fields}
        )
    except OffloadError as error:
        return f'{{"error":{_ERRORS.dump_json(error.to_json()).decode()}}}'
    return f'{{"result":{result.dump_json(value).decode()}}}'


def _decode_call(call: str) -> tuple[str, _Arguments]:
    try:
        parsed = _Call.model_validate_json(call)
        if parsed.method not in METHODS:
            raise UsageError(
                f"a batch has no method {parsed.method!r}",
                hint="Both ends must run the same version of jupyter_offload.",
            )
        form = METHODS[parsed.method][0]
        return parsed.method, form.model_validate_json(_ERRORS.dump_json(parsed.arguments))
    except ValidationError as error:
        raise UsageError(
            f"a batch call cannot be read: {_first(error)}",
            hint="Both ends must run the same version of jupyter_offload.",
        ) from None


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


class Client:
    """A batch at the other end of ``carry``, which takes a call as text and returns the answer as text.

    ``carry`` raises a `SiteError` of its own where the other end cannot be reached.
    """

    def __init__(self, carry: Callable[[str], Awaitable[str]]) -> None:
        self._carry = carry

    async def submit(self, submissions: Sequence[Submission]) -> list[list[Handle]]:
        """See `Batch.submit`."""
        return await self._call("submit", _Submissions(submissions=list(submissions)), list[list[Handle]])

    async def start(self, handles: Sequence[Handle]) -> None:
        """See `Batch.start`."""
        await self._call("start", _Handles(handles=list(handles)), type(None))

    async def poll(self, handles: Sequence[Handle]) -> list[Status]:
        """See `Batch.poll`."""
        return await self._call("poll", _Handles(handles=list(handles)), list[Status])

    async def read(self, handle: Handle, file: str, offset: int, limit: int = 1 << 20) -> Chunk:
        """See `Batch.read`."""
        return await self._call("read", _Read(handle=handle, file=file, offset=offset, limit=limit), Chunk)

    async def cancel(self, handles: Sequence[Handle], reason: str) -> None:
        """See `Batch.cancel`."""
        await self._call("cancel", _Cancel(handles=list(handles), reason=reason), type(None))

    async def fetch(self, handles: Sequence[Handle]) -> list[Fetched]:
        """See `Batch.fetch`."""
        return await self._call("fetch", _Handles(handles=list(handles)), list[Fetched])

    async def remove(self, handles: Sequence[Handle]) -> None:
        """See `Batch.remove`."""
        await self._call("remove", _Handles(handles=list(handles)), type(None))

    async def find(self, job_ids: Sequence[str]) -> list[Found]:
        """See `Batch.find`."""
        return await self._call("find", _JobIds(job_ids=list(job_ids)), list[Found])

    async def describe(self) -> BatchInfo:
        """See `Batch.describe`."""
        return await self._call("describe", _Nothing(), BatchInfo)

    async def close(self) -> None:
        """See `Batch.close`."""
        await self._call("close", _Nothing(), type(None))

    async def _call(self, method: str, arguments: _Arguments, _kind: type[_T]) -> _T:
        answer = await self._carry(f'{{"method":"{method}","arguments":{arguments.model_dump_json()}}}')
        result: _T
        try:
            parsed = _ERRORS.validate_json(answer)
            if set(parsed) == {"error"} and isinstance(parsed["error"], dict):
                raise from_json(parsed["error"])
            if set(parsed) != {"result"}:
                raise _nonsense("neither a result nor an error")
            result = METHODS[method][1].validate_json(_ANY.dump_json(parsed["result"]))
        except ValidationError as error:
            raise _nonsense(_first(error)) from None
        return result


_ANY: TypeAdapter[Any] = TypeAdapter(Any)


def _nonsense(detail: str) -> SiteUnreachable:
    return SiteUnreachable(
        f"the answer of the batch cannot be read: {detail}",
        hint="Both ends must run the same version of jupyter_offload.",
    )


class Loopback(Client):
    """``batch`` behind JSON text."""

    def __init__(self, batch: Batch) -> None:
        async def carry(call: str) -> str:
            return await serve(batch, call)

        super().__init__(carry)
