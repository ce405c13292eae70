"""Randomised smoothing: proofs about the smoothed classifier from votes on noisy copies.

The smoothed classifier of f answers g(x) = argmax_c P(f(x + e) = c), e ~ N(0, sigma^2 I)
(Cohen, Rosenfeld, Kolter, arXiv 1902.02918, eq. 1). g cannot be computed, but votes of f on
draws of the noise bound it: each answer and each radius below is right with probability 1 - alpha
at least. Votes are counts (n_classes + 1,): how many draws f put into each class, and last how many
it put into none, because their logits tie or are not finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, NamedTuple

from scipy.special import betainc, betaincinv, ndtri

from robustbench_dyn.certification.base import name_from_l2
from robustbench_dyn.errors import InputError
from robustbench_dyn.results.verdicts import ABSTAINED
from robustbench_dyn.threat_models import Norm

# Covers the rounding of the float64 arithmetic behind a radius, here and in scipy.
_ROUNDING = 1e-12
# Noise ten times as wide as the input range [0, 1] leaves nothing of an input.
_WIDEST_SIGMA = 10.0
# 1 / alpha, and what is computed of it, are finite.
_LOWEST_ALPHA = 1e-100
# Votes are integers of 64 bits, and even a billion of them take days.
_MOST_DRAWS = 10**9


@dataclass(frozen=True, slots=True)
class Smoothing:
    """How a classifier is smoothed, and how many votes are drawn.

    sigma: standard deviation of the noise, in raw input units. n0: draws that choose the class.
    n: further draws that count for it. alpha: how often a statement may be wrong.
    Raises InputError where sigma, n0, n or alpha make no sense.
    """

    # In a file, a key that is not one of these is an error.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    sigma: float
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        for name, kinds in (
            ("sigma", Real),
            ("alpha", Real),
            ("n0", int),
            ("n", int),
        ):
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                kind = "whole number" if kinds is int else "number"
                raise InputError(f"{name}={value!r} must be a {kind}")
        if not 0 < self.sigma <= _WIDEST_SIGMA:
            raise InputError(
                f"sigma={self.sigma:g} must be positive and at most {_WIDEST_SIGMA:g}; give it in "
                "raw input units (0.25, not 64)"
            )
        if not _LOWEST_ALPHA <= self.alpha < 0.5:
            raise InputError(
                f"alpha={self.alpha:g} must lie between {_LOWEST_ALPHA:g} and 0.5; it is the "
                "probability of a wrong certificate, 0.001 for instance"
            )
        if max(self.n0, self.n) > _MOST_DRAWS:
            raise InputError(f"n0={self.n0} and n={self.n} must be at most {_MOST_DRAWS:,}")
        if self.n0 < 1:
            raise InputError(f"n0={self.n0} must be at least 1; 100 is usual")
        fewest = _fewest_draws(self.alpha)
        if self.n < fewest:
            raise InputError(
                f"n={self.n} draws prove nothing at alpha={self.alpha:g}, even if all agree; "
                f"give n of at least {fewest}"
            )

    def name_of(self, model: str) -> str:
        """Name the smoothed classifier of a model in the table."""
        return f"{model}~{self.sigma:g}"

    def label(self, norm: Norm) -> str:
        """Name the certifier in the table."""
        name = name_from_l2("smoothing", norm)
        return f"{name}(n={self.n} alpha={self.alpha:g})"


class Certificate(NamedTuple):
    """g answers `prediction` everywhere within the L2 radius; ABSTAINED, with 0, for neither."""

    prediction: int
    radius: float


def certify(selection: Sequence[int], counts: Sequence[int], smoothing: Smoothing) -> Certificate:
    """Return the class that g keeps within a radius: CERTIFY of arXiv 1902.02918, Section 3.2.2.

    selection: the votes of n0 draws, which choose the class. counts: the votes of n others; were
    they the same, the class would be the luckiest one and the bound would not hold. The radius is
    sigma Phi^-1(p_lower), eq. 3 with p_B = 1 - p_A, rounded down; ABSTAINED where p_lower <= 1/2.
    """
    top = max(range(len(selection)), key=lambda c: selection[c])
    if top == len(selection) - 1:
        return Certificate(ABSTAINED, 0.0)
    p_lower = lower_confidence_bound(counts[top], sum(counts), smoothing.alpha)
    radius = smoothing.sigma * float(ndtri(p_lower)) * (1 - _ROUNDING)
    # Written so that NaN abstains.
    return Certificate(top, radius) if p_lower > 0.5 and radius > 0 else Certificate(ABSTAINED, 0.0)


def predict(counts: Sequence[int], alpha: float) -> int:
    """Return what g answers: PREDICT of arXiv 1902.02918, Section 3.2.1.

    counts: the votes of any number of draws. ABSTAINED where the first two are too close for a
    two-sided binomial test at level alpha; -1 where most draws have no class.
    """
    second, first = sorted(range(len(counts)), key=lambda c: counts[c])[-2:]
    # Two-sided: P(Binomial(a + b, 1/2) >= a), which is I_{1/2}(a, b + 1), and its mirror image.
    if not counts[first] or 2 * betainc(counts[first], counts[second] + 1, 0.5) > alpha:
        return ABSTAINED
    return first if first < len(counts) - 1 else -1


def lower_confidence_bound(successes: int, trials: int, alpha: float) -> float:
    """Return the one-sided Clopper-Pearson bound of a probability at confidence 1 - alpha.

    The largest p with P(Binomial(trials, p) >= successes) = I_p(successes, trials - successes + 1)
    <= alpha, rounded down until that holds as computed.
    """
    if successes == 0:
        return 0.0
    shape, step = (successes, trials - successes + 1), _ROUNDING
    bound = float(betaincinv(*shape, alpha)) * (1 - step)
    while betainc(*shape, bound) > alpha:
        bound *= 1 - step
        step *= 2
    return bound


def radius_in(norm: Norm, radius: float, dimension: int) -> float:
    """Return the radius in `norm` that follows from an L2 radius, rounded down.

    An Linf ball of radius r / sqrt(dimension) and an L1 ball of radius r lie in the L2 ball of r.
    """
    return radius / math.sqrt(dimension) * (1 - _ROUNDING) if norm == "Linf" else radius


def _fewest_draws(alpha: float) -> int:
    """Return the least n for which n votes of n give p_lower = alpha^(1/n) > 1/2."""
    return math.floor(math.log2(1 / alpha)) + 1
