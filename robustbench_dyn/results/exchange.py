"""Parts of a store in files of their own, and the way back: copy and merge."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.layouts import LAYOUTS
from robustbench_dyn.results.schema import MORE_DRAWS, MOST_TELLING
from robustbench_dyn.results.store import Store


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


def merge(store: Store, path: Path, *, runs: bool = True) -> None:
    """Take over everything that another store holds, which must be at rest.

    runs: the rows of finished runs, too, which can also be made anew from the verdicts.
    Raises StoreError where a row of it is not what was written; nothing is taken over then.
    """
    other = Store(path)  # brings it to this schema, or says what is wrong with it
    try:
        for table in LAYOUTS:
            other.check_pages(table)
        with store.transaction():
            for table, (verb, conflict) in _MERGED.items():
                if table == "runs" and not runs:
                    continue
                store.write(table, other.rows(table), verb=verb, conflict=conflict)
            for key, *values in other.rows("costs"):
                store.add_cost(key, StageCost(*values))
    finally:
        other.close()


# How a row is written of which there may be one already.
_MERGED = {
    "evaluations": ("INSERT OR IGNORE", ""),
    "flags": ("INSERT OR IGNORE", ""),
    "verdicts": ("INSERT OR REPLACE", ""),
    "runs": ("INSERT OR REPLACE", ""),
    "violations": ("INSERT OR REPLACE", ""),
    "signs": ("INSERT", MOST_TELLING),
    "votes": ("INSERT", MORE_DRAWS),
}


@contextmanager
def _attached(store: Store, path: Path) -> Iterator[sqlite3.Connection]:
    """Write in one transaction, with another store at hand as `other`."""
    with store.explained():
        store.connection.execute("ATTACH ? AS other", (str(path),))
    try:
        with store.transaction() as connection:
            yield connection
    finally:
        store.connection.execute("DETACH other")
