"""Histograms of certified radii and of adversarial distances behind one row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustbench_dyn.results.verdicts import Status

if TYPE_CHECKING:
    from robustbench_dyn.results.evidence import Evidence

BINS = 32
# Radii of a few easy examples would make all others one bar.
_SHARE_SHOWN = 0.99


def histogram(evidence: Evidence) -> dict[str, Any] | None:
    """Return the counts of certified radii and of distances of adversarial examples.

    Edges are common to both, from 0 to the largest value that is shown, in units of the norm; the
    last bin holds what lies above. None where there is neither.
    """
    verdicts = evidence.verdicts
    radii = _finite([v.certified_radius for v in verdicts if v.certifier])
    distances = _finite([v.adversarial_distance for v in verdicts if v.status is Status.BROKEN])
    if not radii and not distances:
        return None
    largest = max(evidence.eps, float(np.quantile([*radii, *distances], _SHARE_SHOWN)))
    edges = np.linspace(0, largest, BINS + 1)
    return {
        "eps": evidence.eps,
        "largest": largest,
        "above": sum(value > largest for value in radii + distances),
        "certified": _counts(radii, edges),
        "adversarial": _counts(distances, edges),
    }


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _counts(values: Sequence[float], edges: Any) -> list[int]:
    return [int(n) for n in np.histogram(np.clip(values, 0, edges[-1]), edges)[0]]
