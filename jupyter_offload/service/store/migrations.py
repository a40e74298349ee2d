"""The store's schema as numbered steps: ``PRAGMA user_version`` is the number of the last one that was taken.

A step is never changed once released; a newer schema is a further step. A file from a newer release is refused, not guessed at.
"""

from __future__ import annotations

import sqlite3

from jupyter_offload.errors import ConfigError

__all__ = ["MIGRATIONS", "migrate"]

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE jobs (
            id TEXT PRIMARY KEY, owner TEXT NOT NULL, site TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,
            live INTEGER NOT NULL, fingerprint TEXT, created REAL NOT NULL, finished REAL, revision INTEGER NOT NULL,
            record TEXT NOT NULL) WITHOUT ROWID""",
        "CREATE INDEX jobs_changed ON jobs (owner, revision)",
        "CREATE TABLE deleted (id TEXT PRIMARY KEY, owner TEXT NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE counter (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL)",
    ),
    (
        "CREATE INDEX jobs_twins ON jobs (owner, fingerprint) WHERE fingerprint IS NOT NULL",
        "CREATE INDEX jobs_live ON jobs (live) WHERE live = 1",
        "CREATE TABLE sites (name TEXT PRIMARY KEY, info TEXT NOT NULL) WITHOUT ROWID",
    ),
)


def migrate(connection: sqlite3.Connection) -> int:
    """Take the steps that are missing, each in one transaction; return the version. Raises `ConfigError` for a newer file."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise ConfigError(
            f"the job store has schema {version}, this release knows up to {len(MIGRATIONS)}",
            hint="Upgrade jupyter_offload, or delete jobs.sqlite: it is rebuilt from the job folders.",
        )
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        except sqlite3.Error:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    return len(MIGRATIONS)
