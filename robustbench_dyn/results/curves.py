"""Accuracies over eps, from each example's certified radius and nearest adversarial example."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from robustbench_dyn.results.verdicts import Status, Verdict

# Of examples that are classified correctly.
CORRECT = (Status.BROKEN, Status.CERTIFIED, Status.UNDECIDED)


class CurvePoint(NamedTuple):
    """The bracket at one eps; accuracies are fractions of all examples."""

    eps: float
    certified_accuracy: float
    empirical_accuracy: float


def reached(verdict: Verdict) -> float:
    """Return the distance of the adversarial example found, inf where there is none."""
    return verdict.adversarial_distance if verdict.status is Status.BROKEN else math.inf


def curve_points(verdicts: Sequence[Verdict], radii: Iterable[float]) -> list[CurvePoint]:
    """Return the bracket at each of radii.

    An example counts as certified up to its certified radius, and as empirically robust below the
    distance of the adversarial example found; at 0, a correct answer is all that either takes.
    """
    correct = [v for v in verdicts if v.status in CORRECT]
    n = len(verdicts)
    return [
        CurvePoint(
            eps,
            # NaN, where nothing is certified, is above no eps.
            (sum(v.certified_radius >= eps for v in correct) if eps else len(correct)) / n,
            sum(reached(v) > eps for v in correct) / n,
        )
        for eps in radii
    ]
