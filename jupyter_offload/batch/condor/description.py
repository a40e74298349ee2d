"""From submissions to HTCondor's submit language, where every value is data.

The submit language is code: a newline in a value can start ``include command``, ``$ENV(X)`` reads the server's environment,
``$(X)`` expands, and in a list of items a lone closing parenthesis ends the list and an ASCII unit separator shifts the columns. So a
value that comes from outside is either encoded into an alphabet without meaning, or refused; keys come from an allow-list; nothing is
ever pasted as text.

Submissions that differ only in what is particular to a task share one description and become the procs of one cluster.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jupyter_offload.batch.base import ERR, OUT, Submission
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.errors import BadSubmit, ConfigError

__all__ = ["COLUMNS", "Template", "check_site_attributes", "decode", "encode", "items", "quote", "template"]

COLUMNS = ("o_dir", "o_job", "o_attempt", "o_index", "o_owner", "o_name", "o_inputs", "o_expires")
"""The item columns of a submission, in the order of `items`. Every row has them all: the bindings look at the first row only."""

_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*")
# HTCondor gives a job no PATH; bash has a default one, which only needs to be handed on.
_START = 'export PATH; exec bash "$@"'
_RENAME = 'for f in %*; do n=${f#%}; printf -v n %b "${n//\\%/\\\\x}"; mv -- $f "$n"; done; '
"""Gives files back the names that HTCondor's lists cannot hold (it splits them at blanks and commas, and knows no quotes)."""

_HEX = re.compile(r"[0-9a-zA-Z-]{1,64}")
_FOLDER_REFUSED = re.compile(r'[\x00-\x1f\x7f,;$"\'()\\*?\[\]{}|<>&`]|^\s|\s$|\s/|/\s')
_UNQUOTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\]")
_FAR_FUTURE = 4102444800
"""2100-01-01: the end of a job's life when the caller gave none."""

_STRINGS = {"accounting_group", "accounting_group_user", "concurrency_limits", "batch_name"}
_INTEGERS = {"priority"}
_BOOLEANS = {"nice_user"}
_EXPRESSIONS = {"requirements", "rank"}
_CUSTOM = re.compile(r"(?:\+|MY\.)([A-Za-z_][A-Za-z0-9_]{0,63})")
_RESERVED = re.compile(
    r"(?i)(offload.*|stream(out|err)|leavejobinqueue|periodic.*|jobstatus.*|owner|user|iwd|cmd|requirements|env.*|arg.*)"
)


def encode(text: str) -> str:
    """Return ``text`` in letters, digits and ``-_.~%`` only; `decode` gives it back."""
    return urllib.parse.quote(text, safe="", errors="surrogatepass")


def decode(text: str) -> str:
    """Undo `encode`."""
    return urllib.parse.unquote(text, errors="surrogatepass")


