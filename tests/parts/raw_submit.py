"""Run one job with the raw HTCondor bindings and print what became of it, as JSON.

A process of its own for each identity: the bindings keep the first one they used. Standard input is JSON:
{"collector", "schedd", "token_folder" (or null for none), "script", "submit": {more submit commands}, "seconds",
"security": {client settings such as "SEC_CLIENT_AUTHENTICATION": "NEVER"}}.
The answer has "error" (what the bindings raised) or "ad", "out" and "err"; the job is gone from the queue afterwards.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def _environment(token_folder: str | None, security: dict[str, str]) -> None:
    os.environ["CONDOR_CONFIG"] = "/dev/null"
    os.environ["_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS"] = "IDTOKENS"
    # Else the bindings would look in ~/.condor/tokens.d and /etc/condor/tokens.d.
    os.environ["_CONDOR_SEC_TOKEN_DIRECTORY"] = token_folder or tempfile.mkdtemp()
    os.environ["_CONDOR_SEC_TOKEN_SYSTEM_DIRECTORY"] = tempfile.mkdtemp()
    os.environ.update({f"_CONDOR_{knob}": value for knob, value in security.items()})


def main(order: dict[str, Any]) -> dict[str, Any]:
    """Submit with spooling, wait for the end or a hold, retrieve."""
    _environment(order["token_folder"], order.get("security", {}))
    import htcondor2

    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    (folder / "job.sh").write_text(order["script"])
    try:
        collector = htcondor2.Collector(order["collector"])
        schedd = htcondor2.Schedd(collector.locate(htcondor2.DaemonType.Schedd, order["schedd"]))
        commands = {
            "executable": "/bin/sh",
            "transfer_executable": "false",
            "arguments": "job.sh",
            "transfer_input_files": "job.sh",
            "should_transfer_files": "YES",
            "output": "out",
            "error": "err",
            "request_cpus": "1",
            "request_memory": "200",
            **order.get("submit", {}),
        }
        result = schedd.submit(htcondor2.Submit(commands), spool=True)
        schedd.spool(result)
    except (htcondor2.HTCondorException, OSError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    constraint = f"ClusterId == {result.cluster()}"
    deadline = time.monotonic() + order.get("seconds", 60)
    wanted = [
        "JobStatus",
        "HoldReasonCode",
        "HoldReason",
        "RoutedToJobId",
        "ExitCode",
        "Owner",
        "User",
        "LastRemoteHost",
        "RemoteHost",
    ]
    while True:
        ads = schedd.query(constraint, wanted)
        if not ads:
            history = list(schedd.history(constraint, [*wanted, "RemoveReason"], 1))
            return {"ad": _plain(history[0]) if history else {}, "out": "", "err": ""}
        status = int(ads[0]["JobStatus"])
        held = status == 5 and int(ads[0]["HoldReasonCode"]) != 16
        if status == 4 or held or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if status == 4:
        schedd.retrieve(constraint)
    schedd.act(htcondor2.JobAction.Remove, constraint)
    texts = {name: (folder / name).read_text() if (folder / name).exists() else "" for name in ("out", "err")}
    return {"ad": _plain(ads[0]), **texts}


def _plain(ad: Any) -> dict[str, str]:
    return {name: str(ad[name]) for name in ad.keys()}  # noqa: SIM118  a ClassAd is no mapping


if __name__ == "__main__":
    json.dump(main(json.load(sys.stdin)), sys.stdout)
