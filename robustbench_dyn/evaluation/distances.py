"""Each example's largest certified radius, and its nearest adversarial example."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.api import (
    DEFAULT_AUDIT_SHARE,
    Evaluation,
    open_pipeline,
    run_grid,
)
from robustbench_dyn.evaluation.candidates import Hit
from robustbench_dyn.evaluation.inputs import Data, as_dataset, open_store
from robustbench_dyn.evaluation.options import is_number, is_whole
from robustbench_dyn.evaluation.pipeline import Pipeline
from robustbench_dyn.evaluation.plan import Certifiers, NetworkPlan
from robustbench_dyn.evaluation.transitions import broken
from robustbench_dyn.progress.report import Progress
from robustbench_dyn.results.attempts import attempts_of
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.verdicts import Status, Verdict
from robustbench_dyn.threat_models import Norm, ThreatModel, check_norm, format_eps, widest_eps

MINIMUM_NORM_ATTACK = "fab-min"
CORRECT = (Status.BROKEN, Status.CERTIFIED, Status.UNDECIDED)


@dataclass(frozen=True)
class CurveEvaluation(Evaluation):
    """Verdicts at the widest eps of a norm, each with all that is known below.

    A verdict's certified_radius is the largest that was proved, and its adversarial_distance that
    of the nearest adversarial example found. radii: where certifiers were run, rising from 0.
    """

    radii: tuple[float, ...] = ()


def evaluate_distances(
    model: nn.Module,
    data: Data,
    norm: Norm,
    *,
    radii: Sequence[float] | None = None,
    n_radii: int = 33,
    certifiers: Certifiers = "auto",
    n_examples: int | None = None,
    seed: int = 0,
    batch_size: int | Literal["auto"] = 250,
    audit_share: float = DEFAULT_AUDIT_SHARE,
    strict_rounding: bool = False,
    device: str | torch.device | None = None,
    store: Store | Path | str | None = None,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> CurveEvaluation:
    """Find each example's nearest adversarial example, and the largest radius with a certificate.

    One run of a minimum-norm attack gives all distances. Certifiers whose radii hold at any eps
    need one pass; certifiers of one ball are run at radii below the example's distance, which are
    bisected, since a certificate of a ball holds in every smaller one. radii: of these balls, by
    default n_radii of them in equal steps from 0 to where hardly an example is still robust. The
    other options are those of evaluate_grid. Raises InputError for a radius wider than the norm's
    widest.
    """
    check_norm(norm)
    if not (is_whole(n_radii) and n_radii >= 1):
        raise InputError(f"n_radii={n_radii!r} must be a whole number of at least 1")
    if radii is not None and not (
        isinstance(radii, Sequence) and all(is_number(radius) for radius in radii)
    ):
        raise InputError(f"radii={radii!r} must be a list of numbers")
    dataset = as_dataset(data, n_examples)
    widest = ThreatModel(norm, widest_eps(norm, tuple(dataset.x.shape[1:])))
    check_radii(radii or (), widest.eps)
    with open_store(store) as opened:
        open_run = partial(
            open_pipeline,
            model,
            dataset,
            [widest],
            seed=seed,
            batch_size=batch_size,
            audit_share=audit_share,
            strict_rounding=strict_rounding,
            device=device,
            store=opened,
            name=name,
            progress=progress,
        )
        with open_run(attacks="none", certifiers=certifiers) as on_balls:
            radius_based = [c for c in on_balls.plan.certifiers if c.radius_based]
            with open_run(attacks=MINIMUM_NORM_ATTACK, certifiers=radius_based) as searching:
                (evaluation,) = run_grid(searching, [widest])
            grid = sorted(set(_default_radii(evaluation, n_radii) if radii is None else radii))
            found = {v.example_id: v for v in evaluation.verdicts}
            if len(on_balls.stages) > 1:
                positive = [radius for radius in grid if radius > 0]
                found = _certify_on_grid(on_balls, norm, found, positive)
            flags = sorted({*evaluation.summary["flags"].split(), *on_balls.flags})
    verdicts = tuple(found[i] for i in sorted(found))
    return CurveEvaluation(
        threat_model=widest,
        verdicts=verdicts,
        summary=evaluation.summary | {"flags": " ".join(flags)},
        key=evaluation.key,
        costs=evaluation.costs,
        not_applicable=dict(on_balls.record.not_applicable),
        attempts=attempts_of(
            verdicts,
            on_balls.spec,
            eps=widest.eps,
            flags=on_balls.flags,
            not_applicable=on_balls.record.not_applicable,
        ),
        radii=tuple(grid),
    )


def _certify_on_grid(
    pipeline: Pipeline[NetworkPlan], norm: Norm, found: dict[int, Verdict], grid: Sequence[float]
) -> dict[int, Verdict]:
    """Return the verdicts with the largest radii of the grid that ball certifiers prove.

    grid: rising. The certifiers may find nearer adversarial examples, too; the pipeline has the
    certificates of all radii so far, and raises SoundnessError for one that refutes any of them.
    """
    found = dict(found)
    # The largest index that is certified, and the least that is known not to be.
    low, high = dict[int, int](), dict[int, int]()
    for i, verdict in found.items():
        if verdict.status in CORRECT:
            radius = verdict.certified_radius
            low[i] = bisect_right(grid, radius if radius > 0 else 0.0) - 1
            high[i] = bisect_left(grid, reached(verdict))
    while left := [i for i in low if low[i] + 1 < high[i]]:
        by_index: dict[int, list[int]] = {}
        for i in left:
            by_index.setdefault((low[i] + high[i]) // 2, []).append(i)
        # The largest first, so that what is found there counts at the others.
        for index in sorted(by_index, reverse=True):
            threat_model = ThreatModel(norm, grid[index])
            for verdict in pipeline.run(threat_model, only=by_index[index]):
                i = verdict.example_id
                if verdict.status is Status.CERTIFIED:
                    low[i] = index
                    found[i] = replace(
                        found[i],
                        certifier=verdict.certifier,
                        certified_radius=max(verdict.certified_radius, grid[index]),
                    )
                    continue
                high[i] = index
                if verdict.adversarial_distance < reached(found[i]):
                    distance = verdict.adversarial_distance
                    found[i] = broken(found[i], Hit(verdict.attack, distance, verdict.x_adv or b""))
                    high[i] = min(index, bisect_left(grid, verdict.adversarial_distance))
    if pipeline.spec.voids_certificates(pipeline.flags):
        found = {
            i: replace(verdict, certified_radius=math.nan, certifier="")
            for i, verdict in found.items()
        }
    return found


def _default_radii(evaluation: Evaluation, n_radii: int) -> list[float]:
    distances = [reached(v) for v in evaluation.verdicts if v.status in CORRECT]
    found = [distance for distance in distances if math.isfinite(distance)]
    last = float(np.quantile(found, 0.99)) if found else evaluation.threat_model.eps
    return np.linspace(0.0, last, n_radii).tolist()


def reached(verdict: Verdict) -> float:
    """Return the distance of the adversarial example found, inf where there is none."""
    return verdict.adversarial_distance if verdict.status is Status.BROKEN else math.inf


def check_radii(radii: Sequence[float], widest: float) -> None:
    """Raise InputError for a radius that lies outside of a curve."""
    outside = [eps for eps in radii if not 0 <= eps <= widest]
    if outside:
        raise InputError(
            f"eps={format_eps(outside[0])} lies outside the curve, which goes from 0 to {widest:g}"
        )
