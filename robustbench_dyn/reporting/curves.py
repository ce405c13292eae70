"""A curve over eps: certified accuracy below, empirical accuracy above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from robustbench_dyn.evaluation.distances import CORRECT, CurveEvaluation, check_radii, reached

if TYPE_CHECKING:
    import pandas as pd


def curve(evaluation: CurveEvaluation, radii: Sequence[float] | None = None) -> pd.DataFrame:
    """Return eps, certified_accuracy and empirical_accuracy, a row for each of radii.

    evaluation: of evaluate_distances. An example counts as certified up to its certified radius,
    and as empirically robust below the distance of the adversarial example found. radii: by
    default those of the evaluation. Between two of these the true curve lies above the certified
    accuracy of the larger one and below the empirical accuracy of the smaller one; a radius where
    no certifier was run has what the next one proves. Raises InputError for radii that the run did
    not cover.
    """
    import pandas as pd  # noqa: PLC0415  (slow to import, wanted only here)

    radii = evaluation.radii if radii is None else radii
    check_radii(radii, evaluation.threat_model.eps)
    correct = [v for v in evaluation.verdicts if v.status in CORRECT]
    certified = np.array([v.certified_radius for v in correct])
    distances = np.array([reached(v) for v in correct])
    n = len(evaluation.verdicts)
    rows = [
        # NaN, where nothing is certified, is above no eps; at 0 a correct answer is all it takes.
        (
            eps,
            float((certified >= eps).sum()) / n if eps else len(correct) / n,
            float((distances > eps).sum()) / n,
        )
        for eps in radii
    ]
    return pd.DataFrame(rows, columns=["eps", "certified_accuracy", "empirical_accuracy"])
