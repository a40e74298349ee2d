"""Every error of the project, as one tree.

::

    OffloadError                        has `.message`, `.hint` and, where one is concerned, `.job_id`
    ├── UsageError                      the request is wrong: nothing was submitted
    │   ├── UnknownName                 an option, site, image, job or variable that does not exist
    │   ├── BadQuantity                 a Kubernetes quantity or a duration that cannot be read
    │   ├── CaptureError                what the cell needs cannot be determined or cannot travel
    │   │   └── CannotEncode            a value that no codec can carry
    │   ├── FileRefused                 a --file or --fetch path that is missing, a link, outside, too large
    │   ├── LimitExceeded               more than the site allows
    │   ├── ManifestError               a Pod field that cannot be honoured (`.path` names it)
    │   ├── PolicyDenied                the site's policy forbids it (`.path` names the field)
    │   ├── ConfigError                 sites.yaml is wrong (`.file`, `.line`, `.key`)
    │   └── CapabilityMissing           the site cannot do this (containers, live logs, GPUs …)
    ├── ServiceError                    between this client and the service that owns the jobs
    │   ├── ServiceUnreachable          no service answers
    │   ├── Unauthorized                the service does not accept this token
    │   └── Conflict                    the job is in a state that does not allow this
    ├── SiteError                       between the service and a site; never turns a job into `failed`
    │   ├── SiteUnreachable             no connection, or it broke off
    │   ├── SiteTimeout                 no answer before the deadline
    │   ├── AuthFailed                  the site does not know who we are (token missing, expired, wrong)
    │   ├── Denied                      the site knows us and says no
    │   ├── QuotaExceeded               too many jobs or too much data for now
    │   ├── BadSubmit                   the batch system refuses the job description
    │   └── BatchNotFound               the batch system does not know this id
    └── JobError                        the job itself
        ├── RemoteError                 the user's code raised: carries the remote traceback
        │   └── MissingRemotePackage    a module is missing where the job ran
        ├── JobFailed                   exit code, signal, missing command or image
        │   ├── MemoryExceeded          more memory than requested
        │   ├── TimeExceeded            longer than requested
        │   └── DiskExceeded            more disk than requested or the disk was full
        ├── JobHeld                     the batch system holds it; `.reason` says why
        ├── JobCancelled                cancelled by its owner or removed by an administrator
        ├── JobLost                     the site has no trace of it (may be taken back)
        └── ResultError                 the job ended but its result cannot be used
            ├── ResultTampered          its HMAC or checksum does not match: never unpickled
            ├── ResultTooLarge          larger than the limit
            ├── ResultUnavailable       deleted, expired or never written
            └── PythonMismatch          pickled by another Python minor: refused before unpickling

Every error has a `hint`: what to do next, in one sentence. `to_json` and `from_json` carry an error over the REST API without
losing its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

__all__ = [
    "AuthFailed",
    "BadQuantity",
    "BadSubmit",
    "BatchNotFound",
    "CannotEncode",
    "CapabilityMissing",
    "CaptureError",
    "ConfigError",
    "Conflict",
    "Denied",
    "DiskExceeded",
    "FileRefused",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobHeld",
    "JobLost",
    "LimitExceeded",
    "ManifestError",
    "MemoryExceeded",
    "MissingRemotePackage",
    "OffloadError",
    "PolicyDenied",
    "PythonMismatch",
    "QuotaExceeded",
    "RemoteError",
    "ResultError",
    "ResultTampered",
    "ResultTooLarge",
    "ResultUnavailable",
    "ServiceError",
    "ServiceUnreachable",
    "SiteError",
    "SiteTimeout",
    "SiteUnreachable",
    "TimeExceeded",
    "Unauthorized",
    "UnknownName",
    "UsageError",
    "from_json",
]

JSONScalar = str | int | float | bool | None


class OffloadError(Exception):
    """The root of the tree.

    ``message`` says what happened to which job or field, ``hint`` what to do next, ``details`` holds further plain
    data that a client may show (never a secret).
    """

    status: ClassVar[int] = 500
    """The HTTP status that the REST API answers with."""

    default_hint: ClassVar[str] = "See `%offload doctor` for a check of every link of the chain."

    def __init__(
        self, message: str, *, hint: str | None = None, job_id: str | None = None, **details: JSONScalar
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is not None else self.default_hint
        self.job_id = job_id
        self.details: dict[str, JSONScalar] = dict(details)

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message

    def __getattr__(self, name: str) -> JSONScalar:
        # `details` are readable as attributes: error.path, error.line, error.exit_code …
        details: dict[str, JSONScalar] = self.__dict__.get("details", {})
        if name in details:
            return details[name]
        raise AttributeError(name)

    def __reduce__(self) -> tuple[object, ...]:
        return (from_json, (self.to_json(),))

    def to_json(self) -> dict[str, object]:
        """Return the error as plain data: ``{"error": type name, "message", "hint", "job_id", "details"}``."""
        return {
            "error": type(self).__name__,
            "message": self.message,
            "hint": self.hint,
            "job_id": self.job_id,
            "details": self.details,
        }


class UsageError(OffloadError):
    """The request is wrong and nothing was submitted."""

    status = 400
    default_hint = "Mend the request and send it again; nothing was submitted."


class UnknownName(UsageError):
    """An option, site, image, job or variable that does not exist."""

    status = 404


class BadQuantity(UsageError):
    """A Kubernetes quantity (``1.5Gi``) or a duration (``10m``) that cannot be read."""


class CaptureError(UsageError):
    """What the cell needs cannot be determined or cannot travel."""

    status = 422


class CannotEncode(CaptureError):
    """A value that no codec can carry (a generator, a lock, an open file)."""


class FileRefused(UsageError):
    """A path that is missing, a link, outside the tree, or too large."""

    status = 422


class LimitExceeded(UsageError):
    """More than the site allows."""

    status = 422


class ManifestError(UsageError):
    """A Pod field that cannot be honoured; ``path`` names it, as in ``spec.volumes[2].nfs``."""

    status = 422


class PolicyDenied(UsageError):
    """The site's policy forbids it; ``path`` names the field."""

    status = 403


