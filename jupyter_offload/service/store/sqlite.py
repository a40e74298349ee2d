"""The store on SQLite.

Journal mode DELETE and no memory map, because the file often lies on NFS, where the write-ahead log is unsafe (sqlite.org/wal.html,
"Disadvantages"); ``synchronous=FULL``, so that a commit is on disk when it returns.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from jupyter_offload.service.record import Record
from jupyter_offload.service.store.base import Listing, Summary
from jupyter_offload.service.store.migrations import migrate

__all__ = ["SQLiteStore"]

REMEMBERED_DELETIONS = 20_000


class SQLiteStore:
    """`Store` in one file of mode 0600. To be used from one thread at a time."""

    def __init__(self, path: Path) -> None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.execute("PRAGMA synchronous = FULL")
        migrate(self._db)
        # A new store begins above every number that an older one can have given, so that clients that ask since then see all.
        self._db.execute("INSERT OR IGNORE INTO counter VALUES (1, ?)", (int(time.time() * 1000),))

    def revision(self) -> int:
        """Return the revision of the last change."""
        return int(self._db.execute("SELECT revision FROM counter").fetchone()[0])

    def _begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def _commit(self, revision: int) -> None:
        self._db.execute("UPDATE counter SET revision = max(revision, ?)", (revision,))
        self._db.execute("COMMIT")

    def save(self, owner: str | None, records: Sequence[Record]) -> None:
        """Write the records in one transaction."""
        if not records:
            return
        rows = [_row(record) for record in records if owner in (None, record.owner)]
        self._begin()
        try:
            self._db.executemany("INSERT OR REPLACE INTO jobs VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows)
            self._commit(max(record.job.revision for record in records))
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def delete(self, owner: str | None, job_ids: Sequence[str], revision: int) -> None:
        """Forget records and remember their ids."""
        self._begin()
        try:
            for job_id in job_ids:
                self._db.execute(
                    "INSERT OR REPLACE INTO deleted SELECT id, owner, ? FROM jobs WHERE id = ? AND (? IS NULL OR owner = ?)",
                    (revision, job_id, owner, owner),
                )
                self._db.execute("DELETE FROM jobs WHERE id = ? AND (? IS NULL OR owner = ?)", (job_id, owner, owner))
            self._db.execute(
                "DELETE FROM deleted WHERE revision <= "
                "(SELECT revision FROM deleted ORDER BY revision DESC LIMIT 1 OFFSET ?)",
                (REMEMBERED_DELETIONS,),
            )
            self._commit(revision)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def get(self, owner: str | None, job_id: str) -> Record | None:
        """Return one record."""
        found = self._records("id = ?", (job_id,), owner)
        return found[0] if found else None

    def candidates(self, owner: str | None, text: str) -> list[Record]:
        """Return the records that ``text`` may mean."""
        wanted = text.strip()
        name, _, prefix = wanted.rpartition("-")
        return self._records(
            "(substr(id, 1, length(?)) = ? OR name = ? OR (name = ? AND ? <> '' AND substr(id, 1, length(?)) = ?))",
            (wanted, wanted, wanted, name, prefix, prefix, prefix),
            owner,
            "LIMIT 200",
        )

    def twins(self, owner: str | None, fingerprint: str) -> list[Record]:
        """Return the records with this fingerprint, newest first."""
        return self._records("fingerprint = ?", (fingerprint,), owner, "ORDER BY created DESC LIMIT 20")

    def listing(self, owner: str | None, since: int, limit: int | None) -> Listing:
        """Return what changed after ``since``, newest first."""
        records = self._records(
            "revision > ?", (since,), owner, f"ORDER BY created DESC, id LIMIT {-1 if limit is None else int(limit)}"
        )
        gone = self._db.execute(
            "SELECT id FROM deleted WHERE revision > ? AND (? IS NULL OR owner = ?)", (since, owner, owner)
        )
        return Listing(self.revision(), tuple(records), tuple(str(row[0]) for row in gone))

    def live(self, owner: str | None) -> list[Record]:
        """Return the records with something left to do."""
        return self._records("live = 1", (), owner, "ORDER BY created")

    def ids(self, owner: str | None) -> set[str]:
        """Return all ids."""
        rows = self._db.execute("SELECT id FROM jobs WHERE ? IS NULL OR owner = ?", (owner, owner))
        return {str(row[0]) for row in rows}

    def deleted_ids(self, owner: str | None) -> set[str]:
        """Return the ids of deleted jobs."""
        rows = self._db.execute("SELECT id FROM deleted WHERE ? IS NULL OR owner = ?", (owner, owner))
        return {str(row[0]) for row in rows}

    def summaries(self, owner: str | None) -> list[Summary]:
        """Return what retention looks at, oldest end first."""
        rows = self._db.execute(
            "SELECT id, owner, state, created, finished FROM jobs WHERE ? IS NULL OR owner = ? "
            "ORDER BY coalesce(finished, created)",
            (owner, owner),
        )
        return [Summary(*row) for row in rows]

    def note_site(self, name: str, info: str) -> None:
        """Remember what a site last said of itself."""
        self._db.execute("INSERT OR REPLACE INTO sites VALUES (?, ?)", (name, info))

    def site_notes(self) -> dict[str, str]:
        """Return what each site last said of itself."""
        return {str(name): str(info) for name, info in self._db.execute("SELECT name, info FROM sites")}

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _records(self, where: str, values: tuple[object, ...], owner: str | None, tail: str = "") -> list[Record]:
        # `where` and `tail` are this module's own words, values are bound
        query = f"SELECT record FROM jobs WHERE {where} AND (? IS NULL OR owner = ?) {tail}"  # noqa: S608
        return [Record.load(row[0]) for row in self._db.execute(query, (*values, owner, owner))]


def _row(record: Record) -> tuple[object, ...]:
    job = record.job
    return (
        job.id, job.owner, job.site, job.name, job.state.value, int(record.live), job.request.fingerprint,
        job.request.created, job.finished, job.revision, record.dump(),
    )  # fmt: skip
