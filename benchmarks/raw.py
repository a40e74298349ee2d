"""The other side of every comparison: HTCondor's own Python bindings in a process of their own, as anybody would use them.

It submits the same script with the same submit description, except that its jobs are runnable at once, and waits in a tight loop.
Orders come as JSON lines on standard input, answers in seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.01


def main() -> int:
    """Prepare who we are, then become the client that knows only that."""
    if "OFFLOAD_BENCH_RAW" not in os.environ:
        from jupyter_offload.batch.condor.environment import prepare

        os.environ["TMPDIR"] = str(Path.cwd())  # the copy of the token goes with the benchmark's folder
        line = sys.stdin.buffer.raw.readline()  # type: ignore[attr-defined]
        identity = prepare(condor_config(json.loads(line)), {})
        os.execve(
            sys.executable,
            [sys.executable, __file__],
            {**identity.environment, "OFFLOAD_BENCH_RAW": line.decode()},
        )
    return serve(json.loads(os.environ["OFFLOAD_BENCH_RAW"]))


def condor_config(told: dict[str, Any]) -> Any:
    """Return the configuration of one schedd from ``{collector, schedd, token_file, shared}``."""
    from jupyter_offload.batch.condor.config import CondorConfig

    return CondorConfig(
        collector=told["collector"],
        schedd=told["schedd"],
        token_file=Path(told["token_file"]),
        shared_filesystem=told["shared"],
        submit=told.get("submit", {}),
    )


def serve(told: dict[str, Any]) -> int:
    """Serve orders until standard input ends."""
    import htcondor2

    location = htcondor2.Collector(told["collector"]).locate(htcondor2.DaemonType.Schedd, told["schedd"])
    schedd = htcondor2.Schedd(location)
    spool = not told["shared"]
    print(json.dumps({"htcondor": htcondor2.version()}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        begun = time.time()
        submit = htcondor2.Submit(order["description"])
        result = schedd.submit(submit, spool=spool, itemdata=iter(order["items"]))
        submitted = time.time()
        if spool:
            schedd.spool(result)
        answer: dict[str, Any] = {"begun": begun, "submitted": submitted - begun, "handed": time.time() - begun}
        constraint = f"ClusterId == {result.cluster()}"
        if order["wait"]:
            while True:
                [ad] = schedd.query(constraint, ["JobStatus"])
                if ad["JobStatus"] == 4:
                    break
                if ad["JobStatus"] == 5 and not spool:
                    raise SystemExit("the raw job was held")
                time.sleep(POLL_SECONDS)
            answer["ended"] = time.time() - begun
            if spool:
                schedd.retrieve(constraint)
            answer["result"] = time.time() - begun
        looks = []
        for _ in range(order.get("looks", 0)):
            moment = time.perf_counter()
            answer["rows"] = len(schedd.query(constraint, order["projection"]))
            looks.append(time.perf_counter() - moment)
        answer["looks"] = looks
        schedd.act(htcondor2.JobAction.Remove, constraint, ("bench", 0))
        print(json.dumps(answer), flush=True)
    return 0


def order_of(submissions: list[Any], config: Any, *, wait: bool, looks: int = 0) -> dict[str, Any]:
    """Return the order that submits these, runnable at once, as the procs of one cluster."""
    from jupyter_offload.batch.condor.description import COLUMNS, items, template
    from jupyter_offload.batch.condor.states import PROJECTION

    description = template(submissions[0], config).description
    description.pop("hold", None)
    description.pop("MY.JobStatusOnRelease", None)
    rows = [dict(zip(COLUMNS, row, strict=True)) for one in submissions for row in items(one)]
    return {"description": description, "items": rows, "wait": wait, "looks": looks, "projection": list(PROJECTION)}


if __name__ == "__main__":
    sys.exit(main())
