"""An architecture: the card of its plugin, and a function that builds the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_dyn.datasets.catalogue import served_by
from robustbench_dyn.datasets.dataset import is_name_of_files
from robustbench_dyn.errors import InputError
from robustbench_dyn.plugins import Card, Weights
from robustbench_dyn.threat_models import Norm

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Architecture:
    """A plugin that has been imported: its card, its build function, and its origin.

    build(input_shape=(C, H, W), n_classes=K, **options) returns a float32 nn.Module that maps
    (batch, C, H, W) in [0, 1] to logits (batch, K), with any normalisation inside. claims(model)
    yields the Property objects that the plugin's `properties` function declares, if it has one.
    """

    card: Card
    build: Callable[..., nn.Module]
    folder: Path
    origin: str
    code_sha256: str
    claims: Callable[[nn.Module], Iterable[Any]] = lambda _model: ()

    @property
    def name(self) -> str:
        """The card's name, unique in a registry."""
        return self.card.name

    def weights_for(self, dataset: str, norm: Norm | None = None, variant: str = "") -> Weights:
        """Return the weights of that variant trained on dataset; see weights_for."""
        return weights_for(self.card, dataset, norm, variant)


def weights_for(card: Card, dataset: str, norm: Norm | None = None, variant: str = "") -> Weights:
    """Return the weights of that variant trained on dataset, those for norm first.

    Where there are none, those trained on its copies or originals (catalogue.served_by). Raises
    InputError, naming the weights there are, where none fit.
    """
    for trained_on in served_by(dataset):
        fitting = [w for w in card.weights if (w.dataset, w.variant) == (trained_on, variant)]
        if fitting:
            break
    else:
        existing = sorted(
            {f"{full_name(card.name, w.variant)} on {w.dataset}" for w in card.weights}
        )
        name = full_name(card.name, variant)
        # The name of files of the user's own says what they hold, and not where they lie.
        place = "FILES" if is_name_of_files(dataset) else dataset
        raise InputError(
            f"model {name!r} has no weights for dataset {dataset!r}; "
            f"there are weights for: {', '.join(existing) or 'none'}. "
            f"Train some: dynbench train --model {name} --dataset {place}"
        )
    return min(fitting, key=lambda weights: weights.norm != norm)


def full_name(name: str, variant: str) -> str:
    """Return NAME, or NAME/VARIANT: how the command line names a set of weights."""
    return f"{name}/{variant}" if variant else name


def split_name(model_name: str) -> tuple[str, str]:
    """Return the name and the variant of NAME/VARIANT; the variant is empty where none is given."""
    name, _, variant = model_name.partition("/")
    return name, variant
