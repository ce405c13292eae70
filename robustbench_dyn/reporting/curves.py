"""Robust accuracy as a curve over eps, from certified radii and nearest adversarial examples."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.api import Evaluation, as_dataset, evaluate, open_cascade
from robustbench_dyn.evaluation.pipeline import Cascade
from robustbench_dyn.evaluation.transitions import broken
from robustbench_dyn.models.determinism import NOT_A_FUNCTION
from robustbench_dyn.results.verdicts import Status, Verdict
from robustbench_dyn.threat_models import Norm, ThreatModel, widest_eps

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from robustbench_dyn.datasets import Dataset

MINIMUM_NORM_ATTACK = "fab-min"
_CORRECT = (Status.BROKEN, Status.CERTIFIED, Status.UNDECIDED)


@dataclass(frozen=True)
class CurveEvaluation(Evaluation):
    """Verdicts at the widest eps of a norm, with distances that hold for all smaller ones.

    A verdict's certified_radius is the largest that was proved, and its adversarial_distance that
    of the nearest adversarial example found. radii: where certifiers were run, rising from 0.
    """

    radii: tuple[float, ...] = ()


def evaluate_distances(
    model: nn.Module,
    data: Dataset | str | tuple[Tensor, Tensor],
    norm: Norm,
    *,
    radii: Sequence[float] | None = None,
    n_radii: int = 33,
    certifiers: str | Sequence[str] = "auto",
    n_examples: int | None = None,
    **options: Any,
) -> CurveEvaluation:
    """Find each example's nearest adversarial example, and the largest radius with a certificate.

    One run of a minimum-norm attack gives all distances. Certifiers whose radii hold at any eps
    need one pass; what proves one ball is run at radii below the example's distance, which are
    bisected, since a certificate of a ball holds in every smaller one. radii: of these balls, by
    default n_radii of them in equal steps from 0 to where hardly an example stands. options: those
    of evaluate, but for attacks. Raises InputError for a radius wider than the norm's widest.
    """
    dataset = as_dataset(data, n_examples)
    widest = ThreatModel(norm, widest_eps(norm, tuple(dataset.x.shape[1:])))
    _check_radii(radii or (), widest.eps)
    with open_cascade(
        model, dataset, [widest], attacks="none", certifiers=certifiers, **options
    ) as cascade:
        radius_based = [p.certifier.name for p in cascade.certifiers if p.certifier.radius_based]
        evaluation = evaluate(
            model, dataset, widest, attacks=MINIMUM_NORM_ATTACK, certifiers=radius_based,
            **{**options, "store": cascade.store},
        )  # fmt: skip
        grid = sorted(set(_default_radii(evaluation, n_radii) if radii is None else radii))
        found = {v.example_id: v for v in evaluation.verdicts}
        if cascade.tools:
            found = _certify_on_grid(cascade, found, [radius for radius in grid if radius > 0])
        flags = sorted({*evaluation.summary["flags"].split(), *cascade.flags})
    kept = {part.name: getattr(evaluation, part.name) for part in fields(Evaluation)}
    verdicts = tuple(found[i] for i in sorted(found))
    summary = evaluation.summary | {"flags": " ".join(flags)}
    kept |= {"verdicts": verdicts, "summary": summary, "not_applicable": _reasons(cascade)}
    return CurveEvaluation(**kept, radii=tuple(grid))


def curve(evaluation: CurveEvaluation, radii: Sequence[float] | None = None) -> pd.DataFrame:
    """Return eps, certified_accuracy and empirical_accuracy, one row per radius.

    evaluation: of evaluate_distances. An example is certified up to its certified radius, and
    empirically robust below the distance of the adversarial example found. radii: by default those
    of the evaluation. Between two of these, the true curve lies above the certified accuracy of the
    larger radius and below the empirical accuracy of the smaller one; a radius where no certifier
    ran has the certified accuracy of the next larger one. Raises InputError for a radius outside
    the evaluation.
    """
    import pandas as pd  # noqa: PLC0415  (slow to import)

    radii = evaluation.radii if radii is None else radii
    _check_radii(radii, evaluation.threat_model.eps)
    correct = [v for v in evaluation.verdicts if v.status in _CORRECT]
    certified = np.array([v.certified_radius for v in correct])
    distances = np.array([_distance(v) for v in correct])
    n = len(evaluation.verdicts)
    rows = [
        (
            eps,
            # NaN, for no certificate, fails the comparison; at eps 0 each correct example counts.
            float((certified >= eps).sum()) / n if eps else len(correct) / n,
            float((distances > eps).sum()) / n,
        )
        for eps in radii
    ]
    return pd.DataFrame(rows, columns=["eps", "certified_accuracy", "empirical_accuracy"])


def _certify_on_grid(
    cascade: Cascade, found: dict[int, Verdict], grid: Sequence[float]
) -> dict[int, Verdict]:
    """Return the verdicts with the largest radii of the grid that ball certifiers prove.

    grid: rising. The certifiers may find nearer adversarial examples, too; the cascade, which has
    the certificates of all radii so far, raises SoundnessError for one that refutes any of them.
    """
    found = dict(found)
    # The largest index that is certified, and the least that is known not to be.
    low, high = dict[int, int](), dict[int, int]()
    for i, verdict in found.items():
        if verdict.status in _CORRECT:
            radius = verdict.certified_radius
            low[i] = bisect_right(grid, radius if radius > 0 else 0.0) - 1
            high[i] = bisect_left(grid, _distance(verdict))
    while left := [i for i in low if low[i] + 1 < high[i]]:
        by_index: dict[int, list[int]] = {}
        for i in left:
            by_index.setdefault((low[i] + high[i]) // 2, []).append(i)
        # The largest first, so that what is found there counts at the others.
        for index in sorted(by_index, reverse=True):
            threat_model = ThreatModel(cascade.norm, grid[index])
            for verdict in cascade.run(threat_model, only=by_index[index]):
                i = verdict.example_id
                if verdict.status is Status.CERTIFIED:
                    low[i] = index
                    found[i] = replace(
                        found[i], certifier=verdict.certifier,
                        certified_radius=max(verdict.certified_radius, grid[index]),
                    )  # fmt: skip
                    continue
                high[i] = index
                if verdict.adversarial_distance < _distance(found[i]):
                    attack, x_adv = verdict.attack, verdict.x_adv or b""
                    found[i] = broken(found[i], attack, verdict.adversarial_distance, x_adv)
                    high[i] = min(index, bisect_left(grid, verdict.adversarial_distance))
    if cascade.flags & NOT_A_FUNCTION:
        found = {
            i: replace(verdict, certified_radius=math.nan, certifier="")
            for i, verdict in found.items()
        }
    return found


def _default_radii(evaluation: Evaluation, n_radii: int) -> list[float]:
    reached = [_distance(v) for v in evaluation.verdicts if v.status in _CORRECT]
    found = [distance for distance in reached if math.isfinite(distance)]
    last = float(np.quantile(found, 0.99)) if found else evaluation.threat_model.eps
    return np.linspace(0.0, last, n_radii).tolist()


def _distance(verdict: Verdict) -> float:
    """Return the distance of the adversarial example found, inf where there is none."""
    return verdict.adversarial_distance if verdict.status is Status.BROKEN else math.inf


def _reasons(cascade: Cascade) -> dict[str, str]:
    reasons: dict[str, str] = cascade.record["not_applicable"]
    return reasons


def _check_radii(radii: Sequence[float], widest: float) -> None:
    outside = [eps for eps in radii if not 0 <= eps <= widest]
    if outside:
        raise InputError(
            f"eps={outside[0]:g} lies outside the curve, which goes from 0 to {widest:g}"
        )
