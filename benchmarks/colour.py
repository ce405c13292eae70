"""Clean and certified accuracy of every set of weights for colour, on all 10,000 test copies.

    python benchmarks/colour.py --data-dir DATA [--models lipflow euler_resnet]

DATA/cifar10_jpeg holds the JPEG copies of CIFAR-10. Certified accuracies are those in L2 that
follow from the clean pass, without attacks; a network without a useful Lipschitz bound has none.
Results: benchmarks/results/colour.csv; a run replaces the rows of the models that it evaluates.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import measuring
import pandas as pd
from zoo import weights_of

from robustbench_dyn import ThreatModel, evaluate_grid, load_dataset, load_model
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.evaluation.cheap import cheap_certifiers
from robustbench_dyn.plugins import Weights

COPIES = "cifar10_jpeg"
# By the numerators over 255 that the field reports, and the two wider radii of the tables.
GRID = {"36/255": 36 / 255, "72/255": 72 / 255, "108/255": 108 / 255, "0.5": 0.5, "1": 1.0}

FROM_THE_CLEAN_PASS = ("max_affine", "lipschitz")


def measure(name: str, weights: Weights, data: Dataset) -> dict[str, Any]:
    """Return the row of one model."""
    model = load_model(name, dataset=COPIES)
    cheap = cheap_certifiers(model, tuple(data.x.shape[1:]), "L2")
    certifiers = [certifier for certifier in cheap if certifier in FROM_THE_CLEAN_PASS]
    evaluations = evaluate_grid(
        model,
        data,
        [ThreatModel("L2", eps) for eps in GRID.values()],
        attacks="none",
        certifiers=certifiers or "none",
    )
    first = evaluations[0].summary
    return {
        "model": name,
        "n_examples": len(data),
        "parameters": first["parameters"],
        "training_seconds": weights.training_seconds,
        "clean": first["clean_accuracy"],
        **{
            f"certified_{told}": evaluation.summary["certified_accuracy"]
            for told, evaluation in zip(GRID, evaluations, strict=True)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = weights_of(COPIES)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=sorted(known), default=sorted(known))
    options = parser.parse_args()
    data = load_dataset(COPIES, data_dir=options.data_dir)
    path = measuring.RESULTS / "colour.csv"
    for name in options.models:
        row = measure(name, known[name], data)
        print(row, flush=True)
        measuring.add(path, pd.DataFrame([row]), ("model",), order=("model",))


if __name__ == "__main__":
    main()
