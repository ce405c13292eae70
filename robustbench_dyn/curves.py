"""A whole curve over eps from one run: certified radii below, distances of nearest finds above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustbench_dyn.certification import resolve_certifiers
from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation import Evaluation, evaluate
from robustbench_dyn.threat_models import Norm, ThreatModel, widest_eps
from robustbench_dyn.verdicts import Status

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from robustbench_dyn.datasets import Dataset

MINIMUM_NORM_ATTACK = "fab-min"
_POINTS = 33


def evaluate_distances(
    model: nn.Module,
    data: Dataset | tuple[Tensor, Tensor],
    norm: Norm,
    *,
    certifiers: str | Sequence[str] = "auto",
    **options: Any,
) -> Evaluation:
    """Search each example's nearest adversarial example at any distance; see curve.

    certifiers: "auto" means those whose radii hold at any eps; what proves the ball of one eps
    alone has nothing to say of a curve. options: those of evaluate, but for attacks. The verdicts
    are those at the widest eps of the norm, so that an example is broken at the distance where its
    nearest find lies.
    """
    x = data[0] if isinstance(data, tuple) else data.x
    input_shape = tuple(x.shape[1:])
    threat_model = ThreatModel(norm, widest_eps(norm, input_shape))
    if certifiers == "auto":
        found = resolve_certifiers("auto", model, input_shape, norm)
        certifiers = [p.certifier.name for p in found if p.certifier.at_any_eps]
    return evaluate(
        model, data, threat_model, attacks=MINIMUM_NORM_ATTACK, certifiers=certifiers, **options
    )


def curve(evaluation: Evaluation, radii: Sequence[float] | None = None) -> pd.DataFrame:
    """Return eps, certified_accuracy and empirical_accuracy, a row for each of radii.

    evaluation: of evaluate_distances. An example counts as certified up to its certified radius,
    and as empirically robust below the distance of its find. radii: by default equal steps from 0
    to where hardly an example stands. Raises InputError for radii that the run did not cover.
    """
    import pandas as pd  # noqa: PLC0415  (slow to import, wanted only here)

    standing = (Status.BROKEN, Status.CERTIFIED, Status.UNDECIDED)
    correct = [v for v in evaluation.verdicts if v.status in standing]
    certified = np.array([v.certified_radius for v in correct])
    broken = np.array(
        [v.adversarial_distance if v.status is Status.BROKEN else math.inf for v in correct]
    )
    if radii is None:
        found = broken[np.isfinite(broken)]
        last = float(np.quantile(found, 0.99)) if len(found) else evaluation.threat_model.eps
        radii = np.linspace(0.0, last, _POINTS).tolist()
    outside = [eps for eps in radii if not 0 <= eps <= evaluation.threat_model.eps]
    if outside:
        raise InputError(
            f"eps={outside[0]:g} lies outside the curve, which goes from 0 to "
            f"{evaluation.threat_model.eps:g}"
        )
    n = len(evaluation.verdicts)
    rows = [
        # NaN, where nothing is certified, is above no eps; at 0 a correct answer is all it takes.
        (eps, float((certified >= eps).sum()) / n if eps else len(correct) / n,
         float((broken > eps).sum()) / n)
        for eps in radii
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["eps", "certified_accuracy", "empirical_accuracy"])
