"""A curve over eps: certified accuracy below, empirical accuracy above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from robustbench_dyn.evaluation.distances import check_radii
from robustbench_dyn.evaluation.result import CurveEvaluation
from robustbench_dyn.results.curves import CurvePoint, curve_points

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
    return pd.DataFrame(curve_points(evaluation.verdicts, radii), columns=list(CurvePoint._fields))
