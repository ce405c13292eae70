"""A run's row: kept for a range of examples, made anew for any others."""

import pytest
from oracles.records import record

from robustbench_dyn.evaluation.api import finalise_run
from robustbench_dyn.reporting.leaderboard import leaderboard
from robustbench_dyn.results.store import Run, Store, Violation
from robustbench_dyn.results.verdicts import Outcome, Sign, Status, Step, Verdict

EPS = 0.5


@pytest.fixture
def store():
    store = Store()
    store.add_evaluation("k", record(attacks=("a",)))
    return store


def survivors(ids):
    trail = (Step("a", Outcome.SURVIVED, EPS),)
    return [
        Verdict(
            example_id=i,
            label=1,
            prediction=1,
            status=Status.UNDECIDED,
            eps=EPS,
            reason="survived a",
            trail=trail,
        )
        for i in ids
    ]


def test_the_row_of_a_range_of_examples_is_kept(store):
    store.add_verdicts("k", survivors(range(3)))
    row = finalise_run(store, "k", EPS, survivors(range(3)))
    assert [run[:4] for run in store.runs()] == [("k", EPS, 0, 3)]
    assert leaderboard(store)["n_examples"].tolist() == [3]
    # And returned as it is, whatever is found out later.
    store.add_signs("k", EPS, [Sign("zero_gradients", 1.0)])
    assert finalise_run(store, "k", EPS, survivors(range(3))) == row
    assert "zero_gradients" in finalise_run(store, "k", EPS, survivors(range(4)))["flags"]


@pytest.mark.parametrize("ids", [(0, 1, 3), (7, 5), (0, 0, 1)])
def test_other_examples_have_a_row_that_is_not_kept(ids, store):
    row = finalise_run(store, "k", EPS, survivors(ids))
    assert row["n_examples"] == len(ids)
    assert store.runs() == []
    assert leaderboard(store).empty


def test_runs_of_as_many_other_examples_are_kept_apart(store):
    first = finalise_run(store, "k", EPS, survivors(range(3)))
    store.add_flags("k", ["softmax_outputs"])
    later = finalise_run(store, "k", EPS, survivors(range(3, 6)))
    assert (first["flags"], later["flags"]) == ("", "softmax_outputs")
    assert [(run.examples, run.summary["flags"]) for run in store.runs()] == [
        (range(3), ""),
        (range(3, 6), "softmax_outputs"),
    ]
    assert store.finished("k", EPS) == [range(6)]


@pytest.mark.parametrize(
    ("runs", "finished"),
    [
        ([], []),
        ([(0, 3)], [(0, 3)]),
        ([(3, 6), (0, 3)], [(0, 6)]),
        ([(0, 3), (4, 6)], [(0, 3), (4, 6)]),
        ([(0, 9), (2, 4), (8, 10), (20, 21)], [(0, 10), (20, 21)]),
    ],
)
def test_finished_ranges_are_joined_where_they_touch(runs, finished, store):
    for start, stop in runs:
        store.add_run(Run("k", EPS, start, stop - start, {}))
    store.add_run(Run("k", 2 * EPS, 50, 1, {}))
    assert store.finished("k", EPS) == [range(*part) for part in finished]


def test_a_refuted_evaluation_has_nothing_finished(store):
    store.add_run(Run("k", EPS, 0, 3, {}))
    store.add_violation("k", EPS, Violation(0, 0.7, 0.4, "pgd", "", b""))
    assert store.finished("k", EPS) == []
