"""The store seam: a cache of the job records, which can be deleted and rebuilt.

Every method takes the owner (``None``: the service itself).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jupyter_offload.service.record import Record

__all__ = ["Listing", "Store", "Summary"]


@dataclass(frozen=True)
class Listing:
    """Records changed after a revision, newest first, the ids deleted since, and the revision that this is as of."""

    revision: int
    records: tuple[Record, ...]
    deleted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """The little of a record that retention looks at."""

    id: str
    owner: str
    state: str
    created: float
    finished: float | None


class Store(Protocol):
    """Keeps records. Synchronous: `service.ledger` calls it from one thread, and nobody else writes."""

    def revision(self) -> int:
        """Return the revision of the last change."""
        ...

    def save(self, owner: str | None, records: Sequence[Record]) -> None:
        """Write the records, each with its own revision, in one transaction that is on disk on return."""
        ...

    def delete(self, owner: str | None, job_ids: Sequence[str], revision: int) -> None:
        """Forget records; `listing` tells the ids to those who ask since an earlier revision."""
        ...

    def get(self, owner: str | None, job_id: str) -> Record | None:
        """Return one record by its full id."""
        ...

    def candidates(self, owner: str | None, text: str) -> list[Record]:
        """Return the records that ``text`` may mean: an id's prefix, ``name-prefix`` or a name."""
        ...

    def twins(self, owner: str | None, fingerprint: str) -> list[Record]:
        """Return the records with this fingerprint, newest first."""
        ...

    def listing(self, owner: str | None, since: int, limit: int | None) -> Listing:
        """Return what changed after ``since``."""
        ...

    def live(self, owner: str | None) -> list[Record]:
        """Return the records with something left to do."""
        ...

    def ids(self, owner: str | None) -> set[str]:
        """Return all ids."""
        ...

    def deleted_ids(self, owner: str | None) -> set[str]:
        """Return the ids of deleted jobs that are still remembered."""
        ...

    def summaries(self, owner: str | None) -> list[Summary]:
        """Return what retention looks at, oldest end first."""
        ...

    def note_site(self, name: str, info: str) -> None:
        """Remember what a site last said of itself (JSON)."""
        ...

    def site_notes(self) -> dict[str, str]:
        """Return what each site last said of itself."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...
