"""Texts that real daemons and bindings sent, and the error each one is."""

from __future__ import annotations

import pytest

from jupyter_offload.batch.condor.breaker import Breaker
from jupyter_offload.batch.condor.failures import classify
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

RECORDED: list[tuple[str, str, type[SiteError]]] = [
    ("query", "Failed to fetch ads from schedd, errmsg=CEDAR:6001:Failed to connect to <127.0.0.1:9>", SiteUnreachable),
    (
        "query",
        "Failed to fetch ads from schedd, errmsg=SECMAN:2007:Failed to read resume session response",
        SiteUnreachable,
    ),
    ("query", "SECMAN:2004:Server rejected our session id", SiteUnreachable),
    ("history", "Failed to connect to <127.0.0.1:9>", SiteUnreachable),
    ("ping", "Unable to connect to the remote daemon.", SiteUnreachable),
    (
        "submit",
        "Failed to connect to schedd, errmsg=CEDAR:6001:Failed to connect to <127.0.0.1:9>",
        SiteUnreachable,
    ),
    ("retrieve", "DCSchedd::receiveJobSandbox:6001:Failed to connect to schedd", SiteUnreachable),
    (
        "submit",
        "DCSchedd::spoolJobFiles:7002:File transfer failed for target job 5.0: Failed to receive GoAhead message from ap.",
        SiteUnreachable,
    ),
    (
        "query",
        (
            "Failed to fetch ads from schedd, errmsg=AUTHENTICATE:1003:Failed to authenticate with any method"
            "|AUTHENTICATE:1004:Failed to authenticate using IDTOKENS"
        ),
        AuthFailed,
    ),
    ("history", "Failed to authenticate with any method", AuthFailed),
    (
        "submit",
        (
            "Failed to connect to schedd, errmsg=AUTHENTICATE:1003:Failed to authenticate with any method"
            "|AUTHENTICATE:1004:Failed to authenticate using IDTOKENS"
        ),
        AuthFailed,
    ),
    (
        "submit",
        (
            'Failed to connect to schedd, errmsg=SECMAN:2010:Received "DENIED" from server for user alice@pool using method'
            " IDTOKENS."
        ),
        Denied,
    ),
    ("retrieve", 'SECMAN:2010:Received "DENIED" from server for user alice@pool using method IDTOKENS.', Denied),
    ("edit", "Unable to edit jobs matching constraint", BatchNotFound),
    (
        "edit",
        "Unable to commit transaction:Modifying attribute JobStatusOnRelease in nonexistent job 999999.0",
        BatchNotFound,
    ),
    ("submit", "expected next ProcId to be 10, but Schedd says -4", QuotaExceeded),
    ("locate", "no schedd named 'nope' in cm:9618; there are: ap", SiteUnreachable),
    ("submit", "QMGMT:1:odd names are not welcome", BadSubmit),
]


@pytest.mark.parametrize(("op", "text", "kind"), RECORDED)
def test_recorded_texts(op: str, text: str, kind: type[SiteError]) -> None:
    error = classify(BindingsError(text, "HTCondorException"), op, "ap")
    assert type(error) is kind
    assert text in error.message
    assert "schedd ap" in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DeadlineExceeded("no answer"), SiteTimeout),
        (WorkerEnded("code -9"), SiteUnreachable),
        (WorkerRetired(), SiteUnreachable),
        (OSError("no memory"), SiteUnreachable),
        (BindingsError("No module named 'htcondor2'", "ModuleNotFoundError"), SiteUnreachable),
        (BindingsError("something new", "HTCondorException"), SiteUnreachable),
        (Denied("as it is"), Denied),
    ],
)
def test_what_happens_to_workers(error: Exception, kind: type[SiteError]) -> None:
    found = classify(error, "query", "ap")
    assert type(found) is kind
    assert found.hint


def test_missing_bindings_say_how_to_get_them() -> None:
    error = classify(BindingsError("No module named 'htcondor2'", "ModuleNotFoundError"), "query", "ap")
    assert "jupyter_offload[condor]" in error.hint


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_through_later() -> None:
    now = [100.0]
    breaker = Breaker("schedd ap", failures=3, pause_seconds=30, monotonic=lambda: now[0], clock=lambda: now[0] + 1000)
    for _ in range(2):
        breaker.failed("x")
    breaker.succeeded()
    for _ in range(3):
        breaker.check()
        breaker.failed("no route")
    with pytest.raises(SiteUnreachable, match="no route") as caught:
        breaker.check()
    assert caught.value.details["since"] == 1100.0
    assert breaker.is_open
    now[0] += 30
    breaker.check()
    breaker.failed("again")
    assert breaker.is_open
    now[0] += 30
    breaker.succeeded()
    assert breaker.since is None
    breaker.check()
