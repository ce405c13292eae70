"""What a plugin declares: a strict card, and a function that builds the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustbench_dyn.errors import InputError
from robustbench_dyn.threat_models import Norm

if TYPE_CHECKING:
    from torch import nn

Option = bool | int | float | str
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StrictFile(BaseModel):
    """A file that a person writes: an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Weights(StrictFile):
    """One trained set of weights: which data and norm it was trained for, and by which recipe."""

    file: str
    sha256: Sha256
    dataset: str
    norm: Norm | None = None
    recipe: str
    options: dict[str, Option] = {}


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

    def weights_for(self, dataset: str, norm: Norm | None = None) -> Weights:
        """Return the weights trained on dataset, those for norm first.

        Raises InputError, naming what there is, where no weights fit.
        """
        fitting = [weights for weights in self.card.weights if weights.dataset == dataset]
        if not fitting:
            there = sorted({weights.dataset for weights in self.card.weights})
            raise InputError(
                f"model {self.name!r} has no weights for dataset {dataset!r}; "
                f"it has weights for: {', '.join(there) or 'none'}. "
                f"Train some: dynbench train --model {self.name} --dataset {dataset}"
            )
        return min(fitting, key=lambda weights: weights.norm != norm)


_File = TypeVar("_File", bound=StrictFile)


def read_yaml(path: Path, schema: type[_File]) -> _File:
    """Read a YAML file strictly; raise InputError in one line where it breaks its schema."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {_one_line(str(error))}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a mapping of keys to values")
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {'; '.join(_explain(error, schema))}") from error


def _explain(error: ValidationError, schema: type[BaseModel]) -> Iterable[str]:
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = ", ".join(schema.model_fields)
            yield f"unknown key {place!r} (the keys are: {known})"
        elif problem["type"] == "missing":
            yield f"the key {place!r} is missing"
        else:
            yield f"{place}: {_one_line(problem['msg'])} (it is {problem['input']!r})"


def _one_line(text: str) -> str:
    return " ".join(text.split())
