"""The ground of all handlers: finding the service, reading parameters, writing answers and errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tornado import web

from jupyter_offload.errors import OffloadError, UsageError
from jupyter_offload.service.rest.api import Api
from jupyter_offload.service.service import OffloadService

__all__ = ["LONGEST_WAIT_SECONDS", "Logic"]

LONGEST_WAIT_SECONDS = 60.0
_LARGEST_BODY = 16 << 20
_log = logging.getLogger("jupyter_offload.rest")


class Logic(web.RequestHandler):
    """What a handler does, whoever asks. Who may ask is decided by the class that is mixed in before it."""

    @property
    def api(self) -> Api:
        """What the handlers of this process share."""
        api: Api = self.settings["offload"]
        return api

    @property
    def service(self) -> OffloadService:
        """The service that owns the jobs, here or elsewhere."""
        return self.api.service

    @property
    def owner(self) -> str:
        """Whose jobs the caller sees."""
        return self.api.owner

    def answer(self, data: Mapping[str, Any] | Sequence[Any], status: int = 200) -> None:
        """Write JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(data))

    def body(self) -> dict[str, Any]:
        """Return the JSON object of the request's body (none: empty). Raises `UsageError`."""
        if len(self.request.body) > _LARGEST_BODY:
            raise UsageError("the request's body is too large", hint="Send at most 16 MiB.")
        try:
            data = json.loads(self.request.body or b"{}")
        except ValueError as error:
            raise UsageError(f"the request's body is not JSON: {error}", hint="Send a JSON object.") from error
        if not isinstance(data, dict):
            raise UsageError("the request's body is not a JSON object", hint="Send a JSON object.")
        return data

    def whole(self, name: str, default: int | None = None, *, least: int = 0) -> int | None:
        """Return a whole number among the parameters. Raises `UsageError`."""
        text = self.get_query_argument(name, None)
        if text is None or text == "":
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 18) or int(text) < least:
            raise UsageError(f"{name}={text!r} is not a whole number of at least {least}", hint=f"Such as {name}=10.")
        return int(text)

    def number(self, name: str, default: int) -> int:
        """Return a whole number of at least 0 among the parameters. Raises `UsageError`."""
        value = self.whole(name, default)
        return default if value is None else value

    def wait_seconds(self) -> float:
        """Return for how long the caller waits, at most 60 s. Raises `UsageError`."""
        text = self.get_query_argument("wait", "0")
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < float("inf"):
            raise UsageError(f"wait={text!r} is not a number of seconds", hint="Such as wait=30.")
        return min(seconds, LONGEST_WAIT_SECONDS)

    def flag(self, name: str) -> bool:
        """Return a parameter that is 0 or 1. Raises `UsageError`."""
        text = self.get_query_argument(name, "0")
        if text not in ("0", "1"):
            raise UsageError(f"{name}={text!r} is neither 0 nor 1", hint=f"Write {name}=1.")
        return text == "1"

    def prepare(self) -> Any:
        """Count the request."""
        self.api.traffic.begun()
        self._counted = True
        return super().prepare()

    def on_finish(self) -> None:
        """Count its end."""
        if getattr(self, "_counted", False):
            self._counted = False
            self.api.traffic.ended()
        super().on_finish()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with `OffloadError.to_json`, also for faults that are not ours."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, OffloadError):
            self.answer(error.to_json(), error.status)
        elif isinstance(error, web.HTTPError):
            reason = error.log_message or error.reason or self._reason
            self.answer(
                OffloadError(str(reason), hint="rest-api.yml describes what can be asked.").to_json(), status_code
            )
        else:
            self.answer(
                OffloadError("an error inside the service", hint="See the service's log.").to_json(), status_code
            )

    def log_exception(self, kind: Any, value: Any, trace: Any) -> None:
        """Log faults of ours alone; errors that the caller is told are not ours."""
        if isinstance(value, OffloadError):
            if value.status >= 500:
                _log.warning("%s %s: %s", self.request.method, self.request.path, value.message)
            return
        super().log_exception(kind, value, trace)
