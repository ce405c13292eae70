"""Verdicts in SQLite: each kept once, written in transactions, safe against a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, TypeVar

from robustbench_dyn.errors import StoreError
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.database import Database
from robustbench_dyn.results.inspection import check
from robustbench_dyn.results.layouts import LAYOUTS
from robustbench_dyn.results.rows import (
    UNREADABLE,
    Row,
    Run,
    Violation,
    Votes,
    cost_of,
    joined,
    record_of,
    row_of,
    run_of,
    sign_of,
    verdict_of,
    violation_of,
    votes_of,
)
from robustbench_dyn.results.schema import MORE_DRAWS, MOST_TELLING
from robustbench_dyn.results.spec import Record
from robustbench_dyn.results.verdicts import Sign, Status, Verdict

__all__ = ["Run", "Store", "Violation", "Votes"]

_T = TypeVar("_T")
_ROWS_AT_A_TIME = 50_000
_STATUSES = frozenset(map(str, Status))


class Store(Database):
    """All verdicts of one SQLite file; path None keeps them in memory.

    Every method that writes is one transaction, and none where there is nothing new. Every row has
    a checksum, which is checked when it is read. Raises StoreError where the file cannot be opened,
    is not a store or is damaged, or the disk is full.
    """

    def add_evaluation(self, key: str, record: Record) -> None:
        """Keep what the evaluation depends on, once."""
        if not self._has("evaluations", key):
            with self.transaction():
                self.write("evaluations", [(key, record.to_json())], verb="INSERT OR IGNORE")

    def record(self, key: str) -> Record:
        """Return what an evaluation depends on; raises StoreError where there is none."""
        for row in self.rows("evaluations", "WHERE key = ?", (key,)):
            return self._parsed("evaluations", row, record_of)
        raise StoreError(f"the store {self.path} holds no evaluation {key}")

    def records(self) -> dict[str, Record]:
        """Return what every evaluation depends on, by key."""
        return {
            row[0]: self._parsed("evaluations", row, record_of) for row in self.rows("evaluations")
        }

    def add_verdicts(
        self, key: str, verdicts: Iterable[Verdict], cost: StageCost | None = None
    ) -> None:
        """Write verdicts, replacing what was known of the same example at the same eps.

        cost: what they took; it is added to what its stage took before.
        """
        rows = [row_of(key, verdict) for verdict in verdicts]
        with self.transaction():
            self.write("verdicts", rows, verb="INSERT OR REPLACE")
            if cost is not None:
                self.add_cost(key, cost)

    def verdicts(self, key: str, eps: float | None = None) -> Iterator[Verdict]:
        """Yield the verdicts of one evaluation, at one eps or at all, by eps and example."""
        where, values = ("AND eps = ?", (key, eps)) if eps is not None else ("", (key,))
        for row in self.rows("verdicts", f"WHERE key = ? {where} ORDER BY eps, example_id", values):
            yield self._parsed("verdicts", row, verdict_of)

    def verdict(self, key: str, eps: float, example_id: int) -> Verdict:
        """Return the verdict of one example; raises StoreError where there is none."""
        where = "WHERE key = ? AND eps = ? AND example_id = ?"
        for row in self.rows("verdicts", where, (key, eps, example_id)):
            return self._parsed("verdicts", row, verdict_of)
        raise StoreError(f"the store {self.path} has no verdict of example {example_id}")

    def table(
        self, columns: Sequence[str], *, pending: bool = False
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Yield columns of all verdicts, many rows at a time, by key, eps and example.

        For tables that need not fit in memory. NaN is None. pending: include the verdicts of
        examples that wait for a stage.
        """
        self.check_pages("verdicts")
        names = LAYOUTS["verdicts"].columns
        wanted, status = itemgetter(*map(names.index, columns)), names.index("status")
        where = "" if pending else "WHERE next_stage = ''"
        rows = self.rows("verdicts", f"{where} ORDER BY key, eps, example_id")
        while part := list(islice(rows, _ROWS_AT_A_TIME)):
            for row in part:
                if row[status] not in _STATUSES:
                    raise self.damaged("verdicts", row)
            yield [wanted(row) for row in part]

    def add_cost(self, key: str, cost: StageCost) -> None:
        """Add what a stage took to what it took before, inside an open transaction."""
        kept = self._costs(key, cost.eps, cost.stage)
        total = sum(kept, start=cost)
        self.write("costs", [(key, *total.values())], verb="INSERT OR REPLACE")

    def costs(self, key: str, eps: float) -> list[StageCost]:
        """Return what each stage of an evaluation took at one eps, in all runs together."""
        return self._costs(key, eps)

    def _costs(self, key: str, eps: float, stage: str | None = None) -> list[StageCost]:
        where, values = ("AND stage = ?", (key, eps, stage)) if stage else ("", (key, eps))
        rows = self.rows("costs", f"WHERE key = ? AND eps = ? {where}", values)
        return [cost_of(row) for row in rows]

    def add_signs(self, key: str, eps: float, signs: Iterable[Sign]) -> None:
        """Keep signs of masked gradients that an evaluation found at one eps."""
        rows = [(key, eps, sign.name, sign.value) for sign in signs]
        if rows:
            with self.transaction():
                self.write("signs", rows, conflict=MOST_TELLING)

    def signs(self, key: str, eps: float) -> list[Sign]:
        """Return the signs of masked gradients that were found at one eps, by name."""
        rows = self.rows("signs", "WHERE key = ? AND eps = ? ORDER BY name", (key, eps))
        return [sign_of(row) for row in rows]

    def add_votes(self, key: str, example_id: int, stage: str, votes: Votes) -> None:
        """Keep the votes on one example so far, in place of fewer of them.

        key: of all that they depend on. stage: what they are for.
        """
        row = (key, example_id, stage, votes.draws, json.dumps(votes.counts), votes.seconds)
        with self.transaction():
            self.write("votes", [row], conflict=MORE_DRAWS)

    def votes(self, key: str) -> dict[tuple[int, str], Votes]:
        """Return all votes of one key, by example and stage."""
        return {
            (row[1], row[2]): self._parsed("votes", row, votes_of)
            for row in self.rows("votes", "WHERE key = ?", (key,))
        }

    def add_flags(self, key: str, flags: Iterable[str]) -> None:
        """Keep what a run has found out about the model of an evaluation."""
        new = sorted(set(flags).difference(self.flags(key)))
        if new:
            with self.transaction():
                self.write("flags", [(key, flag) for flag in new], verb="INSERT OR IGNORE")

    def flags(self, key: str) -> list[str]:
        """Return what runs have found out about the model of an evaluation, by name."""
        return [flag for _, flag in self.rows("flags", "WHERE key = ? ORDER BY flag", (key,))]

    def remove_runs(
        self, key: str, eps: float | None = None, *, having: Collection[int] | None = None
    ) -> None:
        """Forget the rows of one evaluation, at one eps or at all: their verdicts do not hold.

        having: only those of runs that have one of these examples.
        """
        gone = [
            run[:4]
            for run in self.runs_of(key)
            if eps in (None, run.eps)
            if having is None or any(i in run.examples for i in having)
        ]
        if gone:
            where = "key = ? AND eps = ? AND first_example = ? AND n_examples = ?"
            with self.transaction() as connection:
                connection.executemany(f"DELETE FROM runs WHERE {where}", gone)

    def add_run(self, run: Run) -> None:
        """Record that a run came to its end."""
        row = (*run[:-1], json.dumps(run.summary))
        with self.transaction():
            self.write("runs", [row], verb="INSERT OR REPLACE")

    def run(self, key: str, eps: float, examples: range) -> Run | None:
        """Return the finished run of just these examples, or None."""
        where = "WHERE key = ? AND eps = ? AND first_example = ? AND n_examples = ?"
        for row in self.rows("runs", where, (key, eps, examples.start, len(examples))):
            return self._parsed("runs", row, run_of)
        return None

    def runs(self) -> list[Run]:
        """Return the finished runs of evaluations that have no violation."""
        refuted = {row[0] for row in self.rows("violations")}
        runs = self.rows("runs", "ORDER BY key, eps, first_example, n_examples")
        return [self._parsed("runs", row, run_of) for row in runs if row[0] not in refuted]

    def finished(self, key: str, eps: float) -> list[range]:
        """Return the examples of all finished runs, as ranges that neither touch nor overlap.

        There are none of an evaluation that has a violation.
        """
        if self._has("violations", key):
            return []
        return joined(run.examples for run in self.runs_of(key) if run.eps == eps)

    def runs_of(self, key: str) -> list[Run]:
        """Return the finished runs of one evaluation, refuted or not."""
        rows = self.rows("runs", "WHERE key = ? ORDER BY eps, first_example, n_examples", (key,))
        return [self._parsed("runs", row, run_of) for row in rows]

    def add_violation(self, key: str, eps: float, violation: Violation) -> None:
        """Keep a counterexample to a certificate."""
        with self.transaction():
            self.write("violations", [(key, eps, *violation)], verb="INSERT OR REPLACE")

    def violations(self, key: str) -> list[Violation]:
        """Return the counterexamples to one evaluation's certificates."""
        rows = self.rows("violations", "WHERE key = ? ORDER BY example_id", (key,))
        return [violation_of(row) for row in rows]

    def check(self, *, delete: bool = False) -> list[str]:
        """Return what is wrong with the file, see results.inspection.check."""
        return check(self, delete=delete)

    def _has(self, table: str, key: str) -> bool:
        return any(True for _ in self.rows(table, "WHERE key = ? LIMIT 1", (key,)))

    def _parsed(self, table: str, row: Row, read: Callable[[Row], _T]) -> _T:
        """Return what a row holds; raises StoreError for what no version has written."""
        try:
            return read(row)
        except UNREADABLE as error:
            raise self.damaged(table, row) from error
