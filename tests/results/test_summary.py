"""The row: its interval against closed forms, and what it counts."""

import math

import pytest
from oracles import halfspaces, points
from oracles.records import record

from robustbench_dyn import ThreatModel, evaluate
from robustbench_dyn.results.summary import attacks_that_failed, binomial_limit, summary_row
from robustbench_dyn.results.verdicts import Outcome, Status, Step, Verdict


def tail(p, n, k):
    """Return P(X >= k) of a binomial X, by its definition."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@pytest.mark.parametrize(("k", "n"), [(1, 7), (3, 6), (40, 50), (49, 50), (6, 6), (0, 6)])
def test_each_limit_leaves_two_and_a_half_percent_outside(k, n):
    # Clopper and Pearson (1934): P(X >= k) at the lower limit, and P(X <= k) at the upper one.
    low, high = (binomial_limit(k, n, upper=upper) for upper in (False, True))
    if k:
        assert tail(low, n, k) == pytest.approx(0.025)
    if k < n:
        assert 1 - tail(high, n, k + 1) == pytest.approx(0.025)
    assert (low == 0) == (k == 0)
    assert (high == 1) == (k == n)


def test_where_all_or_none_succeed_the_limits_have_closed_forms():
    assert binomial_limit(20, 20, upper=False) == pytest.approx(0.025 ** (1 / 20))
    assert binomial_limit(0, 20, upper=True) == pytest.approx(1 - 0.025 ** (1 / 20))


def test_the_rows_interval_is_of_95_percent():
    distances = (0.05, 0.1, 0.2, 0.3, 0.4, 0.45)
    evaluation = evaluate(halfspaces(), points(distances), ThreatModel("L2", 0.25), attacks="pgd")
    row = evaluation.summary
    assert tail(row["ci_low"], 6, 3) == pytest.approx(0.025)
    assert 1 - tail(row["ci_high"], 6, 4) == pytest.approx(0.025)


RECORD = record(attacks=("a", "b"), certifiers=("c",))


def verdict(example_id, *steps, **changes):
    values = {"status": Status.UNDECIDED, "prediction": 1, "reason": "-"} | changes
    trail = tuple(Step(stage, outcome, 0.5, "E") for stage, outcome in steps)
    return Verdict(example_id=example_id, label=1, eps=0.5, trail=trail, **values)


def row(*verdicts, **options):
    return summary_row(verdicts, RECORD, eps=0.5, evaluated_at="", **options)


def test_clean_accuracy_counts_predictions_whatever_became_of_the_attacks():
    failed = ("a", Outcome.FAILED)
    found = row(
        verdict(0, failed), verdict(1, failed, status=Status.ERROR),
        verdict(2, failed, status=Status.BROKEN, attack="b", adversarial_distance=0.1),
        verdict(3, status=Status.MISCLASSIFIED, prediction=0),
        verdict(4, status=Status.ERROR, prediction=-1, reason="not finite"),
    )  # fmt: skip
    assert found["clean_accuracy"] == 3 / 5


def test_failures_are_counted_and_an_attack_that_never_ended_is_named():
    one = verdict(0, ("a", Outcome.FAILED), ("b", Outcome.SURVIVED), ("c", Outcome.NOT_APPLICABLE))
    two = verdict(1, ("a", Outcome.FAILED), ("b", Outcome.FAILED))
    assert row(one, two)["flags"] == (
        "attack_failed:a:2 attack_failed:b:1 certifier_failed:c:1 unattacked:1"
    )
    assert row(one, two)["attacks"] == "a(failed)+b"
    assert attacks_that_failed([one, two]) == {"a": 2}
    ended = verdict(2, ("a", Outcome.BROKEN))
    assert row(one, two, ended)["attacks"] == "a+b"


@pytest.mark.parametrize(
    ("flag", "certifiers"), [("batch_coupled", "none"), ("softmax_outputs", "c")]
)
def test_the_row_names_no_certifier_where_no_certificate_counts(flag, certifiers):
    found = row(verdict(0, ("b", Outcome.SURVIVED)), flags=[flag])
    assert found["certifiers"] == certifiers
    assert found["flags"] == flag


def test_certificates_of_what_is_no_function_count_as_standing_alone():
    proved = {"status": Status.CERTIFIED, "certifier": "c", "certified_radius": 0.6}
    verdicts = [verdict(0, **proved), verdict(1, ("b", Outcome.SURVIVED), **proved)]
    whole, flagged = row(*verdicts), row(*verdicts, flags=["changed_during_run"])
    assert (whole["certified_accuracy"], whole["flags"]) == (1, "")
    assert (flagged["certified_accuracy"], flagged["empirical_accuracy"]) == (0, 1)
    assert flagged["flags"] == "changed_during_run unattacked:1"
    assert flagged["ci_low"] == 0
