"""Stores in several files: parts that are copied and come back, and stores of several runs.

A part is a later state of the rows that were copied, and replaces them. Stores of several runs are
equal in rank: of two verdicts of one example, results.conflicts says which stands.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from robustbench_dyn.errors import InputError
from robustbench_dyn.files import replacing
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.layouts import LAYOUTS
from robustbench_dyn.results.merging import Merged, Merger
from robustbench_dyn.results.renewal import renew_runs
from robustbench_dyn.results.schema import MORE_DRAWS, MOST_TELLING
from robustbench_dyn.results.store import Store

__all__ = ["Merged", "copy_part", "merge", "merge_into", "merge_stores"]


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
    """Take over everything that a part holds, which must be at rest, in place of older rows.

    runs: the rows of finished runs, too, which can also be made anew from the verdicts.
    Raises StoreError where a row of it is not what was written; nothing is taken over then.
    """
    with _at_rest(path) as other, store.transaction():
        for table, (verb, conflict) in _MERGED.items():
            if table == "runs" and not runs:
                continue
            store.write(table, other.rows(table), verb=verb, conflict=conflict)
        for key, *values in other.rows("costs"):
            store.add_cost(key, StageCost(*values))


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


def merge_stores(paths: Sequence[Path], into: Store) -> list[Merged]:
    """Merge stores into one: all of them, or none where one is refused; they must be at rest.

    The order of the stores does not matter to verdicts and rows. Costs add up where a store brings
    verdicts. The row of each finished run is made anew from the merged verdicts, and ranges of
    examples that touch have a row together. A violation is kept, and its evaluation has no row.
    Raises InputError for a store that is given twice or is `into` itself, StoreError where a row is
    not what was written or two stores contradict each other.
    """
    _check_distinct(paths, into.path)
    merged, renewed = list[Merged](), set[str]()
    with into.transaction():
        for path in paths:
            with _at_rest(path) as other:
                merged.append(Merger(into, other, path).merge())
                renewed.update(other.records())
        for key in sorted(renewed):
            renew_runs(into, key)
    return merged


def merge_into(paths: Sequence[Path], to: Path) -> list[Merged]:
    """Merge stores into a file, new or of a store; see merge_stores.

    A new file appears as a whole, once all stores are merged.
    """
    _check_distinct(paths, to)
    with ExitStack() as stack:
        path = to if os.path.lexists(to) else stack.enter_context(replacing(to))
        into = Store(path)
        stack.callback(into.close)
        return merge_stores(paths, into)


def _check_distinct(paths: Sequence[Path], into: Path | None) -> None:
    seen = [] if into is None else [into]
    for path in paths:
        if not path.is_file():
            raise InputError(f"there is no store {path}; give the file of one")
        for other in seen:
            if other.exists() and path.samefile(other):
                what = "the store that it is merged into" if other is into else "given twice"
                raise InputError(f"the store {path} is {what}; give each store once")
        seen.append(path)


@contextmanager
def _at_rest(path: Path) -> Iterator[Store]:
    """Open a store for one reading of it, once all of its pages are checked."""
    other = Store(path)  # brings it to this schema, or says what is wrong with it
    try:
        for table in LAYOUTS:
            other.check_pages(table)
        with other.explained():
            other.connection.execute("BEGIN")
        yield other
    finally:
        other.close()


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
