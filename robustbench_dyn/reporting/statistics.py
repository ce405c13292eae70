"""Exact tests and bounds for tables: McNemar's test, Holm's correction, a hypergeometric bound."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc

from robustbench_dyn.errors import InputError


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    only_first, only_second: examples that one of two models has and the other lacks. Under the
    hypothesis that both models have an example with equal probability, only_first is binomial with
    n = only_first + only_second trials of probability 1/2 (McNemar 1947, doi:10.1007/BF02295996, in
    its exact form: Mosteller 1952, Biometrics 8, the sign test of the n examples that differ).

    Let k be the smaller of the two. The p-value is min(1, 2 P(X <= k)), X ~ Bin(n, 1/2). It is the
    probability of all outcomes that are no more probable than the one seen: the binomial of 1/2 is
    symmetric and falls away from n/2 on both sides, so that for k < n/2 these outcomes are X <= k
    and X >= n - k, which are disjoint and equally probable. Where only_first = only_second, k = n/2
    is a most probable outcome, so that all outcomes are no more probable and p = 1; twice the tail
    would count X = n/2 twice and exceed 1, hence the minimum. Where both are 0, there is one
    outcome, and p = 1: examples on which the models agree are no evidence of a difference.
    Raises InputError for a negative number.
    """
    return float(mcnemar_of(only_first, only_second))


def mcnemar_of(only_first: ArrayLike, only_second: ArrayLike) -> NDArray[np.float64]:
    """Return mcnemar() of each pair of two arrays of one shape."""
    first, second = np.asarray(only_first), np.asarray(only_second)
    if (first < 0).any() or (second < 0).any():
        raise InputError("a number of examples that differ is at least 0")
    k, larger = np.minimum(first, second), np.maximum(first, second)
    # P(X <= k) is the regularised incomplete beta function I_{1/2}(n - k, k + 1), n - k > 0.
    # For n = 0, I_{1/2}(1, 1) = 1/2 gives p = 1.
    return np.minimum(2 * betainc(np.maximum(larger, 1), k + 1, 0.5), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm's step-down method, in the order given.

    Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6: the i-th smallest of m is multiplied by m - i + 1; none is smaller than the one
    before it, and none exceeds 1. Rejecting where the adjusted value is at most alpha, the
    probability of one false rejection or more is at most alpha, however the tests depend on each
    other. Raises InputError for a value outside [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64)
    # Written so that NaN fails it.
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError("a p-value is a number between 0 and 1")
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1.0)
    return adjusted.tolist()


def fewest_holding(sample: int, held: int, population: int, *, confidence: float) -> int:
    """Return the exact lower confidence bound on how many of a population hold.

    sample: so many of the population were drawn at random without replacement, of which `held`
    hold. The bound is the least M of those with P(X >= held) > 1 - confidence, X hypergeometric:
    the number that hold in such a sample from a population of which M hold. It is the one-sided
    test inverted (Buonaccorsi 1987, The American Statistician 41): where M is the truth, the bound
    exceeds M only where P(X >= held) <= 1 - confidence, which has at most that probability.
    Computed in whole numbers, without rounding. Raises InputError unless
    0 <= held <= sample <= population and 0 < confidence < 1.
    """
    if not 0 <= held <= sample <= population:
        raise InputError(
            f"held={held}, sample={sample}, population={population}: each is at most the next, and "
            "none is negative"
        )
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence} must lie between 0 and 1")
    wanted = (1 - Fraction(confidence)) * comb(population, sample)
    # The tail grows with M; it is certain where too few fail to leave a smaller X.
    low, high = held, population - (sample - held)
    while low < high:
        middle = (low + high) // 2
        if _samples_with(held, sample, middle, population) > wanted:
            high = middle
        else:
            low = middle + 1
    return low


def _samples_with(held: int, sample: int, holding: int, population: int) -> int:
    """Return the number of samples of which at least `held` hold."""
    most = min(sample, holding)
    term = comb(holding, most) * comb(population - holding, sample - most)
    total = 0
    for x in range(most, held - 1, -1):
        total += term
        # C(M, x - 1) C(N - M, n - x + 1) from C(M, x) C(N - M, n - x); whole at every x.
        term = (
            term
            * (x * (population - holding - sample + x))
            // ((holding - x + 1) * (sample - x + 1))
        )
    return total
