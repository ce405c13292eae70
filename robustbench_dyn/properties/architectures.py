"""Tests of the properties that an architecture claims, at its trained weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from robustbench_dyn.datasets import DATASETS, load_dataset
from robustbench_dyn.datasets.dataset import is_name_of_files
from robustbench_dyn.models.architectures import Architecture
from robustbench_dyn.models.loading import build_model, load_weights
from robustbench_dyn.models.precision import full_precision
from robustbench_dyn.properties import Finding, check_properties, claims_for_all

_WITHOUT_WEIGHTS = "fashion_mnist"


def check_architecture(
    architecture: Architecture,
    *,
    dataset: str | None = None,
    variant: str = "",
    n_examples: int = 4,
    search: bool = True,
) -> Iterator[Finding]:
    """Yield findings on each claim of a plugin, and on those that all networks must keep.

    dataset and variant: at which weights; by default the first data set of the card. A plugin
    without weights is tested as it is built, from seed 0, for the data set of a recipe. The first
    finding compares the properties in card.yaml with those of the plugin's `properties` function.
    Raises InputError where a claim cannot be tested, and what load_weights raises.
    """
    name = dataset or dataset_of_test(architecture)
    data = load_dataset(name, n_examples=n_examples)
    if architecture.card.weights:
        model = load_weights(architecture, architecture.weights_for(name, variant=variant))
    else:
        model = fresh_model(architecture, tuple(data.x.shape[1:]), data.n_classes)
    claims = list(architecture.claims(model))
    yield compare_names(architecture, {claim.name for claim in claims})
    with full_precision():
        yield from check_properties(model, [*claims_for_all(model), *claims], data.x, search=search)


def dataset_of_test(architecture: Architecture) -> str:
    """Return the data set of the first weights, of a recipe, or one that ships."""
    trained = [w.dataset for w in architecture.card.weights if not is_name_of_files(w.dataset)]
    planned = sorted(path.stem for path in (architecture.folder / "recipes").glob("*.yaml"))
    known = [name for name in planned if name in DATASETS]
    return next(iter([*trained, *known]), _WITHOUT_WEIGHTS)


def fresh_model(
    architecture: Architecture, input_shape: tuple[int, ...], n_classes: int
) -> nn.Module:
    """Return the network as it is built from seed 0, without a change of the caller's generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(architecture, input_shape=input_shape, n_classes=n_classes)


def compare_names(architecture: Architecture, claimed: set[str]) -> Finding:
    """Return whether card.yaml names the properties that the `properties` function claims."""
    written = set(architecture.card.properties)
    note = "card.yaml and properties() name the same"
    if written != claimed:
        note = (
            f"card.yaml names {', '.join(sorted(written)) or 'none'}; "
            f"properties() claims {', '.join(sorted(claimed)) or 'none'}"
        )
    return Finding("card", "", "names", float(len(written ^ claimed)), 0.0, note)
