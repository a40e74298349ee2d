"""Why HTCondor holds or vacates a job, in plain words, and what can be done about it.

The codes are those of HTCondor's manual, "Hold Reason Codes" and "Vacate Reason Codes". A hold is of one of these classes:

- ``user``: somebody held it on purpose; it can be released.
- ``final``: it would end the same way again; the task has ended, and the error says why.
- ``retry``: a fault of the system or of a transfer; it is released again, twice at most.
- ``credential``: a token or proxy is bad.
- ``site``: a rule of the site; its own text is shown.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Literal

__all__ = ["UNSTARTED_CODES", "HoldWords", "hold_words", "vacate_words"]

HoldClass = Literal["user", "final", "retry", "credential", "site"]

SPOOLING = 16
SUBMITTED_ON_HOLD = 15
UNSTARTED_CODES = frozenset({SPOOLING, SUBMITTED_ON_HOLD})
_MEMORY, _DISK = 102, 104
_PASSING = frozenset({errno.ENOMEM, errno.EAGAIN})
_TRANSFER_PASSING = frozenset({errno.ETIME, -1001, -1002, -1003, -1004})


@dataclass(frozen=True)
class HoldWords:
    """One kind of hold: its class, words, what to do, and the `JobError` that fits."""

    kind: HoldClass
    words: str
    hint: str = ""
    error: str = ""


_RESUBMIT = "Mend it and submit again."
_SITE = "Ask the site's administrators; the text is theirs."
_RETRY = "It is released again by itself, twice at most; then submit it again."

_TABLE: dict[int, HoldWords] = {
    1: HoldWords("user", "held on request", "Release it with condor_release, or cancel it.", "JobHeld"),
    3: HoldWords("final", "held by the job's own policy", _RESUBMIT, "JobHeld"),
    4: HoldWords(
        "credential", "its credentials are not valid", "Renew the token or proxy, then release the job.", "JobHeld"
    ),
    5: HoldWords("final", "a policy expression of the job has no value", _RESUBMIT, "JobHeld"),
    6: HoldWords(
        "final",
        "the worker node could not start the job's program",
        "Check that the node has bash and a usable scratch disk.",
        "JobFailed",
    ),
    7: HoldWords(
        "final",
        "the file for the standard output could not be opened",
        "Check the disk and the rights of the job folder.",
        "JobFailed",
    ),
    8: HoldWords("final", "the file for the standard input could not be opened", _RESUBMIT, "JobFailed"),
    9: HoldWords("final", "the stream of the standard output could not be opened", _RESUBMIT, "JobFailed"),
    10: HoldWords("final", "the stream of the standard input could not be opened", _RESUBMIT, "JobFailed"),
    11: HoldWords("retry", "a file transfer broke off", _RETRY, "JobHeld"),
    12: HoldWords(
        "final",
        "the job's output could not be transferred",
        "The disk may be full, or the result too large.",
        "JobFailed",
    ),
    13: HoldWords(
        "final", "the job's input could not be transferred", "A file may be missing; submit it again.", "JobFailed"
    ),
    14: HoldWords(
        "final",
        "the schedd cannot reach the job folder",
        "The site is set to a shared filesystem, but the schedd does not see this folder: set `shared_filesystem: false`.",
        "JobFailed",
    ),
    15: HoldWords("user", "handed over, not yet started"),
    16: HoldWords("user", "its files are on their way to the schedd"),
    17: HoldWords("site", "no shadow fits the job", _SITE, "JobHeld"),
    18: HoldWords("retry", "a file transfer was refused", _RETRY, "JobHeld"),
    19: HoldWords("site", "the site's hook that prepares a job failed", _SITE, "JobHeld"),
    20: HoldWords("final", "it missed its time to start", _RESUBMIT, "JobFailed"),
    21: HoldWords("site", "the worker node's policy ended it", _SITE, "JobHeld"),
    22: HoldWords(
        "final", "the job's event log could not be opened", "Check the rights of the job folder.", "JobFailed"
    ),
    23: HoldWords("retry", "the user's account could not be used", _RETRY, "JobHeld"),
    24: HoldWords("retry", "no shadow was there for the job", _RETRY, "JobHeld"),
    25: HoldWords("final", "its cron settings are not valid", _RESUBMIT, "JobFailed"),
    26: HoldWords("site", "a rule of the schedd holds it", _SITE, "JobHeld"),
    27: HoldWords("site", "a rule of the schedd has no value for this job", _SITE, "JobHeld"),
    32: HoldWords(
        "final",
        "its input is larger than the site allows",
        "Send less, or read it from the site's own storage.",
        "JobFailed",
    ),
    33: HoldWords(
        "final",
        "its output is larger than the site allows",
        "Fetch fewer files (`--fetch`), or write to the site's storage.",
        "JobFailed",
    ),
    34: HoldWords("final", "it used more than it had asked for", "Ask for more.", "JobFailed"),
    35: HoldWords(
        "final",
        "its container image cannot be used",
        "Check the image's name: `%offload sites` lists those of the site.",
        "JobFailed",
    ),
    36: HoldWords("final", "its checkpoint failed", _RESUBMIT, "JobFailed"),
    43: HoldWords("final", "the script before the job failed", _RESUBMIT, "JobFailed"),
    44: HoldWords("final", "the script after the job failed", _RESUBMIT, "JobFailed"),
    45: HoldWords("retry", "the worker node's container runtime does not work", _RETRY, "JobHeld"),
    46: HoldWords("final", "it took longer than it had asked for", "Ask for more time: --time.", "TimeExceeded"),
    47: HoldWords("final", "it ran longer than it had asked for", "Ask for more time: --time.", "TimeExceeded"),
    48: HoldWords("site", "the site's hook that prepares a shadow failed", _SITE, "JobHeld"),
    49: HoldWords("final", "a deferral of the job has no value", _RESUBMIT, "JobFailed"),
}
_MEMORY_WORDS = HoldWords(
    "final", "it used more memory than it had asked for", "Ask for more memory: --memory.", "MemoryExceeded"
)
_DISK_WORDS = HoldWords(
    "final", "it used more disk than it had asked for", "Ask for more disk: --disk.", "DiskExceeded"
)
_PASSING_WORDS = {
    6: HoldWords("retry", "the worker node was too busy to start it", _RETRY, "JobHeld"),
    12: HoldWords("retry", "the transfer of its output broke off", _RETRY, "JobHeld"),
    13: HoldWords("retry", "the transfer of its input broke off", _RETRY, "JobHeld"),
}


def hold_words(code: int | None, subcode: int | None, text: str = "") -> HoldWords:
    """Return what a hold means. ``text`` is HTCondor's own, which is looked at for a full disk only."""
    # A memory limit is 34/102 where cgroups enforce it and 21/102 where the execute node's policy does.
    if code in (21, 34) and subcode == _MEMORY:
        return _MEMORY_WORDS
    if code in (21, 34) and subcode == _DISK:
        return _DISK_WORDS
    if code in (12, 13) and (subcode == errno.ENOSPC or "No space left" in text):
        return HoldWords("final", "the disk was full", "Ask for more disk: --disk.", "DiskExceeded")
    if (code == 6 and subcode in _PASSING) or (code in (12, 13) and subcode in _TRANSFER_PASSING):
        return _PASSING_WORDS[code]
    if code is None:
        return HoldWords("user", "held without a reason", "Release it with condor_release, or cancel it.", "JobHeld")
    return _TABLE.get(code, HoldWords("site", f"held (code {code})", _SITE, "JobHeld"))


