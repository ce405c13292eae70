"""Verdicts in SQLite: each kept once, written in transactions, safe against a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, TypeVar

from robustbench_dyn.errors import StoreError
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.database import Database
from robustbench_dyn.results.layouts import LAYOUTS
from robustbench_dyn.results.schema import MORE_DRAWS, MOST_TELLING
from robustbench_dyn.results.spec import Record
from robustbench_dyn.results.verdicts import Outcome, Sign, Status, Step, Verdict

_T = TypeVar("_T")
_ROWS_AT_A_TIME = 50_000
_STATUSES = frozenset(map(str, Status))


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
            return self._parsed("evaluations", row, lambda row: Record.from_json(row[1]))
        raise StoreError(f"the store {self.path} holds no evaluation {key}")

    def records(self) -> dict[str, Record]:
        """Return what every evaluation depends on, by key."""
        return {
            row[0]: self._parsed("evaluations", row, lambda row: Record.from_json(row[1]))
            for row in self.rows("evaluations")
        }

    def add_verdicts(
        self, key: str, verdicts: Iterable[Verdict], cost: StageCost | None = None
    ) -> None:
        """Write verdicts, replacing what was known of the same example at the same eps.

        cost: what they took; it is added to what its stage took before.
        """
        rows = [_row_of(key, verdict) for verdict in verdicts]
        with self.transaction():
            self.write("verdicts", rows, verb="INSERT OR REPLACE")
            if cost is not None:
                self.add_cost(key, cost)

    def verdicts(self, key: str, eps: float | None = None) -> Iterator[Verdict]:
        """Yield the verdicts of one evaluation, at one eps or at all, by eps and example."""
        where, values = ("AND eps = ?", (key, eps)) if eps is not None else ("", (key,))
        for row in self.rows("verdicts", f"WHERE key = ? {where} ORDER BY eps, example_id", values):
            yield self._parsed("verdicts", row, _verdict_of)

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
        return [StageCost(*row[1:]) for row in rows]

    def add_signs(self, key: str, eps: float, signs: Iterable[Sign]) -> None:
        """Keep signs of masked gradients that an evaluation found at one eps."""
        rows = [(key, eps, sign.name, sign.value) for sign in signs]
        if rows:
            with self.transaction():
                self.write("signs", rows, conflict=MOST_TELLING)

    def signs(self, key: str, eps: float) -> list[Sign]:
        """Return the signs of masked gradients that were found at one eps, by name."""
        rows = self.rows("signs", "WHERE key = ? AND eps = ? ORDER BY name", (key, eps))
        return [Sign(name, value) for _, _, name, value in rows]

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
            (row[1], row[2]): self._parsed("votes", row, _votes_of)
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

    def remove_runs(self, key: str) -> None:
        """Forget the rows of one evaluation, whose verdicts no longer hold."""
        if self._has("runs", key):
            with self.transaction() as connection:
                connection.execute("DELETE FROM runs WHERE key = ?", (key,))

    def add_run(self, run: Run) -> None:
        """Record that a run came to its end."""
        row = (run.key, run.eps, run.n_examples, json.dumps(run.summary))
        with self.transaction():
            self.write("runs", [row], verb="INSERT OR REPLACE")

    def run(self, key: str, eps: float, n_examples: int) -> Run | None:
        """Return one finished run, or None."""
        where = "WHERE key = ? AND eps = ? AND n_examples = ?"
        for row in self.rows("runs", where, (key, eps, n_examples)):
            return self._parsed("runs", row, _run_of)
        return None

    def runs(self) -> list[Run]:
        """Return the finished runs of evaluations that have no violation."""
        refuted = {row[0] for row in self.rows("violations")}
        runs = self.rows("runs", "ORDER BY key, eps, n_examples")
        return [self._parsed("runs", row, _run_of) for row in runs if row[0] not in refuted]

    def add_violation(self, key: str, eps: float, violation: Violation) -> None:
        """Keep a counterexample to a certificate."""
        with self.transaction():
            self.write("violations", [(key, eps, *violation)], verb="INSERT OR REPLACE")

    def violations(self, key: str) -> list[Violation]:
        """Return the counterexamples to one evaluation's certificates."""
        rows = self.rows("violations", "WHERE key = ? ORDER BY example_id", (key,))
        return [Violation(*row[2:]) for row in rows]

    def _has(self, table: str, key: str) -> bool:
        return any(True for _ in self.rows(table, "WHERE key = ? LIMIT 1", (key,)))

    def _parsed(self, table: str, row: Sequence[Any], read: Callable[[Sequence[Any]], _T]) -> _T:
        """Return what a row holds; raises StoreError for what no version has written."""
        try:
            return read(row)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self.damaged(table, row) from error


_in_a_row = attrgetter(*LAYOUTS["verdicts"].columns[1:-1])


def _row_of(key: str, verdict: Verdict) -> tuple[Any, ...]:
    return (key, *_in_a_row(verdict), json.dumps(verdict.trail) if verdict.trail else "[]")


def _verdict_of(row: Sequence[Any]) -> Verdict:
    """Return the verdict of a row; raises ValueError where it holds none."""
    (
        _,
        eps,
        example_id,
        label,
        prediction,
        status,
        certified_radius,
        certifier,
        adversarial_distance,
        attack,
        forward_passes,
        backward_passes,
        seconds,
        reason,
        x_adv,
        next_stage,
        trail,
    ) = row
    nan = float("nan")  # SQLite keeps NaN as NULL
    return Verdict(
        example_id,
        label,
        prediction,
        Status(status),
        eps,
        nan if certified_radius is None else certified_radius,
        certifier,
        nan if adversarial_distance is None else adversarial_distance,
        attack,
        forward_passes,
        backward_passes,
        seconds,
        reason,
        x_adv,
        next_stage,
        _trail_of(trail),
    )


@lru_cache(maxsize=4096)
def _trail_of(text: str) -> tuple[Step, ...]:
    """Return the steps of a trail; many examples have the same one."""
    return tuple(
        Step(stage, Outcome(outcome), eps, message)
        for stage, outcome, eps, message in json.loads(text)
    )


def _votes_of(row: Sequence[Any]) -> Votes:
    _, _, _, draws, counts, seconds = row
    return Votes(draws, tuple(json.loads(counts)), seconds)


def _run_of(row: Sequence[Any]) -> Run:
    key, eps, n_examples, summary = row
    content = json.loads(summary)
    if not isinstance(content, dict):
        raise TypeError(f"a summary is a mapping, not {content!r}")
    return Run(key, eps, n_examples, content)
