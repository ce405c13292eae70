"""The tables of a store, and the steps that bring an older file to them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from robustbench_dyn.results.layouts import LAYOUTS, Kind, Layout


def _type_records(connection: sqlite3.Connection) -> None:
    """Bring the records of evaluations, once flat, into the form of results.spec.Record.

    Their keys stay: verdicts of an older version are read and exported, and never reused.
    """
    rows = connection.execute("SELECT key, record FROM evaluations").fetchall()
    for key, text in rows:
        record = _typed(json.loads(text))
        connection.execute(
            "UPDATE evaluations SET record = ? WHERE key = ?", (json.dumps(record), key)
        )


def _typed(old: dict[str, Any]) -> dict[str, Any]:
    gradient_free = ("transfer", "square", "aa-square", "hop-skip-jump", "rays")
    versions = old.get("stage_versions", {})

    def attack(name: str, *, on_signs: bool) -> dict[str, Any]:
        return {
            "name": name,
            "label": name,
            "version": versions.get(name, 1),
            "gradient_free": name in gradient_free,
            "only_on_signs": on_signs,
        }

    attacks = [
        *(attack(name, on_signs=False) for name in old.get("attacks", ())),
        *(attack(name, on_signs=True) for name in old.get("attacks_on_signs", ())),
    ]
    names = (
        "model",
        "family",
        "plugin_version",
        "weights_sha256",
        "state_sha256",
        "code_sha256",
        "dataset",
        "data_sha256",
        "norm",
        "rounding",
        "precision",
        "seed",
        "batch_size",
        "audit_share",
        "device",
        "torch_version",
        "package_version",
    )
    spec = {name: old[name] for name in names if name in old} | {
        "attacks": attacks,
        "attacks_if_random": attacks,
        "certifiers": [{"name": label, "label": label} for label in old.get("certifiers", ())],
    }
    if "sigma" in old:
        spec["smoothing"] = {name: old[name] for name in ("sigma", "n0", "n", "alpha")}
        spec["certifiers"][0]["version"] = old.get("smoothing_version", 1)
    facts = ("parameters", "lipschitz_bound", "not_applicable")
    return {"spec": spec} | {name: old[name] for name in facts if name in old}


def _add_checksums(connection: sqlite3.Connection) -> None:
    """Add a column for the checksum of each row; upgrade() fills it."""
    for table in _WITH_CHECKSUMS:
        connection.execute(f"ALTER TABLE {table} ADD COLUMN checksum INTEGER")


_WITH_CHECKSUMS = (
    "evaluations",
    "verdicts",
    "runs",
    "violations",
    "costs",
    "votes",
    "flags",
    "signs",
)


def _add_first_examples(connection: sqlite3.Connection) -> None:
    """Let a run begin at any example; those so far began at the first one.

    A row that is not what was written keeps its old checksum, and stays damaged.
    """
    before = Layout("runs", _RUNS_BEFORE_9, n_keys=3, expendable=True)
    after = Layout("runs", _RUNS_SINCE_9, n_keys=4, expendable=True)
    # Fails where the table has such a column, and is of a later schema than the file says.
    connection.execute("ALTER TABLE runs ADD COLUMN first_example INTEGER")
    rows = connection.execute(before.select).fetchall()
    connection.execute("DROP TABLE runs")
    connection.execute(
        "CREATE TABLE runs (key TEXT NOT NULL REFERENCES evaluations, eps REAL NOT NULL, "
        "first_example INTEGER NOT NULL, n_examples INTEGER NOT NULL, summary TEXT NOT NULL, "
        "checksum INTEGER, PRIMARY KEY (key, eps, first_example, n_examples)) WITHOUT ROWID"
    )
    for key, eps, n_examples, summary, checksum in rows:
        row = (key, eps, 0, n_examples, summary)
        if before.is_intact((key, eps, n_examples, summary), checksum):
            checksum = after.checksum(row)  # noqa: PLW2901  (of the same row)
        connection.execute(f"INSERT {after.insert}", (*row, checksum))


_RUNS_BEFORE_9: Mapping[str, Kind] = {
    "key": "text",
    "eps": "real",
    "n_examples": "whole",
    "summary": "text",
}
_RUNS_SINCE_9: Mapping[str, Kind] = {
    "key": "text",
    "eps": "real",
    "first_example": "whole",
    "n_examples": "whole",
    "summary": "text",
}

# Step i takes a file from schema i to i + 1; a new file goes through all of them. Never edit one.
_STEPS: tuple[str | Callable[[sqlite3.Connection], None], ...] = (
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
    # Before, the column also named certifiers that proved nothing.
    "UPDATE verdicts SET certifier = '' WHERE certified_radius IS NULL",
    _type_records,
    _add_checksums,
    _add_first_examples,
)
SCHEMA_VERSION = len(_STEPS)

# Counts only grow: of two states of one count, the one with more draws is the later one.
MORE_DRAWS = (
    "ON CONFLICT DO UPDATE SET draws = excluded.draws, counts = excluded.counts, "
    "seconds = excluded.seconds, checksum = excluded.checksum WHERE excluded.draws > draws"
)
# Of two counterexamples to one certificate, the nearer one stands.
NEARER = (
    "ON CONFLICT DO UPDATE SET certified_radius = excluded.certified_radius, "
    "adversarial_distance = excluded.adversarial_distance, attack = excluded.attack, "
    "path = excluded.path, x_adv = excluded.x_adv, checksum = excluded.checksum "
    "WHERE excluded.adversarial_distance < adversarial_distance"
)
# Each part of a sweep looks for signs among its own examples: the most telling stands.
MOST_TELLING = (
    "ON CONFLICT DO UPDATE SET value = excluded.value, checksum = excluded.checksum "
    "WHERE excluded.value > value"
)


def upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Take the tables from a schema version to SCHEMA_VERSION, inside the open transaction."""
    for step in _STEPS[version:]:
        if callable(step):
            step(connection)
        else:
            for statement in step.split(";"):
                connection.execute(statement)
    if _add_checksums in _STEPS[version:]:
        _sign(connection)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _sign(connection: sqlite3.Connection) -> None:
    """Give each row that has no checksum its own."""

    def checksum(table: str, *row: Any) -> int | None:
        try:
            return LAYOUTS[table].checksum(row)
        # Written by no version; whatever reads the row tells so.
        except (TypeError, ValueError):
            return None

    connection.create_function("row_checksum", -1, checksum, deterministic=True)
    for table, layout in LAYOUTS.items():
        connection.execute(
            f"UPDATE {table} SET checksum = row_checksum('{table}', {', '.join(layout.columns)}) "
            "WHERE checksum IS NULL"
        )
    connection.create_function("row_checksum", -1, None)
