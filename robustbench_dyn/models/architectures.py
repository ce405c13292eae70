"""What a plugin declares: a strict card, and a function that builds the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from robustbench_dyn.errors import InputError
from robustbench_dyn.strict_yaml import Name, Option, Sha256, StrictFile, Variant
from robustbench_dyn.threat_models import Norm

if TYPE_CHECKING:
    from torch import nn


class Weights(StrictFile):
    """One trained set of weights: which data and norm it was trained for, and by which recipe.

    variant: tells apart the sets of one architecture and data set; the default set has none.
    training_seconds: processor time of all threads, wall clock where a GPU trained; None where
    nobody took it down.
    """

    file: str
    sha256: Sha256
    dataset: str
    norm: Norm | None = None
    variant: Variant = ""
    recipe: str
    options: dict[str, Option] = Field(default_factory=dict)
    training_seconds: Annotated[float, Field(ge=0)] | None = None


class Card(StrictFile):
    """What card.yaml says about an architecture; requires: packages that its code imports."""

    name: Name
    family: str
    summary: str
    version: str
    requires: tuple[str, ...] = ()
    properties: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    license: str = "MIT"
    weights: tuple[Weights, ...] = ()

    @field_validator("weights")
    @classmethod
    def _told_apart(cls, weights: tuple[Weights, ...]) -> tuple[Weights, ...]:
        seen = set[tuple[str, str | None, str]]()
        for one in weights:
            key = (one.dataset, one.norm, one.variant)
            if key in seen:
                raise ValueError(
                    f"two sets of weights for {one.dataset} and norm {one.norm} cannot be told "
                    "apart; give one of them a variant"
                )
            seen.add(key)
        return weights


@dataclass(frozen=True)
class Architecture:
    """A plugin that has been loaded: its card, its build function, and where it came from.

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
        """Return the weights of that variant trained on dataset, those for norm first.

        Raises InputError, naming what there is, where no weights fit.
        """
        fitting = [w for w in self.card.weights if (w.dataset, w.variant) == (dataset, variant)]
        if not fitting:
            there = sorted({f"{full_name(self.name, w.variant)} on {w.dataset}"
                            for w in self.card.weights})  # fmt: skip
            name = full_name(self.name, variant)
            raise InputError(
                f"model {name!r} has no weights for dataset {dataset!r}; "
                f"there are weights for: {', '.join(there) or 'none'}. "
                f"Train some: dynbench train --model {name} --dataset {dataset}"
            )
        return min(fitting, key=lambda weights: weights.norm != norm)


def full_name(name: str, variant: str) -> str:
    """Return NAME, or NAME/VARIANT: what a set of weights is called on the command line."""
    return f"{name}/{variant}" if variant else name


def split_name(model_name: str) -> tuple[str, str]:
    """Return the name and the variant of NAME/VARIANT; the variant is empty where none is given."""
    name, _, variant = model_name.partition("/")
    return name, variant