_VACATES: dict[int, str] = {
    1000: "a policy of the job",
    1001: "a rule of the schedd",
    1002: "a fault of the shadow",
    1003: "it could not be set up",
    1004: "on request",
    1005: "an unknown fault",
    1006: "the slot could not be claimed",
    1007: "a fault of the starter",
    1008: "contact with the worker node was lost",
    1009: "the schedd took the slot back",
    1010: "an administrator vacated the node",
    1011: "the worker node preempted it",
    1012: "the worker node failed",
    1013: "the worker node was shut down",
    1014: "the worker node was drained",
    1015: "its slot was merged with another",
    1016: "the worker node went to sleep",
    1017: "the schedd released the slot",
    1018: "a job that the node prefers took the slot",
    1019: "a user with better priority took the slot",
    1020: "a fault of the virtual machine",
    1021: "a fault of the container runtime",
    1022: "the schedd vacated it",
    1023: "it was removed",
    1024: "a fault of the worker node's scratch disk",
    1025: "it wrote a checkpoint",
}


def vacate_words(code: int | None, text: str = "") -> str:
    """Return why a job left its slot before its end; HTCondor's own text where the code is not known."""
    if code is None:
        return text or "an eviction"
    if 1026 <= code <= 1036:
        return f"the worker node refused it ({text})" if text else "the worker node refused it"
    return _VACATES.get(code, text or f"an eviction (code {code})")
