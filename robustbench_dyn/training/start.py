"""The weights that a training begins with: published ones, and prototypes at means of features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_dyn.errors import InputError, IntegrityError
from robustbench_dyn.lipschitz.bounds import Classifier
from robustbench_dyn.models.architectures import Architecture, split_name
from robustbench_dyn.models.loading import load_weights
from robustbench_dyn.models.weights import fill_with
from robustbench_dyn.training.recipes import Recipe


def take_weights(model: nn.Module, recipe: Recipe, architecture: Architecture) -> float:
    """Give a network the weights that its recipe begins with; return the seconds spent on them.

    All weights of `weights_from`, or those of the features of `features_from`; none where the
    recipe has neither. Raises InputError where there are no such weights, or they do not fit.
    """
    key = "features_from" if recipe.weights_from is None else "weights_from"
    named = recipe.features_from if recipe.weights_from is None else recipe.weights_from
    if named is None:
        return 0.0
    name, variant = split_name(named)
    if name != architecture.name:
        raise InputError(
            f"{key}={named!r} is of another model than {architecture.name!r}; name weights of this "
            "model"
        )
    weights = architecture.weights_for(recipe.dataset, None, variant)
    published = load_weights(architecture, weights)
    taken, given = model, published
    if recipe.weights_from is None:
        if not isinstance(model, Classifier) or not isinstance(published, Classifier):
            raise InputError(
                f"features_from needs a Classifier of features and a head, not "
                f"{type(model).__name__}; give weights_from"
            )
        taken, given = model.features, published.features
    try:
        fill_with(taken, given.state_dict())
    except IntegrityError as error:
        raise InputError(
            f"the weights of {key}={named!r} do not fit the options of the recipe: {error}; give "
            "the options of these weights"
        ) from error
    return weights.training_seconds or 0.0


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
