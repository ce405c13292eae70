"""Verdicts in SQLite: each kept once, written in transactions, safe against a kill."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from robustbench_dyn.errors import StoreError
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.verdicts import Outcome, Sign, Status, Step, Verdict

_COLUMNS = tuple(column.name for column in fields(Verdict))
_ROWS_AT_A_TIME = 50_000
_COSTS = ("examples", "decided", "forward_passes", "backward_passes", "seconds")
# Step i takes a file from schema i to i + 1; a new file goes through all of them. Never edit one.
_STEPS = (
    """
CREATE TABLE evaluations (key TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE verdicts (
    key TEXT NOT NULL REFERENCES evaluations,
    eps REAL NOT NULL, example_id INTEGER NOT NULL, label INTEGER NOT NULL,
    prediction INTEGER NOT NULL, status TEXT NOT NULL, certified_radius REAL, certifier TEXT,
    adversarial_distance REAL, attack TEXT, forward_passes INTEGER, backward_passes INTEGER,
    seconds REAL, reason TEXT, x_adv BLOB,
    PRIMARY KEY (key, eps, example_id)
) WITHOUT ROWID;
CREATE TABLE runs (
    key TEXT NOT NULL REFERENCES evaluations, eps REAL NOT NULL, n_examples INTEGER NOT NULL,
    summary TEXT NOT NULL, PRIMARY KEY (key, eps, n_examples)
) WITHOUT ROWID;
CREATE TABLE violations (
    key TEXT NOT NULL REFERENCES evaluations, eps REAL NOT NULL, example_id INTEGER NOT NULL,
    certified_radius REAL, adversarial_distance REAL, attack TEXT, path TEXT, x_adv BLOB,
    PRIMARY KEY (key, eps, example_id)
) WITHOUT ROWID;
""",
    """
CREATE TABLE costs (
    key TEXT NOT NULL REFERENCES evaluations, eps REAL NOT NULL, stage TEXT NOT NULL,
    examples INTEGER, decided INTEGER, forward_passes INTEGER, backward_passes INTEGER,
    seconds REAL, PRIMARY KEY (key, eps, stage)
) WITHOUT ROWID;
""",
    """
CREATE TABLE votes (
    key TEXT NOT NULL, example_id INTEGER NOT NULL, stage TEXT NOT NULL, draws INTEGER NOT NULL,
    counts TEXT NOT NULL, seconds REAL, PRIMARY KEY (key, example_id, stage)
) WITHOUT ROWID;
""",
    # char(59) is the semicolon, which ends a statement here. Before, a reason that began with
    # "next: " told what an example waited for.
    """
ALTER TABLE verdicts ADD COLUMN next_stage TEXT NOT NULL DEFAULT '';
ALTER TABLE verdicts ADD COLUMN trail TEXT NOT NULL DEFAULT '[]';
UPDATE verdicts SET next_stage = substr(reason, 7, instr(reason || char(59), char(59)) - 7)
    WHERE reason LIKE 'next: %';
CREATE TABLE flags (key TEXT NOT NULL, flag TEXT NOT NULL, PRIMARY KEY (key, flag)) WITHOUT ROWID;
""",
    """
CREATE TABLE signs (
    key TEXT NOT NULL REFERENCES evaluations, eps REAL NOT NULL, name TEXT NOT NULL, value REAL,
    PRIMARY KEY (key, eps, name)
) WITHOUT ROWID;
""",
)
SCHEMA_VERSION = len(_STEPS)


_ADD_COSTS = "ON CONFLICT DO UPDATE SET " + ", ".join(f"{c} = {c} + excluded.{c}" for c in _COSTS)
# Counts only grow: of two states of one count, the one with more draws is the later one.
_MORE_DRAWS = (
    "ON CONFLICT DO UPDATE SET draws = excluded.draws, counts = excluded.counts, "
    "seconds = excluded.seconds WHERE excluded.draws > draws"
)
# Each part of a sweep looks for signs among its own examples: the most telling stands.
_MOST_TELLING = "ON CONFLICT DO UPDATE SET value = max(value, excluded.value)"


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
        with _explained(path):
            if path is not None and not path.parent.is_dir():
                raise StoreError(f"the folder {path.parent} of the store does not exist")
            # timeout: another process may be writing
            self._connection = sqlite3.connect(path or ":memory:", timeout=60)
            self._prepare()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add_evaluation(self, key: str, record: dict[str, Any]) -> None:
        """Keep what the evaluation depends on, once."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO evaluations VALUES (?, ?)",
                (key, json.dumps(record, sort_keys=True)),
            )

    def record(self, key: str) -> dict[str, Any]:
        """Return what an evaluation depends on; raises StoreError where there is none."""
        with _explained(self.path):
            row = self._connection.execute(
                "SELECT record FROM evaluations WHERE key = ?", (key,)
            ).fetchone()
        if row is None:
            raise StoreError(f"the store {self.path} holds no evaluation {key}")
        record: dict[str, Any] = json.loads(row[0])
        return record

    def records(self) -> dict[str, dict[str, Any]]:
        """Return what every evaluation depends on, by key."""
        with _explained(self.path):
            rows = self._connection.execute("SELECT key, record FROM evaluations").fetchall()
        return {key: json.loads(record) for key, record in rows}

    def add_verdicts(
        self, key: str, verdicts: Iterable[Verdict], cost: StageCost | None = None
    ) -> None:
        """Write verdicts, replacing what was known of the same example at the same eps.

        cost: what they took; it is added to what its stage took before.
        """
        names = ", ".join(("key", *_COLUMNS))
        marks = ", ".join("?" * (len(_COLUMNS) + 1))
        rows = [(key, *(_value(v, column) for column in _COLUMNS)) for v in verdicts]
        with self._transaction() as connection:
            connection.executemany(
                f"INSERT OR REPLACE INTO verdicts ({names}) VALUES ({marks})", rows
            )
            if cost is not None:
                values = tuple(getattr(cost, column) for column in _COSTS)
                connection.execute(
                    f"INSERT INTO costs VALUES (?, ?, ?, ?, ?, ?, ?, ?) {_ADD_COSTS}",
                    (key, cost.eps, cost.stage, *values),
                )

    def add_signs(self, key: str, eps: float, signs: Iterable[Sign]) -> None:
        """Keep signs of masked gradients that an evaluation found at one eps."""
        with self._transaction() as connection:
            connection.executemany(
                f"INSERT INTO signs VALUES (?, ?, ?, ?) {_MOST_TELLING}",
                [(key, eps, sign.name, sign.value) for sign in signs],
            )

    def signs(self, key: str, eps: float) -> list[Sign]:
        """Return the signs of masked gradients that were found at one eps, by name."""
        query = "SELECT name, value FROM signs WHERE key = ? AND eps = ? ORDER BY name"
        return [Sign(name, value) for name, value in self._rows(query, (key, eps))]

    def costs(self, key: str, eps: float) -> list[StageCost]:
        """Return what each stage of an evaluation took at one eps, in all runs together."""
        query = f"SELECT eps, stage, {', '.join(_COSTS)} FROM costs WHERE key = ? AND eps = ?"
        with _explained(self.path):
            return [StageCost(*row) for row in self._connection.execute(query, (key, eps))]

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
        with _explained(self.path):
            yield from self._connection.execute(query, values)

    def add_votes(self, key: str, example_id: int, stage: str, votes: Votes) -> None:
        """Keep the votes on one example so far, in place of fewer of them.

        key: of all that they depend on. stage: what they are for.
        """
        values = (key, example_id, stage, votes.draws, json.dumps(votes.counts), votes.seconds)
        with self._transaction() as connection:
            connection.execute(f"INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?) {_MORE_DRAWS}", values)

    def votes(self, key: str) -> dict[tuple[int, str], Votes]:
        """Return all votes of one key, by example and stage."""
        query = "SELECT example_id, stage, draws, counts, seconds FROM votes WHERE key = ?"
        return {
            (example_id, stage): Votes(draws, tuple(json.loads(counts)), seconds)
            for example_id, stage, draws, counts, seconds in self._rows(query, (key,))
        }

    def add_flags(self, key: str, flags: Iterable[str]) -> None:
        """Keep what a run has found out about the model of an evaluation."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO flags VALUES (?, ?)", [(key, flag) for flag in flags]
            )

    def flags(self, key: str) -> list[str]:
        """Return what runs have found out about the model of an evaluation, by name."""
        query = "SELECT flag FROM flags WHERE key = ? ORDER BY flag"
        return [flag for (flag,) in self._rows(query, (key,))]

    def remove_runs(self, key: str) -> None:
        """Forget the rows of one evaluation, whose verdicts no longer hold."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM runs WHERE key = ?", (key,))

    def add_run(self, run: Run) -> None:
        """Record that a run came to its end."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)",
                (run.key, run.eps, run.n_examples, json.dumps(run.summary)),
            )

    def run(self, key: str, eps: float, n_examples: int) -> Run | None:
        """Return one finished run, or None."""
        query = "SELECT summary FROM runs WHERE key = ? AND eps = ? AND n_examples = ?"
        with _explained(self.path):
            row = self._connection.execute(query, (key, eps, n_examples)).fetchone()
        return None if row is None else Run(key, eps, n_examples, json.loads(row[0]))

    def runs(self) -> list[Run]:
        """Return the finished runs of evaluations that have no violation."""
        query = (
            "SELECT key, eps, n_examples, summary FROM runs "
            "WHERE key NOT IN (SELECT key FROM violations) ORDER BY key, eps, n_examples"
        )
        with _explained(self.path):
            rows = self._connection.execute(query).fetchall()
        return [Run(key, eps, n, json.loads(summary)) for key, eps, n, summary in rows]

    def add_violation(self, key: str, eps: float, violation: Violation) -> None:
        """Keep a counterexample to a certificate."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO violations VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (key, eps, *violation),
            )

    def violations(self, key: str) -> list[Violation]:
        """Return the counterexamples to one evaluation's certificates."""
        columns = ", ".join(Violation._fields)
        with _explained(self.path):
            rows = self._connection.execute(
                f"SELECT {columns} FROM violations WHERE key = ? ORDER BY example_id", (key,)
            ).fetchall()
        return [Violation(*row) for row in rows]

    def copy(self, path: Path, keys: Collection[str], examples: range) -> None:
        """Write some examples' verdicts and votes under some keys, and their runs, to a new file.

        What the verdicts have cost stays here: merging the file back adds what it cost there.
        """
        Store(path).close()
        with self._attached(path) as connection:
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

    def merge(self, path: Path) -> None:
        """Take over everything that another store holds, which must be at rest."""
        Store(path).close()  # brings it to this schema, or says what is wrong with it
        with self._attached(path) as connection:
            for table in ("evaluations", "flags"):
                connection.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM other.{table}")
            for table in ("verdicts", "runs", "violations"):
                connection.execute(f"REPLACE INTO {table} SELECT * FROM other.{table}")
            connection.execute(
                # WHERE true: or SQLite reads ON CONFLICT as a join.
                f"INSERT INTO costs SELECT * FROM other.costs WHERE true {_ADD_COSTS}"
            )
            connection.execute(
                f"INSERT INTO signs SELECT * FROM other.signs WHERE true {_MOST_TELLING}"
            )
            connection.execute(
                f"INSERT INTO votes SELECT * FROM other.votes WHERE true {_MORE_DRAWS}"
            )

    def _prepare(self) -> None:
        if self._version() == SCHEMA_VERSION:
            return
        with self._transaction() as connection:
            # Asked again: another process may have prepared the file in the meantime.
            version = self._version()
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version > SCHEMA_VERSION or (version == 0 and tables):
                raise StoreError(
                    f"{self.path} is no store of this version (it has schema {version}, this is "
                    f"{SCHEMA_VERSION}); give another --store file or update robustbench-dyn"
                )
            for step in _STEPS[version:]:
                for statement in step.split(";"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _version(self) -> int:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        return int(version)

    @contextmanager
    def _attached(self, path: Path) -> Iterator[sqlite3.Connection]:
        """Write in one transaction, with another store at hand as `other`."""
        with _explained(self.path):
            self._connection.execute("ATTACH ? AS other", (str(path),))
        try:
            with self._transaction() as connection:
                yield connection
        finally:
            self._connection.execute("DETACH other")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _explained(self.path), self._connection:
            # IMMEDIATE: whoever reads here and then writes has waited for its turn.
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection


def _value(verdict: Verdict, column: str) -> Any:
    value = getattr(verdict, column)
    return json.dumps(value) if column == "trail" else value


@contextmanager
def _explained(path: Path | None) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"the store {path or '(in memory)'} failed: {error}; what was written before is kept. "
            "Free space, make the file writable, or give another --store file"
        ) from error
