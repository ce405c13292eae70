"""How far the certified accuracy moves from one training to the next: other seeds, same recipe.

    python benchmarks/seeds.py prototype_flow/eps-1.0 lipflow/prototypes [--seeds 1 2]

Trains each model by its recipe with other seeds, and judges them and the published weights (the
seed of the recipe) on all test images of Fashion-MNIST in the norm of its weights, as
benchmarks/frontier.py does. What a recipe begins with (weights_from) is the same for each seed.
Nothing is chosen by these figures. One thread; seconds are processor time. Needs the training
split of Fashion-MNIST. Results: benchmarks/results/seeds.csv, seeds_Linf.csv, a row as soon as it
is measured; `python benchmarks/tables.py` puts them in the docs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import measuring
import pandas as pd
import torch
from frontier import accuracies, judged, results_of
from torch import nn
from zoo import recipe_path, weights_of

from robustbench_dyn import load_dataset, load_model
from robustbench_dyn.models.loading import discover
from robustbench_dyn.training.loop import train
from robustbench_dyn.training.recipes import Recipe, read_recipe

DATASET = "fashion_mnist"


def network(model: str, recipe: Recipe, seed: int) -> tuple[nn.Module, float | None]:
    """Return the published network for the recipe's own seed, or train; and the seconds."""
    if seed == recipe.seed:
        return load_model(model), weights_of(DATASET)[model].training_seconds
    with tempfile.TemporaryDirectory() as folder:
        changed = recipe.model_copy(update={"seed": seed})
        trained = train(changed, discover().get(recipe.model), Path(folder) / "seed.safetensors")
    return trained.model, round(trained.seconds, 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--n-examples", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset(DATASET, n_examples=options.n_examples)
    for model in options.models:
        recipe = read_recipe(recipe_path(model, DATASET))
        norm = weights_of(DATASET)[model].norm
        for seed in sorted({recipe.seed, *options.seeds}):
            trained, seconds = network(model, recipe, seed)
            row = {
                "model": model,
                "seed": seed,
                "n_examples": len(data),
                "training_seconds": seconds,
                **accuracies(judged(trained, data, norm)),
                "machine": measuring.machine(),
            }
            print(row, flush=True)
            measuring.add(results_of("seeds", norm), pd.DataFrame([row]), ("model", "seed"))


if __name__ == "__main__":
    main()