class ConfigError(UsageError):
    """sites.yaml is wrong; ``file``, ``line`` and ``key`` say where."""


class CapabilityMissing(UsageError):
    """The site cannot do this (containers, live logs, GPUs)."""

    status = 422


class ServiceError(OffloadError):
    """Between a client and the service that owns the jobs."""

    status = 503


class ServiceUnreachable(ServiceError):
    """No service answers."""


class Unauthorized(ServiceError):
    """The service does not accept this token or this user."""

    status = 403


class Conflict(ServiceError):
    """The job is in a state that does not allow this."""

    status = 409


class SiteError(OffloadError):
    """Between the service and a site; never a reason to call a job failed."""

    status = 502


class SiteUnreachable(SiteError):
    """No connection, or the connection broke off."""


class SiteTimeout(SiteError):
    """No answer before the deadline."""


class AuthFailed(SiteError):
    """The site does not know who we are."""


class Denied(SiteError):
    """The site knows who we are and says no."""


class QuotaExceeded(SiteError):
    """Too many jobs or too much data for now."""


class BadSubmit(SiteError):
    """The batch system refuses the job description."""


class BatchNotFound(SiteError):
    """The batch system does not know this id."""


class JobError(OffloadError):
    """Something happened to the job itself."""

    status = 409


class RemoteError(JobError):
    """The user's code raised; ``ename``, ``evalue`` and ``traceback`` are the remote ones."""

    default_hint = "The traceback above is the remote one; fix the code and run the cell again."


class MissingRemotePackage(RemoteError):
    """A module is missing where the job ran."""


class JobFailed(JobError):
    """The job ended by a non-zero exit code or a signal, or its command or image was not found."""

    default_hint = "Its log tells more: `%offload logs` and the job's name."


class MemoryExceeded(JobFailed):
    """The job used more memory than it had requested."""


class TimeExceeded(JobFailed):
    """The job ran longer than it had requested."""


class DiskExceeded(JobFailed):
    """The job used more disk than it had requested, or the disk was full."""


class JobHeld(JobError):
    """The batch system holds the job."""


class JobCancelled(JobError):
    """The job was cancelled by its owner or removed by an administrator."""


class JobLost(JobError):
    """The site has no trace of the job; taken back when it turns up again."""


class ResultError(JobError):
    """The job ended but its result cannot be used."""


class ResultTampered(ResultError):
    """The result's HMAC or checksum does not match; it was not opened."""


class ResultTooLarge(ResultError):
    """The result is larger than the limit."""


class ResultUnavailable(ResultError):
    """The result was deleted, has expired or was never written."""

    status = 404


class PythonMismatch(ResultError):
    """Pickled by another Python minor: refused before it is opened."""


def _tree(root: type[OffloadError]) -> dict[str, type[OffloadError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def from_json(data: Mapping[str, object]) -> OffloadError:
    """Rebuild the error that `OffloadError.to_json` wrote; an unknown type becomes `OffloadError` itself."""
    kind = _tree(OffloadError).get(str(data.get("error")), OffloadError)
    raw = data.get("details")
    details: dict[str, JSONScalar] = dict(raw) if isinstance(raw, Mapping) else {}
    job_id = data.get("job_id")
    error = kind(str(data.get("message", "")), hint=str(data.get("hint", "")), job_id=str(job_id) if job_id else None)
    error.details = details
    return error
