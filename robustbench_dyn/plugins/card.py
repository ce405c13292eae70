"""The schema of card.yaml: what a plugin is and brings, known before its code is imported."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from robustbench_dyn.errors import shown
from robustbench_dyn.strict_yaml import Name, Option, Sha256, StrictFile, Variant, matching
from robustbench_dyn.threat_models import Norm

Kind = Literal["architecture", "attacks", "certifiers", "datasets", "operations"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# A distribution's name, as package indexes have it (PEP 508).
Package = Annotated[
    str,
    matching(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", "the name of a package, such as scipy"),
]

_OF_ARCHITECTURES = ("family", "equation", "properties", "weights")


class Weights(StrictFile):
    """One trained set of weights: which data and norm it was trained for, and by which recipe.

    variant: distinguishes the sets of one architecture and data set; the default set has none.
    training_seconds: processor time of all threads, wall clock where a GPU trained; None where it
    was not measured.
    """

    file: str
    sha256: Sha256
    dataset: str
    norm: Norm | None = None
    variant: Variant = ""
    recipe: str
    options: dict[str, Option] = Field(default_factory=dict)
    training_seconds: Annotated[float, Field(ge=0)] | None = None

    @field_validator("file")
    @classmethod
    def _inside_the_plugin(cls, file: str) -> str:
        path = PurePosixPath(file)
        if not path.name or path.is_absolute() or ".." in path.parts or not file.isprintable():
            raise ValueError(f"{shown(file)} must be a file in the plugin's folder, without '..'")
        return file


class Card(StrictFile):
    """The content of card.yaml.

    provides: the kinds of things that the plugin's __init__.py defines. requires: packages that its
    code imports. family, equation, properties and weights belong to an architecture: family is
    required there, and other plugins have none of the four. equation: lines of Unicode text, for
    readers.
    """

    name: Name
    summary: str
    version: str
    provides: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("architecture",)
    family: str = ""
    equation: tuple[str, ...] = ()
    requires: tuple[Package, ...] = ()
    properties: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    license: str = "MIT"
    weights: tuple[Weights, ...] = ()

    @field_validator("weights")
    @classmethod
    def _distinct(cls, weights: tuple[Weights, ...]) -> tuple[Weights, ...]:
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

    @model_validator(mode="after")
    def _keys_of_architectures(self) -> Self:
        if "architecture" in self.provides:
            if not self.family:
                raise ValueError("the key 'family' is missing; an architecture needs one")
            return self
        given = [key for key in _OF_ARCHITECTURES if getattr(self, key)]
        if given:
            raise ValueError(
                f"the key {given[0]!r} is for architectures, and provides names "
                f"{', '.join(self.provides)} alone; add architecture to it or leave the key out"
            )
        return self
