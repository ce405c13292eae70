"""Verdicts in SQLite: each kept once, written in transactions, safe against a kill."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from robustbench_dyn.errors import StoreError
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.schema import (
    ADD_COSTS,
    COST_COLUMNS,
    MORE_DRAWS,
    MOST_TELLING,
    SCHEMA_VERSION,
    upgrade,
)
from robustbench_dyn.results.spec import Record
from robustbench_dyn.results.verdicts import Outcome, Sign, Status, Step, Verdict

_COLUMNS = tuple(column.name for column in fields(Verdict))
_ROWS_AT_A_TIME = 50_000


class Run(NamedTuple):
    """A finished run: n_examples examples of one evaluation at one eps, and its summary row."""

    key: str
    eps: float
    n_examples: int
    summary: dict[str, Any]


class Violation(NamedTuple):
    """An adversarial example inside a certified ball."""

    example_id: int
    certified_radius: float
    adversarial_distance: float
    attack: str
    path: str
    x_adv: bytes


class Votes(NamedTuple):
    """How a classifier has voted so far on noisy copies of one example.

    draws: how many copies. counts: (n_classes + 1,), last those without a class.
    """

    draws: int
    counts: tuple[int, ...]
    seconds: float


class Store:
    """All verdicts of one SQLite file; path None keeps them in memory.

    Every method that writes is one transaction. Raises StoreError where the file cannot be
    opened, is not a store, or the disk is full; what was written before is kept.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        with explained(path):
            if path is not None and not path.parent.is_dir():
                raise StoreError(f"the folder {path.parent} of the store does not exist")
            # timeout: another process may be writing
            self.connection = sqlite3.connect(path or ":memory:", timeout=60)
            self._prepare()

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def add_evaluation(self, key: str, record: Record) -> None:
        """Keep what the evaluation depends on, once."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO evaluations VALUES (?, ?)",
                (key, record.to_json()),
            )

    def record(self, key: str) -> Record:
        """Return what an evaluation depends on; raises StoreError where there is none."""
        with explained(self.path):
            row = self.connection.execute(
                "SELECT record FROM evaluations WHERE key = ?", (key,)
            ).fetchone()
        if row is None:
            raise StoreError(f"the store {self.path} holds no evaluation {key}")
        return Record.from_json(row[0])

    def records(self) -> dict[str, Record]:
        """Return what every evaluation depends on, by key."""
        with explained(self.path):
            rows = self.connection.execute("SELECT key, record FROM evaluations").fetchall()
        return {key: Record.from_json(record) for key, record in rows}

    def add_verdicts(
        self, key: str, verdicts: Iterable[Verdict], cost: StageCost | None = None
    ) -> None:
        """Write verdicts, replacing what was known of the same example at the same eps.

        cost: what they took; it is added to what its stage took before.
        """
        names = ", ".join(("key", *_COLUMNS))
        marks = ", ".join("?" * (len(_COLUMNS) + 1))
        rows = [(key, *(_value(v, column) for column in _COLUMNS)) for v in verdicts]
        with self.transaction() as connection:
            connection.executemany(
                f"INSERT OR REPLACE INTO verdicts ({names}) VALUES ({marks})", rows
            )
            if cost is not None:
                values = tuple(getattr(cost, column) for column in COST_COLUMNS)
                connection.execute(
                    f"INSERT INTO costs VALUES (?, ?, ?, ?, ?, ?, ?, ?) {ADD_COSTS}",
                    (key, cost.eps, cost.stage, *values),
                )

    def add_signs(self, key: str, eps: float, signs: Iterable[Sign]) -> None:
        """Keep signs of masked gradients that an evaluation found at one eps."""
        with self.transaction() as connection:
            connection.executemany(
                f"INSERT INTO signs VALUES (?, ?, ?, ?) {MOST_TELLING}",
                [(key, eps, sign.name, sign.value) for sign in signs],
            )

    def signs(self, key: str, eps: float) -> list[Sign]:
        """Return the signs of masked gradients that were found at one eps, by name."""
        query = "SELECT name, value FROM signs WHERE key = ? AND eps = ? ORDER BY name"
        return [Sign(name, value) for name, value in self._rows(query, (key, eps))]

    def costs(self, key: str, eps: float) -> list[StageCost]:
        """Return what each stage of an evaluation took at one eps, in all runs together."""
        query = f"SELECT eps, stage, {', '.join(COST_COLUMNS)} FROM costs WHERE key = ? AND eps = ?"
        with explained(self.path):
            return [StageCost(*row) for row in self.connection.execute(query, (key, eps))]

    def verdicts(self, key: str, eps: float | None = None) -> Iterator[Verdict]:
        """Yield the verdicts of one evaluation, at one eps or at all, by eps and example."""
        where, values = ("AND eps = ?", (key, eps)) if eps is not None else ("", (key,))
        query = f"SELECT {', '.join(_COLUMNS)} FROM verdicts WHERE key = ? {where}"
        for row in self._rows(f"{query} ORDER BY eps, example_id", values):
            values_of = dict(zip(_COLUMNS, row, strict=True))
            for column in ("certified_radius", "adversarial_distance"):
                # SQLite keeps NaN as NULL.
                if values_of[column] is None:
                    values_of[column] = float("nan")
            trail = tuple(
                Step(stage, Outcome(outcome), eps, message)
                for stage, outcome, eps, message in json.loads(values_of["trail"])
            )
            status = Status(values_of["status"])
            yield Verdict(**{**values_of, "status": status, "trail": trail})

    def table(self, query: str) -> Iterator[list[tuple[Any, ...]]]:
        """Yield a query's rows, many at a time; for tables that need not fit in memory."""
        rows = list[tuple[Any, ...]]()
        for row in self._rows(query, ()):
            rows.append(row)
            if len(rows) == _ROWS_AT_A_TIME:
                yield rows
                rows = []
        if rows:
            yield rows

    def _rows(self, query: str, values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        with explained(self.path):
            yield from self.connection.execute(query, values)

    def add_votes(self, key: str, example_id: int, stage: str, votes: Votes) -> None:
        """Keep the votes on one example so far, in place of fewer of them.

        key: of all that they depend on. stage: what they are for.
        """
        values = (key, example_id, stage, votes.draws, json.dumps(votes.counts), votes.seconds)
        with self.transaction() as connection:
            connection.execute(f"INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?) {MORE_DRAWS}", values)

    def votes(self, key: str) -> dict[tuple[int, str], Votes]:
        """Return all votes of one key, by example and stage."""
        query = "SELECT example_id, stage, draws, counts, seconds FROM votes WHERE key = ?"
        return {
            (example_id, stage): Votes(draws, tuple(json.loads(counts)), seconds)
            for example_id, stage, draws, counts, seconds in self._rows(query, (key,))
        }

    def add_flags(self, key: str, flags: Iterable[str]) -> None:
        """Keep what a run has found out about the model of an evaluation."""
        with self.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO flags VALUES (?, ?)", [(key, flag) for flag in flags]
            )

    def flags(self, key: str) -> list[str]:
        """Return what runs have found out about the model of an evaluation, by name."""
        query = "SELECT flag FROM flags WHERE key = ? ORDER BY flag"
        return [flag for (flag,) in self._rows(query, (key,))]

    def remove_runs(self, key: str) -> None:
        """Forget the rows of one evaluation, whose verdicts no longer hold."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM runs WHERE key = ?", (key,))

    def add_run(self, run: Run) -> None:
        """Record that a run came to its end."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)",
                (run.key, run.eps, run.n_examples, json.dumps(run.summary)),
            )

    def run(self, key: str, eps: float, n_examples: int) -> Run | None:
        """Return one finished run, or None."""
        query = "SELECT summary FROM runs WHERE key = ? AND eps = ? AND n_examples = ?"
        with explained(self.path):
            row = self.connection.execute(query, (key, eps, n_examples)).fetchone()
        return None if row is None else Run(key, eps, n_examples, json.loads(row[0]))

    def runs(self) -> list[Run]:
        """Return the finished runs of evaluations that have no violation."""
        query = (
            "SELECT key, eps, n_examples, summary FROM runs "
            "WHERE key NOT IN (SELECT key FROM violations) ORDER BY key, eps, n_examples"
        )
        with explained(self.path):
            rows = self.connection.execute(query).fetchall()
        return [Run(key, eps, n, json.loads(summary)) for key, eps, n, summary in rows]

    def add_violation(self, key: str, eps: float, violation: Violation) -> None:
        """Keep a counterexample to a certificate."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO violations VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (key, eps, *violation),
            )

    def violations(self, key: str) -> list[Violation]:
        """Return the counterexamples to one evaluation's certificates."""
        columns = ", ".join(Violation._fields)
        with explained(self.path):
            rows = self.connection.execute(
                f"SELECT {columns} FROM violations WHERE key = ? ORDER BY example_id", (key,)
            ).fetchall()
        return [Violation(*row) for row in rows]

    def _prepare(self) -> None:
        if self._version() == SCHEMA_VERSION:
            return
        with self.transaction() as connection:
            # Asked again: another process may have prepared the file in the meantime.
            version = self._version()
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version > SCHEMA_VERSION or (version == 0 and tables):
                raise StoreError(
                    f"{self.path} is no store of this version (it has schema {version}, this is "
                    f"{SCHEMA_VERSION}); give another --store file or update robustbench-dyn"
                )
            upgrade(connection, version)

    def _version(self) -> int:
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        return int(version)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write in one transaction, after other writers; used by results.exchange as well."""
        with explained(self.path), self.connection:
            # IMMEDIATE: a process that reads here and then writes has waited for its turn.
            self.connection.execute("BEGIN IMMEDIATE")
            yield self.connection


def _value(verdict: Verdict, column: str) -> Any:
    value = getattr(verdict, column)
    return json.dumps(value) if column == "trail" else value


@contextmanager
def explained(path: Path | None) -> Iterator[None]:
    """Raise what SQLite raises as StoreError, with what the user can do."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"the store {path or '(in memory)'} failed: {error}; what was written before is kept. "
            "Free space, make the file writable, or give another --store file"
        ) from error
