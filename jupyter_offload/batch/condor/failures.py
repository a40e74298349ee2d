"""What the bindings' texts mean.

They raise one class for everything, so the text has to be read; the table is of texts that real daemons sent.

Some texts say the same for refused, denied and unreachable (`AMBIGUOUS`); then a probe of the same daemon tells (`Schedd` does that).
"""

from __future__ import annotations

import re

from jupyter_offload.batch.condor.process import BindingsError, DeadlineExceeded, WorkerEnded, WorkerRetired
from jupyter_offload.errors import (
    AuthFailed,
    BadSubmit,
    BatchNotFound,
    Denied,
    QuotaExceeded,
    SiteError,
    SiteTimeout,
    SiteUnreachable,
)

__all__ = ["AMBIGUOUS", "AUTH_HINT", "classify", "denied"]

AUTH_HINT = "Renew the token that `token_file` names, and check that it is for this schedd: `%offload doctor`."
_UNREACHABLE_HINT = "It may be restarting or behind a firewall; jobs are safe. `%offload doctor` looks at each link."

AMBIGUOUS = frozenset(
    {
        "Failed communication with collector.",
        "Failed to start command.",
        "Error when performing action on the schedd.",
        "Failed to connect to schedd.",
    }
)
"""Texts that stand for no connection, no authentication and no permission alike."""

_TABLE: tuple[tuple[str, type[SiteError], str], ...] = (
    # Of a retrieve: TOOL is this side, SCHEDD the other. The transfer goes on after a file that is missing there, and says so at its end.
    (
        r"TOOL at [^|]*\|Error: writing to file .*\(errno (?:28|122)\)",
        QuotaExceeded,
        "The disk here is full, the results stay at the site: make room, with `%offload clean` for example.",
    ),
    (
        r"TOOL at [^|]*\|Error: writing to file ",
        SiteError,
        "The results stay at the site: see to the job folder's permissions.",
    ),
    (
        r"SCHEDD at \S+ failed to send file.*: reading from file .*\(errno 2\)",
        BatchNotFound,
        "The job's files are gone from the schedd's spool: run it again.",
    ),
    (
        # A negative number instead of a proc: -2 is the schedd's limit of jobs, -3 the owner's, -4 that of one submission.
        (
            r"Schedd says -[234]\b|MAX_JOBS_PER_|MAX_JOBS_SUBMITTED|would exceed|limit(?:ed)? (?:of|to) \d+ job"
            r"|too many jobs|Number of submitted jobs"
        ),
        QuotaExceeded,
        "Wait until some of your jobs have ended, or ask the site for a higher limit.",
    ),
    (
        r'Schedd says -5\b|SECMAN:2010|Received "DENIED"|PERMISSION_DENIED|[Pp]ermission denied|EACCES|errno=13',
        Denied,
        "The schedd knows who you are and refuses: ask its administrator, or check the token's scopes with `%offload doctor`.",
    ),
    (r"AUTHENTICATE:\d+|[Ff]ailed to authenticate|[Aa]uthentication fail", AuthFailed, AUTH_HINT),
    (
        # 2007 and 2004 come from a restarted schedd that does not know our session any more.
        (
            r"SECMAN:200[47]|rejected our session|CEDAR:600\d|Failed to connect|Unable to connect|Connection refused|No route to host"
            r"|Failed to (?:fetch|send|receive|read|start)|GoAhead|timed out|timeout|closed|Disconnected|communication|no schedd named"
            r"|Failed to get a result|end of message|receiveJobSandbox|spoolJobFiles"
        ),
        SiteUnreachable,
        _UNREACHABLE_HINT,
    ),
    (
        r"Unable to edit jobs matching|nonexistent job|No such job|no matching",
        BatchNotFound,
        "The job has left the queue.",
    ),
)


def classify(error: Exception, op: str, schedd: str) -> SiteError:
    """Return the typed error for what happened in ``op`` at this schedd."""
    where = f"schedd {schedd}"
    if isinstance(error, SiteError):
        return error
    if isinstance(error, DeadlineExceeded):
        return SiteTimeout(
            f"{where}: {error}", hint="It is overloaded or hangs; jobs are safe and the next look comes by itself."
        )
    if isinstance(error, (WorkerEnded, WorkerRetired)):
        return SiteUnreachable(f"{where}: {op} broke off: {error}", hint="It is tried again with a new worker.")
    if isinstance(error, BindingsError) and error.kind in {"ModuleNotFoundError", "ImportError"}:
        return SiteUnreachable(
            f"{where}: the HTCondor bindings are missing here: {error}",
            hint="Install them with `pip install 'jupyter_offload[condor]'` (they exist for Linux only).",
        )
    text = str(error).strip() or type(error).__name__
    for pattern, kind, hint in _TABLE:
        if re.search(pattern, text):
            return kind(f"{where}: {op}: {text}", hint=hint)
    if op == "submit":
        return BadSubmit(
            f"{where}: it refuses the job description: {text}",
            hint="These are the schedd's own words; a rule of the site or an attribute under `submit:` may be the cause.",
        )
    return SiteUnreachable(f"{where}: {op}: {text}", hint=_UNREACHABLE_HINT)


def denied(op: str, schedd: str, permission: str) -> Denied:
    """Return the error for a daemon that lets us look but not do this."""
    return Denied(
        f"schedd {schedd}: {op}: the identity has no {permission} permission",
        hint="The token may be limited to other scopes (`%offload doctor` shows them), or the site does not accept this user.",
    )
