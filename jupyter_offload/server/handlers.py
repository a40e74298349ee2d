"""The REST API for the Jupyter server's users: who may ask; what is done is in `jupyter_offload.service.rest`.

Every verb is authenticated by the server's identity provider and authorized by its authorizer, for the resource ``offload``.
"""

# mypy: disable-error-code="override"
# (the results of the decorators are typed as any handler's method)

from __future__ import annotations

from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.extension.handler import ExtensionHandlerMixin
from tornado import web

from jupyter_offload.service.rest import handlers as logic
from jupyter_offload.service.rest.base import Logic
from jupyter_offload.service.rest.routes import PREFIX, ROUTES
from jupyter_offload.service.rest.stream import LogStreamLogic
from jupyter_offload.service.rest.upload import UploadLogic

__all__ = ["HANDLERS"]

RESOURCE = "offload"


def _owner(handler: Any) -> str:
    """Return whose jobs the caller sees.

    The stock identity providers make a random user per token or browser: with them there is one user, the server's. Others
    (JupyterHub's, a proxy's) name a person.
    """
    provider = handler.identity_provider
    user = handler.current_user
    anonymous = type(provider).__module__.partition(".")[0] == "jupyter_server"
    owner: str = handler.api.owner if anonymous or user is None else user.username
    announcer = handler.settings.get("offload_announcer")
    if announcer is not None:
        announcer.follow(owner)
    return owner


class OffloadHandler(ExtensionHandlerMixin, APIHandler, Logic):
    """Who may ask."""

    auth_resource = RESOURCE
    _track_activity = False  # polling for jobs must not keep the server alive

    @property
    def owner(self) -> str:
        """Whose jobs the caller sees."""
        return _owner(self)

    def finish(self, *arguments: Any, **options: Any) -> Any:
        """End the answer with the content type that was set."""
        options.setdefault("set_content_type", self._headers.get("Content-Type", "application/json"))
        return super().finish(*arguments, **options)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer as the loopback listener does."""
        Logic.write_error(self, status_code, **kwargs)


class HealthHandler(OffloadHandler, logic.HealthLogic):
    """``/health``."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Say who answers."""
        await super().get()


class JobsHandler(OffloadHandler, logic.JobsLogic):
    """``/jobs``."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List what changed after a revision."""
        await super().get()


class JobHandler(OffloadHandler, UploadLogic):
    """``/jobs/{id}``."""

    async def prepare(self) -> None:
        """Refuse strangers before a body is read."""
        await super().prepare()
        if self.request.method == "PUT":
            user = self.current_user
            if user is None or not await ensure_async(self.authorizer.is_authorized(self, user, "write", RESOURCE)):
                raise web.HTTPError(403)
            self.begin_upload()

    @web.authenticated
    @authorized
    async def get(self, job_id: str) -> None:
        """Show one job."""
        await super().get(job_id)

    @web.authenticated
    @authorized
    async def put(self, job_id: str) -> None:
        """Take a submission."""
        await super().put(job_id)

    @web.authenticated
    @authorized
    async def delete(self, job_id: str) -> None:
        """Forget an ended job."""
        await super().delete(job_id)


class CancelHandler(OffloadHandler, logic.CancelLogic):
    """``/jobs/{id}/cancel``."""

    @web.authenticated
    @authorized
    async def post(self, job_id: str) -> None:
        """Ask for a job's end."""
        await super().post(job_id)


class ResultHandler(OffloadHandler, logic.ResultLogic):
    """``/jobs/{id}/result``."""

    @web.authenticated
    @authorized
    async def get(self, job_id: str) -> None:
        """Send the result bundle."""
        await super().get(job_id)


class FilesHandler(OffloadHandler, logic.FilesLogic):
    """``/jobs/{id}/files``."""

    @web.authenticated
    @authorized
    async def get(self, job_id: str) -> None:
        """List the files that came back."""
        await super().get(job_id)


class FileHandler(OffloadHandler, logic.FileLogic):
    """``/jobs/{id}/files/{path}``."""

    @web.authenticated
    @authorized
    async def get(self, job_id: str, path: str) -> None:
        """Send one file."""
        await super().get(job_id, path)


class LogsHandler(OffloadHandler, logic.LogsLogic):
    """``/jobs/{id}/logs``."""

    @web.authenticated
    @authorized
    async def get(self, job_id: str) -> None:
        """Send bytes of one stream."""
        await super().get(job_id)


class DryRunHandler(OffloadHandler, logic.DryRunLogic):
    """``/dry-run``."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Show what a submission would be."""
        await super().post()


class SitesHandler(OffloadHandler, logic.SitesLogic):
    """``/sites``."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List the sites."""
        await super().get()


class DoctorHandler(OffloadHandler, logic.DoctorLogic):
    """``/doctor``."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Check each link of the chain."""
        await super().post()


class CleanHandler(OffloadHandler, logic.CleanLogic):
    """``/clean``."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Remove ended jobs."""
        await super().post()


class TranslateHandler(OffloadHandler, logic.TranslateLogic):
    """``/translate``."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Show the script that a Pod manifest would become."""
        await super().post()


class LogStreamHandler(ExtensionHandlerMixin, WebSocketMixin, JupyterHandler, LogStreamLogic):
    """``/jobs/{id}/logs/stream``."""

    auth_resource = RESOURCE

    @property
    def owner(self) -> str:
        """Whose jobs the caller sees."""
        return _owner(self)

    @ws_authenticated
    async def get(self, job_id: str) -> None:
        """Open the socket for those who may read."""
        if not await ensure_async(self.authorizer.is_authorized(self, self.current_user, "read", RESOURCE)):
            raise web.HTTPError(403)
        await super().get(job_id)


_OF: dict[type, type] = {
    logic.HealthLogic: HealthHandler,
    logic.JobsLogic: JobsHandler,
    UploadLogic: JobHandler,
    logic.CancelLogic: CancelHandler,
    logic.ResultLogic: ResultHandler,
    logic.FilesLogic: FilesHandler,
    logic.FileLogic: FileHandler,
    logic.LogsLogic: LogsHandler,
    LogStreamLogic: LogStreamHandler,
    logic.DryRunLogic: DryRunHandler,
    logic.SitesLogic: SitesHandler,
    logic.DoctorLogic: DoctorHandler,
    logic.CleanLogic: CleanHandler,
    logic.TranslateLogic: TranslateHandler,
}

HANDLERS: tuple[tuple[str, type], ...] = tuple((PREFIX + pattern, _OF[kind]) for pattern, kind in ROUTES)
"""The routes, relative to the server's base URL."""
