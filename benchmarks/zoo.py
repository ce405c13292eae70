"""The weights that ship, for the benchmarks of all of them."""

from __future__ import annotations

from robustbench_dyn.models.architectures import full_name
from robustbench_dyn.plugins import Weights, find_plugins


def weights_of(dataset: str) -> dict[str, Weights]:
    """Return all weights that were trained on a data set, by the name of their model."""
    return {
        full_name(plugin.name, weights.variant): weights
        for plugin in find_plugins()
        for weights in (plugin.card.weights if plugin.card else ())
        if weights.dataset == dataset
    }
