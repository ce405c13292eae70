"""Whether verdicts on the JPEG copies of CIFAR-10 carry over to CIFAR-10 itself, image by image.

    python benchmarks/copies.py --data-dir DATA [--models lipflow euler_resnet]

DATA/cifar10_jpeg holds the copies, and test_originals.parquet: the first test images of CIFAR-10 as
they are. The copy of each is the nearest test image in L2; it must be nearer than half the distance
of the next one, no copy may belong to two originals, and the labels must agree. Each network of
leaderboards/sweep-cifar10_jpeg.yaml is evaluated on both, smoothed ones under their own attack, and
results/copies.csv counts the pairs whose verdicts differ, for each eps. A run replaces the rows of
the models that it evaluates.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import measuring
import pandas as pd
import torch
from colour import COPIES
from torch import nn

from robustbench_dyn import (
    Evaluation,
    Smoothing,
    ThreatModel,
    evaluate_grid,
    evaluate_smoothed,
    load_dataset,
    load_model,
)
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import InputError
from robustbench_dyn.results.verdicts import Status
from robustbench_dyn.sweeps.sweep_file import read_sweep
from robustbench_dyn.threat_models import Norm

ORIGINALS = "test_originals.parquet"
SWEEP = Path(__file__).parents[1] / "leaderboards/sweep-cifar10_jpeg.yaml"
GRID: dict[Norm, tuple[float, ...]] = {
    "L2": (36 / 255, 72 / 255, 108 / 255, 0.5),
    "Linf": (2 / 255, 8 / 255),
}
# Of the next image's distance, for a pair that cannot be mistaken.
MOST = 0.5


class Pairs(NamedTuple):
    """Originals, and their copies in the same order; distances: of each pair, in L2."""

    originals: Dataset
    copies: Dataset
    distances: torch.Tensor


def find_pairs(originals: Dataset, copies: Dataset) -> Pairs:
    """Return each original with its copy; raises InputError where one cannot be told."""
    a, b = originals.x.flatten(1).double(), copies.x.flatten(1).double()
    found, order = torch.cdist(a, b).topk(2, largest=False)
    (distances, following), places = found.T, order[:, 0]
    wrong = (distances > MOST * following) | (originals.y != copies.y[places])
    if bool(wrong.any()) or len(set(places.tolist())) < len(originals):
        raise InputError(
            f"{int(wrong.sum())} of {len(originals)} originals have no copy among the "
            f"{len(copies)} images of {copies.name}, or two have the same one; give the folder in "
            "which both belong together"
        )
    of_originals = replace(
        copies, x=copies.x[places], y=copies.y[places], ids=originals.ids, sha256=""
    )
    return Pairs(originals, of_originals, distances)


def compare(
    model: nn.Module, pairs: Pairs, smoothing: Smoothing | None, *, attacks: str | Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each norm and eps: accuracies on both, and on how many pairs they differ."""
    for norm, grid in GRID.items():
        if smoothing is not None and norm != "L2":
            continue
        threat_models = [ThreatModel(norm, eps) for eps in grid]
        both = []
        for side in (pairs.originals, pairs.copies):
            data = replace(side, sha256="")
            if smoothing is None:
                both.append(evaluate_grid(model, data, threat_models, attacks=attacks))
            else:
                smoothed = evaluate_smoothed(model, data, threat_models, smoothing)
                both.append(list(smoothed.evaluations))
        for a, b in zip(*both, strict=True):
            row = {"norm": norm, "eps": a.threat_model.eps, "n": len(pairs.originals)}
            yield row | differences(a, b)


def networks() -> dict[str, tuple[str, Smoothing | None]]:
    """Return the networks of the sweep: by the name in tables, the weights and the smoothing."""
    subjects = read_sweep(SWEEP).sizes
    return {
        one.smoothing.name_of(one.model) if one.smoothing else one.model: (one.model, one.smoothing)
        for one in subjects
    }


def differences(originals: Evaluation, copies: Evaluation) -> dict[str, Any]:
    """Return counts of images on which something holds, on both sides, and of unequal pairs."""
    found: dict[str, Any] = {}
    for what, of in (("clean", _correct), ("certified", _certified), ("empirical", _standing)):
        a, b = ([of(verdict.status) for verdict in side.verdicts] for side in (originals, copies))
        differ = sum(x != y for x, y in zip(a, b, strict=True))
        found |= {f"{what}_originals": sum(a), f"{what}_copies": sum(b), f"{what}_differ": differ}
    radii = pd.DataFrame(
        [side.examples["certified_radius"] for side in (originals, copies)],
    )
    apart = (radii.iloc[0] - radii.iloc[1]).abs()
    return found | {"median_radius_apart": apart.median()}


def _correct(status: Status) -> bool:
    return status is not Status.MISCLASSIFIED


def _certified(status: Status) -> bool:
    return status is Status.CERTIFIED


def _standing(status: Status) -> bool:
    return status in (Status.CERTIFIED, Status.UNDECIDED)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    known = networks()
    parser.add_argument("--models", nargs="+", choices=known, default=list(known))
    parser.add_argument("--attacks", default="apgd-ce,apgd-t")
    options = parser.parse_args()
    place = options.data_dir / COPIES / ORIGINALS
    pairs = find_pairs(
        load_dataset(f"parquet:{place}"), load_dataset(COPIES, data_dir=options.data_dir)
    )
    told = pairs.distances
    print(
        f"{len(told)} pairs, {told.min():.2f} to {told.max():.2f} apart, {told.median():.2f} half"
    )
    path = measuring.RESULTS / "copies.csv"
    for name in options.models:
        weights, smoothing = known[name]
        model, attacks = load_model(weights, dataset=COPIES), options.attacks.split(",")
        rows = pd.DataFrame(
            {"model": name} | row for row in compare(model, pairs, smoothing, attacks=attacks)
        )
        print(rows.to_string(index=False), flush=True)
        measuring.add(path, rows, ("model", "norm", "eps"))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
