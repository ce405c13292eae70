"""The cost of a training step of each 1-Lipschitz architecture, with its recipe.

    python benchmarks/training_cost.py [--rounds 5] [--steps 10]

One thread, as for the recorded training times. In each round every architecture trains for a number
of steps, so that other load on the machine affects all of them alike; the ratio to lipflow is the
median over rounds. Seconds are processor time, as counted by the training loop. Needs the training
split of Fashion-MNIST.
Results: benchmarks/results/training_cost.csv.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import measuring
import torch

from robustbench_dyn import load_dataset
from robustbench_dyn.models.loading import discover
from robustbench_dyn.training.loop import EpochReport, train
from robustbench_dyn.training.recipes import Recipe, find_recipe, read_recipe

MODELS = ("lipflow", "expansive_contractive", "naive_lipschitz", "orthogonal_cnn", "sll")
DATASET = "fashion_mnist"


def step_seconds(recipe: Recipe, steps: int) -> tuple[float, int]:
    """Return the processor seconds per step, without the first step, and the parameter count."""
    reports = list[EpochReport]()
    with tempfile.TemporaryDirectory() as folder:
        trained = train(
            recipe.model_copy(update={"epochs": 1}),
            discover().get(recipe.model),
            Path(folder) / "weights.safetensors",
            n_examples=(steps + 1) * recipe.batch_size,
            progress=reports.append,
        )
    seconds = (reports[-1].seconds - reports[0].seconds) / steps
    return seconds, sum(parameter.numel() for parameter in trained.model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    n_examples = len(load_dataset(DATASET, split="train").x)
    recipes = {name: read_recipe(find_recipe(discover().get(name), DATASET)) for name in MODELS}
    taken: dict[str, list[float]] = {name: [] for name in MODELS}
    parameters = dict[str, int]()
    for _ in range(options.rounds):
        for name, recipe in recipes.items():
            seconds, parameters[name] = step_seconds(recipe, options.steps)
            taken[name].append(seconds)
    rows = []
    for name, recipe in recipes.items():
        steps = recipe.epochs * (n_examples // recipe.batch_size)
        seconds = statistics.median(taken[name])
        ratios = (a / b for a, b in zip(taken[name], taken[MODELS[0]], strict=True))
        rows.append(
            {
                "model": name,
                "parameters": parameters[name],
                "epochs": recipe.epochs,
                "steps": steps,
                "seconds_a_step": seconds,
                "times_lipflow": statistics.median(ratios),
                "training_seconds": seconds * steps,
            }
        )
    measuring.write("training_cost", rows)


if __name__ == "__main__":
    main()
