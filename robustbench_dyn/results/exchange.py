"""Parts of a store in files of their own, and the way back: copy and merge."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from robustbench_dyn.results.schema import ADD_COSTS, MORE_DRAWS, MOST_TELLING
from robustbench_dyn.results.store import Store, explained


def copy_part(store: Store, path: Path, keys: Collection[str], examples: range) -> None:
    """Write some examples' verdicts and votes under some keys, and their runs, to a new file.

    What the verdicts have cost stays here: merging the file back adds what it cost there.
    """
    Store(path).close()
    with _attached(store, path) as connection:
        for key in keys:
            connection.execute(
                "INSERT INTO other.evaluations SELECT * FROM evaluations WHERE key = ?", (key,)
            )
            for table in ("verdicts", "votes"):
                connection.execute(
                    f"INSERT INTO other.{table} SELECT * FROM {table} "
                    "WHERE key = ? AND example_id >= ? AND example_id < ?",
                    (key, examples.start, examples.stop),
                )
            for table in ("runs", "flags", "signs"):
                connection.execute(
                    f"INSERT INTO other.{table} SELECT * FROM {table} WHERE key = ?", (key,)
                )


def merge(store: Store, path: Path) -> None:
    """Take over everything that another store holds, which must be at rest."""
    Store(path).close()  # brings it to this schema, or says what is wrong with it
    with _attached(store, path) as connection:
        for table in ("evaluations", "flags"):
            connection.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM other.{table}")
        for table in ("verdicts", "runs", "violations"):
            connection.execute(f"REPLACE INTO {table} SELECT * FROM other.{table}")
        connection.execute(
            # WHERE true: or SQLite reads ON CONFLICT as a join.
            f"INSERT INTO costs SELECT * FROM other.costs WHERE true {ADD_COSTS}"
        )
        connection.execute(f"INSERT INTO signs SELECT * FROM other.signs WHERE true {MOST_TELLING}")
        connection.execute(f"INSERT INTO votes SELECT * FROM other.votes WHERE true {MORE_DRAWS}")


@contextmanager
def _attached(store: Store, path: Path) -> Iterator[sqlite3.Connection]:
    """Write in one transaction, with another store at hand as `other`."""
    with explained(store.path):
        store.connection.execute("ATTACH ? AS other", (str(path),))
    try:
        with store.transaction() as connection:
            yield connection
    finally:
        store.connection.execute("DETACH other")
