"""The process that talks to HTCondor: requests as JSON lines on standard input, answers as JSON lines on standard output.

Started as ``python -m jupyter_offload.batch.condor.worker``; the only module that imports the bindings. They hold the GIL through every
network call, act as one identity per process (security sessions are cached process-wide and outlive a change of token), and can only be
stopped by ending the process. So each worker serves one (schedd, identity), one request at a time, keeps nothing between requests, and may
be killed at any moment.

A request is ``{"id", "op", "args"}``; an answer is any number of ``{"id", "rows": [...]}`` and then ``{"id", "ok": ...}`` or
``{"id", "error": text, "type": class name}``. Job ads travel as rows in the order of the asked projection. An attribute that a job has
not is ``null``: the bindings return the enum ``Value.Undefined`` for it, which *equals the integer 2*, so it must not leave this process.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

__all__ = ["main"]

ROWS_PER_ANSWER = 500
"""Rows in one answer line: small enough that the reader of the other side parses one in a few milliseconds."""

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve requests until standard input ends."""
    _die_with_parent()
    os.umask(0o077)
    answers = _private_stdout()
    operations = Operations(answers)
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {"id": request["id"]}
        try:
            answer["ok"] = operations.run(request["id"], request["op"], request["args"])
        except Exception as error:
            answer["error"], answer["type"] = str(error), type(error).__name__
        answer["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        _send(answers, answer)
    return 0


def _die_with_parent() -> None:
    # A worker that is blocked in a network call cannot notice that its standard input was closed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _private_stdout() -> TextIO:
    # What the libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _send(answers: TextIO, answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer, separators=(",", ":")) + "\n")
    answers.flush()


class Operations:
    """What a worker can be asked to do, by name; every method is one request."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._request = 0
        self._schedds: dict[str, Any] = {}

    def run(self, request: int, name: str, arguments: Mapping[str, Any]) -> object:
        """Do one request; return what its ``ok`` says."""
        self._request = request
        operations: dict[str, Callable[..., object]] = {
            "version": self._version,
            "locate": self._locate,
            "ping": self._ping,
            "ping_collector": self._ping_collector,
            "collector": self._collector,
            "query": self._query,
            "history": self._history,
            "submit": self._submit,
            "act": self._act,
            "edit": self._edit,
            "retrieve": self._retrieve,
        }
        return operations[name](**arguments)

    def _version(self) -> str:
        import htcondor2

        return str(htcondor2.version())

    def _locate(self, collector: str | None, name: str | None) -> dict[str, str]:
        import htcondor2

        pool = htcondor2.Collector(collector) if collector else htcondor2.Collector()
        kind = htcondor2.DaemonType.Schedd
        ad = pool.locate(kind, name) if name else pool.locate(kind)
        if ad is None:
            known = sorted(str(one["Name"]) for one in pool.query(htcondor2.AdType.Schedd, "true", ["Name"]))
            raise LookupError(f"no schedd named {name!r} in {collector}; there are: {', '.join(known) or 'none'}")
        return {key: str(ad[key]) for key in ("MyAddress", "Name", "CondorVersion") if key in ad}

    def _ping(self, schedd: Mapping[str, str], permission: str) -> dict[str, object]:
        import htcondor2

        ad = htcondor2.ping(_ad(schedd), permission)
        return {str(key): _plain(ad.get(key)) for key in ad}

    def _ping_collector(self, collector: str) -> dict[str, object]:
        host, _, port = collector.rpartition(":") if ":" in collector else (collector, "", "9618")
        number = str(socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][4][0])
        place = f"[{number}]" if ":" in number else number
        return self._ping({"MyAddress": f"<{place}:{port}>", "MyType": "Collector"}, "READ")

    def _collector(self, collector: str | None, constraint: str, projection: Sequence[str]) -> int:
        import htcondor2

        pool = htcondor2.Collector(collector) if collector else htcondor2.Collector()
        ads = pool.query(htcondor2.AdType.Startd, constraint, list(projection))
        return self._rows(ads, projection)

    def _query(self, schedd: Mapping[str, str], constraint: str, projection: Sequence[str]) -> int:
        return self._rows(self._schedd(schedd).query(constraint, list(projection)), projection)

    def _history(self, schedd: Mapping[str, str], constraint: str, projection: Sequence[str], match: int) -> int:
        return self._rows(self._schedd(schedd).history(constraint, list(projection), match), projection)

    def _submit(
        self,
        schedd: Mapping[str, str],
        description: Mapping[str, str],
        columns: Sequence[str],
        items: Sequence[Sequence[str]],
        spool: bool,
    ) -> dict[str, int]:
        import htcondor2

        target = self._schedd(schedd)
        rows = (dict(zip(columns, item, strict=True)) for item in items)
        result = target.submit(htcondor2.Submit(dict(description)), spool=spool, itemdata=rows)
        if spool:
            target.spool(result)
        return {"cluster": result.cluster(), "first": result.first_proc(), "count": result.num_procs()}

    def _act(
        self, schedd: Mapping[str, str], action: str, jobs: str | list[str], reason: str, code: int
    ) -> dict[str, object]:
        import htcondor2

        # The reason must be a tuple with a code: a bare text is dropped by the bindings.
        ad = self._schedd(schedd).act(getattr(htcondor2.JobAction, action), jobs, (reason, code))
        return {str(key): _plain(ad.get(key)) for key in ad}

    def _edit(self, schedd: Mapping[str, str], jobs: str | list[str], attribute: str, value: int | str | bool) -> int:
        import classad2

        literal = classad2.quote(value) if isinstance(value, str) else json.dumps(value)
        return int(self._schedd(schedd).edit(jobs, attribute, literal))

    def _retrieve(self, schedd: Mapping[str, str], jobs: list[str]) -> int:
        self._schedd(schedd).retrieve(jobs)
        return len(jobs)

    def _schedd(self, location: Mapping[str, str]) -> Any:
        import htcondor2

        key = json.dumps(dict(location), sort_keys=True)
        if key not in self._schedds:
            self._schedds[key] = htcondor2.Schedd(_ad(location))
        return self._schedds[key]

    def _rows(self, ads: Iterable[Any], projection: Sequence[str]) -> int:
        count = 0
        source = iter(ads)
        while batch := list(itertools.islice(source, ROWS_PER_ANSWER)):
            rows = [[_plain(ad.get(name)) for name in projection] for ad in batch]
            _send(self._answers, {"id": self._request, "rows": rows})
            count += len(batch)
        return count


def _ad(location: Mapping[str, str]) -> Any:
    import classad2

    return classad2.ClassAd({"MyType": "Scheduler", **location})


_SIMPLE = frozenset({bool, int, float, str, type(None)})


def _plain(value: Any) -> Any:
    if type(value) in _SIMPLE:  # not isinstance: Value.Undefined is an int
        return value
    import classad2

    if isinstance(value, classad2.Value):
        return None
    if isinstance(value, classad2.ExprTree):
        try:
            return _plain(value.eval())
        except classad2.ClassAdException:
            return str(value)
    if isinstance(value, classad2.ClassAd):
        return {str(key): _plain(value.get(key)) for key in value}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
