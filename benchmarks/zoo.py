"""The weights and recipes that ship, by the name of their model."""

from __future__ import annotations

from pathlib import Path

from robustbench_dyn.models.architectures import full_name, split_name
from robustbench_dyn.models.loading import discover
from robustbench_dyn.plugins import Weights, find_plugins
from robustbench_dyn.training.recipes import find_recipe


def weights_of(dataset: str) -> dict[str, Weights]:
    """Return all weights that were trained on a data set, by the name of their model."""
    return {
        full_name(plugin.name, weights.variant): weights
        for plugin in find_plugins()
        for weights in (plugin.card.weights if plugin.card else ())
        if weights.dataset == dataset
    }


def recipe_path(model: str, dataset: str) -> Path:
    """Return the file of a model's recipe for a data set."""
    name, variant = split_name(model)
    return find_recipe(discover().get(name), dataset, variant)
