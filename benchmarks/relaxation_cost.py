"""The cost of linear relaxations on a network of 500,000 parameters, for 100 examples.

    python benchmarks/relaxation_cost.py [--n-examples 100]

The network is `feedforward` with a wide hidden layer, trained with interval bounds on 10,000 images
for four epochs, so that bounds are tight enough for alpha-CROWN to optimise slopes. Seconds are
wall-clock time on all cores. Results: benchmarks/results/relaxation_cost.csv.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import measuring
import torch

from robustbench_dyn import ThreatModel, load_dataset
from robustbench_dyn.certification.bounds.intermediate import relaxation_state
from robustbench_dyn.certification.objectives import margin_objectives
from robustbench_dyn.certification.proofs import linear_relaxation
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.loading import discover
from robustbench_dyn.training.loop import train
from robustbench_dyn.training.recipes import Recipe

RECIPE = Recipe.model_validate(
    {
        "model": "feedforward",
        "dataset": "fashion_mnist",
        "norm": "Linf",
        "options": {"channels": 16, "depth": 2, "hidden": 316, "strided": True},
        "certified_training": {"norm": "Linf", "eps": 0.05, "warm_up_epochs": 1, "ramp_epochs": 2},
        "learning_rate": 3e-3,
        "epochs": 4,
    }
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-examples", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "wide.safetensors"
        model = train(RECIPE, discover().get("feedforward"), out, n_examples=10_000).model.eval()
    data = load_dataset("fashion_mnist", n_examples=options.n_examples)
    rows = []
    with frozen_eval(model), torch.no_grad():
        relaxed = relaxation_state(model, tuple(data.x.shape[1:]))
        pairs = margin_objectives(data.x, model(data.x), data.y)
        for norm, eps in (("L2", 0.25), ("L2", 0.5), ("Linf", 0.05), ("Linf", 0.1)):
            threat_model = ThreatModel(norm, eps)
            for slopes, n_iterations in (("fixed", 0), ("optimised", 20)):
                started = time.perf_counter()
                least = linear_relaxation.relaxed_margins(
                    relaxed, data.x, pairs, threat_model, n_iterations=n_iterations
                )
                seconds = time.perf_counter() - started
                rows.append(
                    {
                        "parameters": sum(p.numel() for p in model.parameters()),
                        "norm": norm,
                        "eps": eps,
                        "slopes": slopes,
                        "examples": len(data),
                        "objectives": len(least),
                        "proved": int((least > 0).sum()),
                        "seconds": round(seconds, 2),
                    }
                )
                print(rows[-1], flush=True)
    measuring.write("relaxation_cost", rows)


if __name__ == "__main__":
    main()
