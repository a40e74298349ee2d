"""What the bindings' texts mean. They raise one class for everything, so the text has to be read; the table is of texts that real daemons sent.

`act` says only «Error when performing action on the schedd.» for refused, denied and timed-out alike; who needs to know asks `ping`.
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

__all__ = ["classify"]

_TABLE: tuple[tuple[str, type[SiteError], str], ...] = (
    (
        r"MAX_JOBS_PER_|MAX_JOBS_SUBMITTED|would exceed|exceeds? the (?:limit|maximum)|too many jobs|Number of submitted jobs",
        QuotaExceeded,
        "Wait until some of your jobs have ended, or ask the site for a higher limit.",
    ),
    (
        r"TOKEN:|token .*expired|AUTHENTICATE:100[0-9]|AUTHENTICATE:1\d{3}|failed to authenticate|authentication (?:failed|failure)"
        r"|Failed to authenticate|SECMAN:2010|SECMAN:2004:Failed to (?:create|start)|No authentication methods",
        AuthFailed,
        "Renew the token that `token_file` names, and check that it is for this schedd: `%offload doctor`.",
    ),
    (
        r"SECMAN:2009|PERMISSION_DENIED|permission denied|DENIED|not authorized|authorization (?:failed|policy)|Unauthorized|EACCES",
        Denied,
        "The schedd knows who you are and refuses: ask its administrator, or check the token's scopes with `%offload doctor`.",
    ),
    (
        r"SECMAN:2007|SECMAN:2004|rejected our session|CEDAR:600[0-9]|Failed to connect|Unable to (?:connect|locate)|connect error"
        r"|Failed to fetch ads|communication error|Connection refused|No route to host|Unable to find address|Failed communication"
        r"|Can't find address|lookup|Failed to (?:start|send|read|receive)|closed connection|GoAhead|timed out|timeout|GETAD"
        r"|Failed to end classad|Disconnected|qmgmt",
        SiteUnreachable,
        "It may be restarting or behind a firewall; jobs are safe. `%offload doctor` looks at each link.",
    ),
    (
        r"No such job|not found|no matching|does not exist|TotalSuccess = 0",
        BatchNotFound,
        "The job has left the queue.",
    ),
    (
        r"submit|parse|Invalid|invalid|expression|must |itemdata|Error in|ERROR|requirement|TRANSFORM|SUBMIT_REQUIREMENT",
        BadSubmit,
        "The schedd refuses this job description; its own words are above.",
    ),
)


def classify(error: Exception, op: str, schedd: str) -> SiteError:
    """Return the typed error for what happened in ``op`` at this schedd."""
    where = f"schedd {schedd}"
    if isinstance(error, SiteError):
        return error
    if isinstance(error, DeadlineExceeded):
        return SiteTimeout(
            f"{where}: {error}",
            hint="It is overloaded or hangs; jobs are safe and the next look comes by itself.",
        )
    if isinstance(error, (WorkerEnded, WorkerRetired)):
        return SiteUnreachable(f"{where}: {op} broke off: {error}", hint="It is tried again with a new worker.")
    text = str(error).strip() or type(error).__name__
    if isinstance(error, BindingsError) and error.kind in {"ModuleNotFoundError", "ImportError"}:
        return SiteUnreachable(
            f"{where}: the HTCondor bindings are missing here: {text}",
            hint="Install them with `pip install 'jupyter_offload[condor]'` (they exist for Linux only).",
        )
    for pattern, kind, hint in _TABLE:
        if re.search(pattern, text):
            if kind is BadSubmit and op != "submit":
                continue
            return kind(f"{where}: {op}: {text}", hint=hint)
    fallback = BadSubmit if op == "submit" else SiteUnreachable
    return fallback(f"{where}: {op}: {text}")
