"""Parts of a sweep that come back from other machines: checked before they are merged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_dyn.errors import StoreError
from robustbench_dyn.results.layouts import LAYOUTS
from robustbench_dyn.results.rows import Row
from robustbench_dyn.results.schema import SCHEMA_VERSION
from robustbench_dyn.results.spec import EvaluationSpec
from robustbench_dyn.results.store import Store

# Where SQLite keeps the schema version in a file, as four bytes with the highest first.
_VERSION = slice(60, 64)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a part was asked for.

    matches: whether an evaluation of this spec belongs to it. labels: of its examples, by
    example_id. eps: the radii.
    """

    matches: Callable[[EvaluationSpec], bool]
    labels: Mapping[int, int]
    eps: Collection[float]


def check_part(store: Store, path: Path, asked: Asked) -> None:
    """Raise StoreError where a part holds anything but what it was asked for, or `store` has.

    Its tables must be those of this version, its rows intact, its keys those of its records, and
    its verdicts about the examples, labels and radii that were asked for.
    """
    content = path.read_bytes()
    version = int.from_bytes(content[_VERSION], "big")
    if version != SCHEMA_VERSION:
        raise _refused(f"it has schema {version}, and this is {SCHEMA_VERSION}")
    part = Store(path)
    try:
        if _tables(part) != _tables(Store()):
            raise _refused("its tables are not those of a store")
        if problems := part.check():
            raise _refused(f"it is damaged: {problems[0]}")
        keys, votes_keys = _asked_keys(store, part, asked)
        for table, layout in LAYOUTS.items():
            for row in part.rows(table):
                if table != "evaluations" and not _is_known(store, table, row):
                    named = dict(zip(layout.columns, row, strict=True))
                    allowed = votes_keys if table == "votes" else keys
                    if reason := _stranger(named, allowed, asked):
                        raise _refused(f"the row of {layout.name_of(row)} in {table} {reason}")
    finally:
        part.close()


def _asked_keys(store: Store, part: Store, asked: Asked) -> tuple[set[str], set[str]]:
    """Return the keys of the evaluations that were asked for, and of their votes."""
    keys, votes_keys, known = set[str](), set[str](), store.records()
    for key, record in part.records().items():
        spec = record.spec
        if asked.matches(spec) and spec.key() == key:
            keys.add(key)
            votes_keys.add(spec.votes_key())
        elif known.get(key) != record:
            raise _refused(
                f"its evaluation {key[:12]} of {spec.model} on {spec.dataset} was not asked for"
            )
    return keys, votes_keys


def _is_known(store: Store, table: str, row: Row) -> bool:
    """Return whether the store has the same row."""
    keys = LAYOUTS[table].keys
    condition = "WHERE " + " AND ".join(f"{column} = ?" for column in keys)
    return any(kept == row for kept in store.rows(table, condition, row[: len(keys)]))


def _stranger(row: Mapping[str, Any], keys: Collection[str], asked: Asked) -> str:
    """Say why a row that the store does not have was not asked for; empty where it was."""
    if row["key"] not in keys:
        return "belongs to no evaluation that was asked for"
    if "example_id" in row and row["example_id"] not in asked.labels:
        return "is about an example that was not asked for"
    if "eps" in row and row["eps"] not in asked.eps:
        return "is at a radius that was not asked for"
    if "label" in row and row["label"] != asked.labels[row["example_id"]]:
        return f"has the label {row['label']}, and the data set another one"
    return ""


def _tables(store: Store) -> set[tuple[Any, ...]]:
    """Return all that defines a file's tables, views and triggers."""
    with store.explained():
        query = "SELECT type, name, tbl_name, sql FROM sqlite_master"
        return set(store.connection.execute(query).fetchall())


def _refused(reason: str) -> StoreError:
    return StoreError(
        f"the part of the sweep that came back is refused: {reason}; nothing of it was merged"
    )
