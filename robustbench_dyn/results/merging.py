"""One store merged into another of equal rank, table by table."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from robustbench_dyn.errors import StoreError
from robustbench_dyn.results.conflicts import prevailing, voiding_flags, without_proof
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.layouts import LAYOUTS
from robustbench_dyn.results.renewal import finished_at, refute
from robustbench_dyn.results.rows import Row, row_of
from robustbench_dyn.results.schema import MORE_DRAWS, MOST_TELLING, NEARER
from robustbench_dyn.results.spec import Record
from robustbench_dyn.results.store import Store, Violation
from robustbench_dyn.results.verdicts import Verdict

_ROWS_AT_A_TIME = 1000


class Merged(NamedTuple):
    """What one store brought into another one.

    evaluations: that the other one did not have. verdicts: new ones, and those that stand in place
    of another. left_out: verdicts of either store that rest on certificates which a flag of the
    other store voids; the next run computes them again. violations: adversarial examples of one
    store inside radii that the other one certifies, by the key of the evaluation.
    """

    path: Path
    evaluations: int
    verdicts: int
    left_out: int
    violations: tuple[tuple[str, Violation], ...]


class Merger:
    """Merges one store into another, inside the open transaction of the latter."""

    def __init__(self, into: Store, other: Store, path: Path) -> None:
        self.into, self.other, self.path = into, other, path
        self.brought: Counter[tuple[str, float]] = Counter()
        self.left_out = 0

    def merge(self) -> Merged:
        """Merge all tables; return what that brought."""
        known, new = self.into.records(), 0
        violations = list[tuple[str, Violation]]()
        self._write_all("violations", NEARER)
        for key, record in self.other.records().items():
            new += key not in known
            self._merge_record(key, record, known.get(key))
            trusted = self._merge_flags(key, record)
            self._merge_verdicts(key, trusted=trusted)
            if trusted:
                self._merge_runs(key)
            violations += [(key, found) for found in refute(self.into, key)]
        self._write_all("signs", MOST_TELLING)
        self._write_all("votes", MORE_DRAWS)
        self._merge_costs()
        brought = sum(self.brought.values())
        return Merged(self.path, new, brought, self.left_out, tuple(violations))

    def _write_all(self, table: str, conflict: str) -> None:
        self.into.write(table, list(self.other.rows(table)), conflict=conflict)

    def _merge_record(self, key: str, record: Record, kept: Record | None) -> None:
        if kept is not None and kept.spec != record.spec:
            raise StoreError(
                f"the store {self.path} has another evaluation than {self.into.path} under the key "
                f"{key[:12]}; one of them was edited: leave it out"
            )
        # Records of earlier versions know fewer facts.
        best = max((r for r in (kept, record) if r is not None), key=_facts)
        if best != kept:
            self.into.write("evaluations", [(key, best.to_json())], verb="INSERT OR REPLACE")

    def _merge_flags(self, key: str, record: Record) -> bool:
        """Merge the flags of an evaluation; return whether the other store's certificates count.

        A store that has not found out what voids them has attacked none of the examples that they
        spared.
        """
        flags = self.other.flags(key)
        theirs, ours = (voiding_flags(record.spec, f) for f in (flags, self.into.flags(key)))
        if theirs - ours:
            self._leave_out_proved(key)
        self.into.write("flags", [(key, flag) for flag in flags], verb="INSERT OR IGNORE")
        return not ours - theirs

    def _leave_out_proved(self, key: str) -> None:
        """Take back what the store so far rests on certificates that do not count."""
        for verdict in [v for v in self.into.verdicts(key) if v.certifier]:
            left = without_proof(verdict)
            self.into.connection.execute(
                "DELETE FROM verdicts WHERE key = ? AND eps = ? AND example_id = ?",
                (key, verdict.eps, verdict.example_id),
            )
            self.left_out += left is None
            self.into.write("verdicts", [row_of(key, left)] if left else [])
        self.into.connection.execute("DELETE FROM runs WHERE key = ?", (key,))

    def _merge_verdicts(self, key: str, *, trusted: bool) -> None:
        query = "SELECT eps, example_id FROM verdicts WHERE key = ?"
        both = set(self.into.connection.execute(query, (key,)))
        rows = list[Row]()
        for found in self.other.verdicts(key):
            verdict = found if trusted else without_proof(found)
            if verdict is None:
                self.left_out += 1
                continue
            row = row_of(key, verdict)
            if (verdict.eps, verdict.example_id) in both:
                row = self._standing(key, verdict)
            if row:
                rows.append(row)
                self.brought[key, verdict.eps] += 1
            if len(rows) == _ROWS_AT_A_TIME:
                self.into.write("verdicts", rows, verb="INSERT OR REPLACE")
                rows.clear()
        self.into.write("verdicts", rows, verb="INSERT OR REPLACE")

    def _standing(self, key: str, verdict: Verdict) -> Row:
        """Return the row that is to replace what the store so far has; empty where that stands."""
        kept = self.into.verdict(key, verdict.eps, verdict.example_id)
        if kept.label != verdict.label:
            raise StoreError(
                f"the stores {self.into.path or '(in memory)'} and {self.path} have the labels "
                f"{kept.label} and {verdict.label} of example {verdict.example_id} in the "
                f"evaluation {key[:12]}; one of them was edited: leave it out"
            )
        is_same, row = LAYOUTS["verdicts"].is_same, row_of(key, kept)
        if is_same(row, row_of(key, verdict)):
            return ()
        stands = row_of(key, prevailing(kept, verdict))
        return () if is_same(row, stands) else stands

    def _merge_runs(self, key: str) -> None:
        """Take over runs; of two of the same examples, the later one."""
        for run in self.other.runs_of(key):
            kept = self.into.run(key, run.eps, run.examples)
            if kept is None or finished_at(kept) < finished_at(run):
                row = (*run[:-1], json.dumps(run.summary))
                self.into.write("runs", [row], verb="INSERT OR REPLACE")

    def _merge_costs(self) -> None:
        for row in self.other.rows("costs"):
            key, *values = row
            cost = StageCost(*values)
            if self.brought[key, cost.eps]:
                self.into.add_cost(key, cost)
            else:
                self.into.write("costs", [row], verb="INSERT OR IGNORE")


def _facts(record: Record) -> tuple[bool, bool, str]:
    return bool(record.suite), bool(record.training_record), record.to_json()
