"""Statistics of tables against brute force, scipy and worked examples."""

from fractions import Fraction
from itertools import combinations, product
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from robustbench_dyn.errors import InputError
from robustbench_dyn.reporting.statistics import fewest_holding, holm, mcnemar, mcnemar_of

SMALL = [(b, c) for b in range(7) for c in range(7)]


def by_enumeration(only_first, only_second):
    """Add the probabilities of all outcomes no more probable than the one seen."""
    n = only_first + only_second
    outcomes = [sum(toss) for toss in product((0, 1), repeat=n)]
    count = [outcomes.count(k) for k in range(n + 1)]
    return Fraction(sum(c for c in count if c <= count[only_first]), 2**n)


@pytest.mark.parametrize(("only_first", "only_second"), SMALL)
def test_mcnemar_is_the_sum_over_all_outcomes(only_first, only_second):
    expected = float(by_enumeration(only_first, only_second))
    # betainc is good to a few ulps.
    assert mcnemar(only_first, only_second) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("pair", [(0, 1), (3, 15), (40, 40), (41, 40), (500, 420), (10_000, 9_500)])
def test_mcnemar_is_the_binomial_test_of_scipy(pair):
    assert mcnemar(*pair) == pytest.approx(binomtest(pair[0], sum(pair)).pvalue, rel=1e-10)
    assert mcnemar(*pair) == mcnemar(*pair[::-1])


@pytest.mark.parametrize("n", [0, 1, 5, 1000])
def test_equally_many_differences_are_no_evidence(n):
    assert mcnemar(n, n) == 1.0
    # Negative control: a lopsided count is some evidence.
    assert mcnemar(n + 10, n) < 1.0


def test_mcnemar_of_arrays_is_that_of_each_pair():
    first, second = zip(*SMALL, strict=True)
    assert mcnemar_of(first, second).tolist() == [mcnemar(*pair) for pair in SMALL]


def test_a_negative_count_is_refused():
    with pytest.raises(InputError, match="at least 0"):
        mcnemar(-1, 3)


def test_holm_of_a_worked_example():
    # Sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 (not .06 < .06) .06 (not .04).
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_the_value_and_bonferroni(values):
    adjusted = holm(values)
    for p, q in zip(values, adjusted, strict=True):
        assert p <= q <= 1
        assert q <= len(values) * p
    by_value = sorted(zip(values, adjusted, strict=True))
    assert [q for _, q in by_value] == sorted(adjusted)


@given(st.lists(st.floats(0, 1), max_size=12), st.randoms())
def test_holm_rejects_as_the_step_down_procedure(values, random):
    alpha = random.choice([0.01, 0.05, 0.3])
    rejected = set()
    for step, i in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        if (len(values) - step) * values[i] > alpha:
            break
        rejected.add(i)
    assert {i for i, q in enumerate(holm(values)) if q <= alpha} == rejected


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_p_value(value):
    with pytest.raises(InputError, match="between 0 and 1"):
        holm([0.5, value])


def probability(held, sample, holding, population):
    """Return P(X = held) for the hypergeometric X."""
    ways = comb(holding, held) * comb(population - holding, sample - held)
    return Fraction(ways, comb(population, sample))


def test_probability_is_that_of_all_samples():
    members = [True] * 4 + [False] * 3
    held = [sum(members[i] for i in drawn) for drawn in combinations(range(7), 3)]
    for x in range(4):
        assert probability(x, 3, 4, 7) == Fraction(held.count(x), len(held))


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_bound_is_the_least_that_is_not_refuted(confidence):
    alpha = 1 - Fraction(confidence)
    for population in range(1, 31):
        for sample in {1, population // 3, population // 2, population - 1, population} - {0}:
            tails = [
                [
                    sum(probability(x, sample, holding, population) for x in range(k, sample + 1))
                    for k in range(sample + 1)
                ]
                for holding in range(population + 1)
            ]
            bounds = [
                fewest_holding(sample, k, population, confidence=confidence)
                for k in range(sample + 1)
            ]
            for k, bound in enumerate(bounds):
                refuted = [tails[holding][k] <= alpha for holding in range(population + 1)]
                assert bound == refuted.index(False)
            for holding in range(population + 1):
                wrong = sum(
                    probability(k, sample, holding, population)
                    for k, bound in enumerate(bounds)
                    if bound > holding
                )
                assert wrong <= alpha
                # Negative control: a bound that is one higher would be wrong too often somewhere.
            assert any(
                sum(
                    probability(k, sample, holding, population)
                    for k, bound in enumerate(bounds)
                    if bound + 1 > holding
                )
                > alpha
                for holding in range(population + 1)
            )


@pytest.mark.parametrize(
    ("sample", "held", "population", "expected"),
    [(10, 10, 10, 10), (10, 0, 50, 0), (7, 6, 7, 6), (59, 59, 10**9, 10**9 * 0.05 ** (1 / 59))],
)
def test_bounds_that_are_known(sample, held, population, expected):
    bound = fewest_holding(sample, held, population, confidence=0.95)
    # 59 of 59 from a population without end: (M / N) ** 59 = 0.05.
    assert bound == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("sample", "held", "population", "confidence"),
    [(5, 6, 10, 0.95), (11, 5, 10, 0.95), (5, -1, 10, 0.95), (5, 5, 10, 1.0), (5, 5, 10, 0.0)],
)
def test_impossible_samples_are_refused(sample, held, population, confidence):
    with pytest.raises(InputError):
        fewest_holding(sample, held, population, confidence=confidence)
