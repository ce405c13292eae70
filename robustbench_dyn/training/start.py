"""Where the weights of a training begin: at published features, and prototypes at their means."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_dyn.errors import InputError, IntegrityError
from robustbench_dyn.lipschitz.bounds import Classifier
from robustbench_dyn.models.architectures import Architecture, split_name
from robustbench_dyn.models.loading import load_weights
from robustbench_dyn.models.weights import fill_with
from robustbench_dyn.training.recipes import Recipe


def take_features(model: nn.Module, recipe: Recipe, architecture: Architecture) -> None:
    """Give a network the features of the weights that `features_from` names, if it names some.

    Raises InputError where there are no such weights, or their features are of another shape.
    """
    if recipe.features_from is None:
        return
    name, variant = split_name(recipe.features_from)
    if name != architecture.name:
        raise InputError(
            f"features_from={recipe.features_from!r} is of another model than {architecture.name!r}"
            "; name weights of this model"
        )
    other = load_weights(architecture, architecture.weights_for(recipe.dataset, None, variant))
    if not isinstance(model, Classifier) or not isinstance(other, Classifier):
        raise InputError(
            f"features_from needs a Classifier of features and a head, not {type(model).__name__}; "
            "drop features_from"
        )
    try:
        fill_with(model.features, other.features.state_dict())
    except IntegrityError as error:
        raise InputError(
            f"the features of features_from={recipe.features_from!r} do not fit the options of the "
            f"recipe: {error}; give the options of these weights"
        ) from error


def start_head(model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> None:
    """Let a head that has `start_from` begin at the features of the examples; x: (n, C, H, W)."""
    start = getattr(getattr(model, "head", None), "start_from", None)
    if not isinstance(model, Classifier) or start is None:
        return
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        features = [model.features(part.to(device)) for part in torch.split(x, 1000)]
    start(torch.cat(features), y.to(device), torch.Generator().manual_seed(seed))
