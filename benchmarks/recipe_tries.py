"""Tries of recipes: what changed settings give on images that are held out of the training.

    python benchmarks/recipe_tries.py prototype_flow loss.saturation=1 loss.radius=1.4 epochs=4
    python benchmarks/recipe_tries.py lipflow/prototypes --published

MODEL is NAME or NAME/VARIANT; each KEY=VALUE changes its recipe for Fashion-MNIST, in dots for keys
within keys. The last 5,000 training images are not trained on, and judge the weights by the
certifier that follows from the clean pass; no test image is looked at. --published: judge the
weights that ship instead of training. One thread; seconds are processor time. A try is one seed.
run_by: rows of a script of their own began at the prototypes of published weights, with which a
recipe cannot begin, or changed what no key of a recipe does (centring, schedule-free). Needs the
training split of Fashion-MNIST. Results: a row in benchmarks/results/recipe_tries.csv, in place of
one with the same settings; the frontier plot (benchmarks/frontier.py) shows them. Tries of recipes
for Linf are in recipe_tries_Linf.csv.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import measuring
import pandas as pd
import torch
import yaml
from frontier import accuracies, judged
from torch import nn
from zoo import recipe_path, weights_of

from robustbench_dyn import load_dataset, load_model
from robustbench_dyn.models.loading import discover
from robustbench_dyn.threat_models import Norm
from robustbench_dyn.training.loop import train
from robustbench_dyn.training.recipes import Recipe

DATASET, HELD_OUT = "fashion_mnist", 5000
PATHS: dict[Norm, Path] = {
    "L2": measuring.RESULTS / "recipe_tries.csv",
    "Linf": measuring.RESULTS / "recipe_tries_Linf.csv",
}


def changed_recipe(model: str, changes: list[str]) -> Recipe:
    """Return the recipe of a model with KEY=VALUE changes, and 5,000 images held out."""
    content: dict[str, Any] = yaml.safe_load(recipe_path(model, DATASET).read_text())
    for change in changes:
        key, _, value = change.partition("=")
        *outer, last = key.split(".")
        place = content
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = yaml.safe_load(value)
    return Recipe.model_validate({**content, "held_out": HELD_OUT})


def norm_of(recipe: Recipe) -> Norm:
    """Return the norm that a recipe is for; L2 where it does not say."""
    return recipe.norm or "L2"


def measured(model: nn.Module, recipe: Recipe) -> dict[str, float]:
    """Return the clean and certified accuracies of a network on the held-out images."""
    data = load_dataset(DATASET, split="train")
    held_out = data.rows(len(data) - recipe.held_out, len(data))
    return accuracies(judged(model, held_out, norm_of(recipe)))


def add(row: dict[str, Any], norm: Norm = "L2") -> None:
    """Put a row into the table of the tries for a norm."""
    rows = pd.DataFrame([{**row, "machine": measuring.machine()}])
    measuring.add(PATHS[norm], rows, ("model", "changes"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="keep the weights in this .safetensors file")
    parser.add_argument("--published", action="store_true", help="judge the weights that ship")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = changed_recipe(options.model, options.changes)
    if options.published:
        model = load_model(options.model, dataset=DATASET)
        seconds = weights_of(DATASET)[options.model].training_seconds
        assert seconds is not None
    else:
        with tempfile.TemporaryDirectory() as folder:
            out = options.out or Path(folder) / "weights.safetensors"
            model, _, _, seconds = train(recipe, discover().get(recipe.model), out)
    row = {
        "model": options.model,
        "changes": " ".join(options.changes),
        "run_by": "the published training" if options.published else Path(__file__).name,
        "n_examples": recipe.held_out,
        "epochs": recipe.epochs,
        "training_seconds": round(seconds, 1),
        **measured(model, recipe),
    }
    print(row, flush=True)
    add(row, norm_of(recipe))


if __name__ == "__main__":
    main()