def quote(value: str | int | float | bool) -> str:
    """Return a ClassAd literal as the submit language takes it, without macros.

    It reads strings by the old rules of ClassAds, where only a double quote can be escaped: control characters and the backslash are
    refused with `ValueError`.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if _UNQUOTABLE.search(value):
        raise ValueError(f"{value!r} has a backslash or a control character")
    return '"' + value.replace('"', '\\"').replace("$", "$(DOLLAR)") + '"'


def travel_name(name: str) -> str:
    """Return the name under which a file travels: its own, or ``%`` and the encoded one, which the job undoes."""
    return name if _FILE.fullmatch(name) else "%" + urllib.parse.quote_from_bytes(os.fsencode(name), safe="")


@dataclass(frozen=True)
class Template:
    """A submit description without what is particular to a task: equal templates go into one cluster."""

    lines: tuple[tuple[str, str], ...]

    @property
    def description(self) -> dict[str, str]:
        """The description as the bindings take it."""
        return dict(self.lines)


def template(submission: Submission, config: CondorConfig) -> Template:
    """Return the description that this submission shares with others of its kind. Raises `BadSubmit`, `ConfigError`."""
    _check(submission)
    demand = submission.demand
    shared_inputs = ["../" + travel_name(name) for name in (submission.script, *submission.inputs)]
    lines: dict[str, str] = {
        "universe": "vanilla",
        "executable": "/bin/bash",
        "transfer_executable": "false",
        "arguments": _arguments(submission),
        "initialdir": "$(o_dir)",
        # `transfer_output_files` stays unset: naming files costs a five-second wait per job in 25.14 (a race between starter and
        # shadow), and new top-level files come back by themselves.
        "transfer_input_files": ", ".join(shared_inputs) + "$(o_inputs)",
        "should_transfer_files": "YES",
        "when_to_transfer_output": "ON_EXIT",
        "output": OUT,
        "error": ERR,
        # Streamed while the job runs, so that a retrieve in the middle brings what was printed; but the last retrieve leaves out files
        # that are marked as streamed, so they are not so marked any more when the job has ended.
        "MY.StreamOut": "(JobStatus =!= 4) && (JobStatus =!= 5)",
        "MY.StreamErr": "(JobStatus =!= 4) && (JobStatus =!= 5)",
        "notification": "never",
        "request_cpus": str(demand.cpus),
        "request_memory": str(-(-demand.memory_bytes // (1 << 20))),
        "request_disk": str(-(-demand.disk_bytes // 1024)),
        "job_max_vacate_time": str(submission.grace_seconds),
        "kill_sig": "SIGTERM",
        "leave_in_queue": (
            f"(JobStatus == 4) && ((CompletionDate =?= undefined) || (time() - CompletionDate < {config.keep_seconds}))"
        ),
        "periodic_remove": (
            "(time() > OffloadExpires) || ((JobStatus == 5) && ((NumShadowStarts ?: 0) == 0)"
            " && ((HoldReasonCode ?: 16) == 16 || HoldReasonCode == 15)"
            f" && (time() - EnteredCurrentStatus > {config.unstarted_seconds}))"
        ),
        "MY.OffloadJob": '"$(o_job)"',
        "MY.OffloadAttempt": '"$(o_attempt)"',
        "MY.OffloadIndex": "$(o_index)",
        "MY.OffloadOwner": '"$(o_owner)"',
        "MY.OffloadName": '"$(o_name)"',
        "MY.OffloadExpires": "$(o_expires)",
        "MY.OffloadRerun": quote(submission.rerun),
    }
    if config.spool:
        # What happens when the spooled files have arrived: the job is held again (5) instead of idle, until `start` says otherwise.
        lines["MY.JobStatusOnRelease"] = "5"
    else:
        lines["hold"] = "true"
    if demand.time_seconds is not None:
        lines["allowed_execute_duration"] = str(demand.time_seconds)
    _add_gpus(lines, submission)
    if config.type == "condor-ce":
        _add_ce(lines, submission)
    requirements = [] if submission.rerun else ["((NumJobStarts ?: 0) == 0) && ((NumShadowStarts ?: 0) == 0)"]
    _add_site_attributes(lines, requirements, config.submit)
    if requirements:
        lines["requirements"] = " && ".join(f"({item})" for item in requirements)
    return Template(tuple(lines.items()))


def _arguments(submission: Submission) -> str:
    plain_names = all(_FILE.fullmatch(name) for name in _names(submission))
    # The new syntax of arguments: all in double quotes, one word in single quotes, double quotes doubled.
    code = (_START if plain_names else _RENAME + _START).replace('"', '""')
    return f"\"-c '{code}' bash {submission.script} $(o_index)\""


def _names(submission: Submission) -> list[str]:
    return [*submission.inputs, *(name for names in submission.task_inputs for name in names)]


def _is_file_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _add_gpus(lines: dict[str, str], submission: Submission) -> None:
    demand = submission.demand
    if demand.gpus:
        lines["request_gpus"] = str(demand.gpus)
        if demand.gpu_model is not None:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}", demand.gpu_model):
                raise BadSubmit(
                    f"{demand.gpu_model!r} is not a GPU model", hint="Write it as in `%offload sites`, such as A100."
                )
            # As a whole word of the device's name: A100 means "NVIDIA A100-SXM4-40GB", not "A1000".
            word = demand.gpu_model.replace(".", "[.]")
            pattern = f"(^|[^A-Za-z0-9]){word}([^A-Za-z0-9]|$(o_end))"
            lines["require_gpus"] = f'regexp("{pattern}", DeviceName, "i")'.replace("$(o_end)", "$(DOLLAR)")


def _add_ce(lines: dict[str, str], submission: Submission) -> None:
    # A CE's job router reads these; without them a job gets one core, 2000 MB and at most 72 h.
    demand = submission.demand
    lines["MY.xcount"] = str(demand.cpus)
    lines["MY.maxMemory"] = str(-(-demand.memory_bytes // (1 << 20)))
    if demand.time_seconds is not None:
        lines["MY.maxWallTime"] = str(-(-demand.time_seconds // 60))
        lines["MY.BatchRuntime"] = str(demand.time_seconds)


def _add_site_attributes(
    lines: dict[str, str], requirements: list[str], attributes: Mapping[str, str | int | float | bool]
) -> None:
    for key, value in attributes.items():
        custom = _CUSTOM.fullmatch(key)
        if isinstance(value, str) and _UNQUOTABLE.search(value):
            raise ConfigError(
                f"submit: {key}: {value!r} has a backslash or a control character",
                hint="Write the value on one line, without backslashes.",
                key=f"submit.{key}",
            )
        if custom is not None and _RESERVED.fullmatch(custom.group(1)) is None:
            lines[f"MY.{custom.group(1)}"] = quote(value)
        elif key in _INTEGERS and isinstance(value, int) and not isinstance(value, bool):
            lines[key] = str(value)
        elif key in _BOOLEANS and isinstance(value, bool):
            lines[key] = quote(value)
        elif key in _STRINGS and isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.@:,*/ -]{1,200}", value):
            lines[key] = value
        elif key in _EXPRESSIONS and isinstance(value, str):
            expression = _expression(key, value)
            if key == "requirements":
                requirements.append(expression)
            else:
                lines[key] = expression
        else:
            known = ", ".join(sorted(_STRINGS | _INTEGERS | _BOOLEANS | _EXPRESSIONS))
            raise ConfigError(
                f"submit: {key}: {value!r} is not allowed",
                hint=f"Allowed are {known} and own attributes such as +ProjectName, with plain values.",
                key=f"submit.{key}",
            )


def _expression(key: str, value: str) -> str:
    # A ClassAd expression of the site's own configuration; it stays one expression on one line, without macros.
    if not value.strip() or len(value) > 2000 or not _balanced(value):
        raise ConfigError(f"submit: {key}: {value!r} is not one ClassAd expression on one line", key=f"submit.{key}")
    return value.strip().replace("$", "$(DOLLAR)")


def _balanced(expression: str) -> bool:
    depth, string, previous = 0, False, ""
    for letter in expression:
        if letter == '"' and previous != "\\":
            string = not string
        if not string:
            depth += (letter == "(") - (letter == ")")
            if depth < 0:
                return False
        previous = letter
    return depth == 0 and not string


def _check(submission: Submission) -> None:
    if _FILE.fullmatch(submission.script) is None:
        raise BadSubmit(f"{submission.script!r} is not a script's name", job_id=submission.job_id)
    for name in _names(submission):
        if (
            "/" in name
            or not _is_file_name(name)
            or "\0" in name
            or name in ("", ".", "..", OUT, ERR)
            or len(name) > 200
        ):
            raise BadSubmit(f"{name!r} is not the name of an input file", job_id=submission.job_id)
    for text in (submission.job_id, submission.attempt):
        if _HEX.fullmatch(text) is None:
            raise BadSubmit(f"{text!r} is not an id", job_id=submission.job_id)
    folder = submission.folder
    if not Path(folder).is_absolute() or _FOLDER_REFUSED.search(folder) or len(folder) > 1000:
        raise BadSubmit(
            f"the job folder {folder!r} has characters that HTCondor's file lists cannot hold",
            job_id=submission.job_id,
            hint="Let the service keep its state under a path without commas, quotes, brackets and `$`.",
        )
    if submission.tasks < 1 or (submission.task_inputs and len(submission.task_inputs) != submission.tasks):
        raise BadSubmit("the number of tasks does not fit their input files", job_id=submission.job_id)
    if len(submission.owner) > 300 or len(submission.name) > 300:
        raise BadSubmit("owner or name is longer than 300 characters", job_id=submission.job_id)


def items(submission: Submission, *, skew: float = 0.0) -> list[list[str]]:
    """Return one row of `COLUMNS` per task; ``skew`` is the schedd's clock minus ours, in seconds."""
    expires = _FAR_FUTURE if submission.expires is None else int(submission.expires + skew)
    rows = []
    for index in range(submission.tasks):
        extra = submission.task_inputs[index] if submission.task_inputs else ()
        rows.append(
            [
                f"{submission.folder}/task-{index}",
                submission.job_id,
                submission.attempt,
                str(index),
                encode(submission.owner),
                encode(submission.name),
                "".join(f", ../{travel_name(name)}" for name in extra),
                str(expires),
            ]
        )
    return rows


def check_site_attributes(attributes: Mapping[str, str | int | float | bool]) -> None:
    """Check a site's ``submit:`` map when it is read. Raises `ConfigError` with the key, as a submission would."""
    _add_site_attributes({}, [], attributes)
