"""A run's row: kept for the first n examples, made anew for any others."""

import pytest
from oracles.records import record

from robustbench_dyn.evaluation.api import finalise_run
from robustbench_dyn.reporting.leaderboard import leaderboard
from robustbench_dyn.results.store import Store
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


def test_the_row_of_the_first_examples_is_kept(store):
    row = finalise_run(store, "k", EPS, survivors(range(3)))
    assert [(run.key, run.eps, run.n_examples) for run in store.runs()] == [("k", EPS, 3)]
    assert leaderboard(store)["n_examples"].tolist() == [3]
    # And returned as it is, whatever is found out later.
    store.add_signs("k", EPS, [Sign("zero_gradients", 1.0)])
    assert finalise_run(store, "k", EPS, survivors(range(3))) == row
    assert "zero_gradients" in finalise_run(store, "k", EPS, survivors(range(4)))["flags"]


@pytest.mark.parametrize("ids", [range(3, 6), (0, 1, 3), (1, 2)])
def test_other_examples_have_a_row_that_is_not_kept(ids, store):
    row = finalise_run(store, "k", EPS, survivors(ids))
    assert row["n_examples"] == len(ids)
    assert store.runs() == []
    assert leaderboard(store).empty


def test_a_run_of_later_examples_is_not_taken_for_the_first(store):
    first = finalise_run(store, "k", EPS, survivors(range(3)))
    store.add_flags("k", ["softmax_outputs"])
    later = finalise_run(store, "k", EPS, survivors(range(3, 6)))
    assert (first["flags"], later["flags"]) == ("", "softmax_outputs")
    assert [run.summary["flags"] for run in store.runs()] == [""]
