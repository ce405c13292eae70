"""The rules of a replay: what chance may do, what rounding may do, and what is drawn."""

import math

import pytest
from oracles.evidence import evidence
from scipy.stats import binomtest

from robustbench_dyn.verification.rules import (
    LEVEL,
    VARIATION,
    differs_one_sidedly,
    how_many_hold,
    is_chance,
    p_value,
)
from robustbench_dyn.verification.sampling import draw


@pytest.mark.parametrize(("failed", "tried"), [(0, 10), (1, 10), (3, 25), (9, 60)])
def test_the_binomial_test_is_that_of_scipy(failed, tried):
    exact = binomtest(failed, tried, VARIATION, alternative="greater").pvalue
    assert p_value(failed, tried, rate=VARIATION) == pytest.approx(exact)


def test_chance_may_do_little_and_not_much():
    assert is_chance(0, 25) and is_chance(5, 25)
    assert not is_chance(8, 25)
    # An honest row at the documented variation is refused with at most this probability.
    for tried in (1, 5, 25, 100, 500):
        least = next(k for k in range(tried + 2) if not is_chance(k, tried))
        assert p_value(least, tried, rate=VARIATION) < LEVEL


def test_differences_to_one_side_alone_tell_of_attacks_that_vary():
    assert not differs_one_sidedly(12, 10)
    assert not differs_one_sidedly(10, 0)
    assert differs_one_sidedly(11, 0) and differs_one_sidedly(0, 11)
    exact = binomtest(2, 20, 0.5).pvalue
    assert differs_one_sidedly(18, 2) is bool(exact < LEVEL)


def test_a_statement_has_the_exact_bound_of_a_sample():
    told = how_many_hold("certificates", sample=25, held=25, population=390)
    least = int(told.split("at least ")[1].split()[0])

    def probability(holding):
        return math.comb(holding, 25) / math.comb(390, 25)

    # Were one fewer true, so clean a sample would be rarer than 1 %.
    assert probability(least) > 0.01 >= probability(least - 1)
    all_of_them = how_many_hold("certificates", sample=3, held=3, population=3)
    assert all_of_them == "3 of 3 certificates checked, all hold"


def test_a_sample_is_half_certified_and_repeats_by_its_seed():
    one = evidence("m", "c" * 30 + "u" * 30 + "b" * 30 + "m" * 10)
    sample = draw(one, size=20, seed=3)
    assert len(sample.certified) == 10
    assert len(sample.undecided) + len(sample.broken) == 10
    assert draw(one, size=20, seed=3) == sample
    assert draw(one, size=20, seed=4) != sample


@pytest.mark.parametrize(
    ("statuses", "certified", "others"),
    [("cccc" + "u", 3, 1), ("c" + "uuuu", 1, 3), ("mmmm", 0, 0), ("cccc", 4, 0), ("uuuu", 0, 4)],
)
def test_where_one_half_has_too_few_the_other_gets_more(statuses, certified, others):
    sample = draw(evidence("m", statuses), size=4, seed=0)
    assert (len(sample.certified), len(sample.undecided)) == (certified, others)


def test_without_a_size_all_are_drawn():
    sample = draw(evidence("m", "ccuu"), size=None, seed=0)
    assert (len(sample.certified), len(sample.undecided)) == (2, 2)
