"""Which path is whose. The patterns are relative to ``<base>/offload/api/v1``."""

from __future__ import annotations

from jupyter_offload.service.rest import handlers
from jupyter_offload.service.rest.base import Logic
from jupyter_offload.service.rest.stream import LogStreamLogic
from jupyter_offload.service.rest.upload import UploadLogic

__all__ = ["PREFIX", "ROUTES"]

PREFIX = "/offload/api/v1"
_JOB = r"/jobs/([^/]+)"

ROUTES: tuple[tuple[str, type[Logic] | type[LogStreamLogic]], ...] = (
    (r"/health", handlers.HealthLogic),
    (r"/jobs", handlers.JobsLogic),
    (_JOB, UploadLogic),
    (_JOB + r"/cancel", handlers.CancelLogic),
    (_JOB + r"/result", handlers.ResultLogic),
    (_JOB + r"/files", handlers.FilesLogic),
    (_JOB + r"/files/(.+)", handlers.FileLogic),
    (_JOB + r"/logs", handlers.LogsLogic),
    (_JOB + r"/logs/stream", LogStreamLogic),
    (r"/dry-run", handlers.DryRunLogic),
    (r"/sites", handlers.SitesLogic),
    (r"/doctor", handlers.DoctorLogic),
    (r"/clean", handlers.CleanLogic),
    (r"/translate", handlers.TranslateLogic),
)
