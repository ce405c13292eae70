"""The row: its interval against closed forms, and what it counts."""

import math
from dataclasses import replace

import pytest
from oracles import halfspaces, points
from oracles.records import record
from scipy.stats import binomtest

from robustbench_dyn import ThreatModel, evaluate
from robustbench_dyn.results.summary import (
    SUMMARY_COLUMNS,
    attacks_that_failed,
    binomial_limit,
    summary_row,
)
from robustbench_dyn.results.verdicts import Outcome, Sign, Status, Step, Verdict


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


def off_by(limits, k, n):
    """Return by how much an interval differs from the exact 95 % one that scipy gives."""
    exact = binomtest(k, n).proportion_ci(confidence_level=0.95, method="exact")
    return max(abs(limits[0] - exact.low), abs(limits[1] - exact.high))


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (7, 24), (500, 1000), (10, 10)])
def test_the_limits_are_the_exact_95_percent_interval(k, n):
    limits = [binomial_limit(k, n, upper=upper) for upper in (False, True)]
    assert off_by(limits, k, n) < 1e-9
    # Negative control: the interval of 50 %.
    assert off_by([binomial_limit(k, n, upper=u, level=0.25) for u in (False, True)], k, n) > 5e-3


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


CERTIFIED = {"status": Status.CERTIFIED, "certifier": "c", "certified_radius": 0.6}
BROKEN = {"status": Status.BROKEN, "attack": "a", "adversarial_distance": 0.4}
ONE_OF_EACH = (
    verdict(0, ("a", Outcome.SURVIVED), **CERTIFIED),
    verdict(1, ("a", Outcome.SURVIVED)),
    verdict(2, ("a", Outcome.BROKEN), **BROKEN),
    verdict(3, status=Status.MISCLASSIFIED, prediction=0),
    verdict(4, status=Status.ERROR, prediction=-1, reason="not finite"),
)


def test_accuracies_are_fractions_of_all_examples():
    found = row(*ONE_OF_EACH)
    assert found["n_examples"] == 5
    assert found["clean_accuracy"] == 3 / 5
    assert found["certified_accuracy"] == 1 / 5
    assert found["empirical_accuracy"] == 2 / 5
    assert found["gap"] == pytest.approx(1 / 5)
    assert found["ci_low"] == pytest.approx(binomtest(1, 5).proportion_ci(method="exact").low)
    assert found["ci_high"] == pytest.approx(binomtest(2, 5).proportion_ci(method="exact").high)
    assert found["flags"] == "errors:1"


def test_an_error_is_never_robust():
    errors = [verdict(k, status=Status.ERROR, reason="not finite") for k in range(3)]
    found = row(*errors)
    assert (found["certified_accuracy"], found["empirical_accuracy"]) == (0, 0)
    assert found["ci_high"] < 1
    assert found["flags"] == "errors:3"


def test_without_attacks_the_empirical_accuracy_is_unknown():
    # An exhaustive search finds adversarial examples, too.
    found_by_search = verdict(2, ("c", Outcome.BROKEN), **BROKEN | {"attack": "c"})
    verdicts = (verdict(0, **CERTIFIED), verdict(1), found_by_search, *ONE_OF_EACH[3:])
    found = summary_row(verdicts, record(attacks=(), certifiers=("c",)), eps=0.5, evaluated_at="")
    assert found["empirical_accuracy"] is None
    assert found["gap"] is None
    assert (found["attacks"], found["flags"]) == ("none", "errors:1")
    # The upper limit is that of the clean accuracy.
    assert found["ci_high"] == pytest.approx(binomtest(3, 5).proportion_ci(method="exact").high)


def test_what_the_examples_took_adds_up():
    took = {"forward_passes": 7, "backward_passes": 2, "seconds": 0.12345}
    found = row(*(verdict(k, ("a", Outcome.SURVIVED), **took) for k in range(3)))
    assert (found["forward_passes"], found["backward_passes"]) == (21, 6)
    assert found["seconds"] == 0.37


def test_the_row_has_what_the_record_says_of_the_model():
    about = replace(RECORD, lipschitz_bound=3.5, parameters=9)
    found = summary_row([verdict(0, ("a", Outcome.SURVIVED))], about, eps=0.5, evaluated_at="today")
    assert [found[name] for name in ("model", "lipschitz_bound", "norm")] == ["m", 3.5, "L2"]
    assert (found["parameters"], found["attacks"], found["certifiers"]) == (9, "a+b", "c")
    assert (found["eps"], found["evaluated_at"]) == (0.5, "today")
    assert set(found) <= set(SUMMARY_COLUMNS)
    bare = summary_row([verdict(0)], record(certifiers=()), eps=0.5, evaluated_at="")
    assert (bare["certifiers"], bare["lipschitz_bound"]) == ("none", None)


def test_hits_inside_a_certified_radius_are_counted():
    refuted = verdict(0, ("a", Outcome.BROKEN), **BROKEN, certified_radius=0.45, certifier="c")
    beyond = verdict(1, ("a", Outcome.BROKEN), **BROKEN, certified_radius=0.3, certifier="c")
    assert row(refuted, beyond)["flags"] == "hits_inside_radius:1"
    assert row(beyond)["flags"] == ""


def test_signs_are_flags_and_bring_their_attacks():
    kept, signs = record(attacks=("a", "b"), on_signs=("long",)), [Sign("zero_gradients", 0.756)]
    one = [verdict(0, ("a", Outcome.SURVIVED))]
    found = summary_row(one, kept, eps=0.5, evaluated_at="", signs=signs)
    assert (found["attacks"], found["flags"]) == ("a+b+long", "zero_gradients:0.76")
    assert summary_row(one, kept, eps=0.5, evaluated_at="")["attacks"] == "a+b"


def test_clean_accuracy_counts_predictions_alone():
    failed = ("a", Outcome.FAILED)
    found = row(
        verdict(0, failed),
        verdict(1, failed, status=Status.ERROR),
        verdict(2, failed, status=Status.BROKEN, attack="b", adversarial_distance=0.1),
        verdict(3, status=Status.MISCLASSIFIED, prediction=0),
        verdict(4, status=Status.ERROR, prediction=-1, reason="not finite"),
    )
    assert found["clean_accuracy"] == 3 / 5


def test_failures_are_counted_and_told():
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
def test_no_certifier_is_named_where_no_certificate_counts(flag, certifiers):
    found = row(verdict(0, ("b", Outcome.SURVIVED)), flags=[flag])
    assert found["certifiers"] == certifiers
    assert found["flags"] == flag


def test_certificates_of_a_non_function_do_not_count():
    verdicts = [verdict(0, **CERTIFIED), verdict(1, ("b", Outcome.SURVIVED), **CERTIFIED)]
    whole, flagged = row(*verdicts), row(*verdicts, flags=["changed_during_run"])
    assert (whole["certified_accuracy"], whole["flags"]) == (1, "")
    assert (flagged["certified_accuracy"], flagged["empirical_accuracy"]) == (0, 1)
    assert flagged["flags"] == "changed_during_run unattacked:1"
    assert flagged["ci_low"] == 0
