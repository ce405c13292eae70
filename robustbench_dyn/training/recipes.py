"""Training recipes: the settings in a plugin's recipes/*.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from robustbench_dyn.datasets.catalogue import served_by
from robustbench_dyn.errors import InputError
from robustbench_dyn.models.architectures import Architecture
from robustbench_dyn.names import check_name
from robustbench_dyn.strict_yaml import Name, Option, Variant, read_yaml
from robustbench_dyn.threat_models import Norm
from robustbench_dyn.training.adversarial import Adversary
from robustbench_dyn.training.augmentation import Augmentation
from robustbench_dyn.training.certified import CertifiedTraining
from robustbench_dyn.training.losses import Loss
from robustbench_dyn.training.optimizers import Decay, OptimizerSettings
from robustbench_dyn.training.soft_labels import SoftLabels


def _checked_name(name: str) -> str:
    check_name(name, "data set")
    return name


DatasetName = Annotated[str, AfterValidator(_checked_name)]
# A million times the seed must stay a 64-bit integer (loop.py).
Seed = Annotated[int, Field(ge=-(2**40), le=2**40)]


# Of which the recipe is taken where the user names none.
_USUAL = "fashion_mnist"


class Recipe(OptimizerSettings):
    """All settings of a training, as recipes/*.yaml holds them.

    optimizer and the other keys of OptimizerSettings: of the whole network, or of all but its head
    where head_optimizer has others for the head. weights_from: a set of weights of this model for
    the data set, such as NAME/VARIANT, with which the training begins; features_from: one with
    whose features it begins, and with a new head. soft_labels: draw some labels from a trained
    network (soft_labels.py).
    orthogonality: weight of the orthogonality penalty (losses.py). decay: step decay instead of
    the one-cycle schedule. averaging: the share that the average of the weights keeps in each step
    (averaging.py), such as 0.999; 0 for the last weights. precision: of the forward pass; bfloat16
    only on devices on which it is fast (precision.py). held_out: so many examples at the end of the
    training split are not trained on; settings are chosen by the accuracies on them. variant: name
    of the weights, for an architecture with several sets of weights for one data set.
    """

    model: Name
    dataset: DatasetName
    norm: Norm | None = None
    variant: Variant = ""
    held_out: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    options: dict[str, Option] = Field(default_factory=dict)
    loss: Loss = Loss()
    augmentation: Augmentation = Augmentation()
    adversary: Adversary | None = None
    certified_training: CertifiedTraining | None = None
    soft_labels: SoftLabels | None = None
    orthogonality: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    head_optimizer: OptimizerSettings | None = None
    weights_from: str | None = None
    features_from: str | None = None
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.0
    warmup: Annotated[float, Field(gt=0, lt=1)] = 0.2
    decay: Decay | None = None
    epochs: Annotated[int, Field(ge=1, le=1_000_000)]
    batch_size: Annotated[int, Field(ge=1, le=10_000_000)] = 256
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Seed = 0

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.adversary is not None and self.augmentation.noise:
            raise ValueError(
                "augmentation.noise leaves [0, 1], and an adversary must not; drop one of them"
            )
        if self.weights_from is not None and self.features_from is not None:
            raise ValueError("a training begins at one set of weights; drop features_from")
        self._check_mixes()
        self._check_certified_training()
        if self.loss.of_margins and (self.adversary or self.certified_training):
            raise ValueError(
                f"loss kind {self.loss.kind} certifies by itself; drop adversary and "
                "certified_training"
            )
        if self.decay is not None and self.warmup != type(self).model_fields["warmup"].default:
            raise ValueError("warmup belongs to the one-cycle schedule; drop warmup or decay")
        return self

    def _check_mixes(self) -> None:
        plain = self.loss.kind == "cross_entropy" and not (self.loss.offset or self.loss.annealing)
        others = self.adversary is not None or self.certified_training is not None
        if self.augmentation.mixes and (others or not plain):
            raise ValueError(
                "mixup and cutmix give an image two labels, between which there is no margin: they "
                "need cross_entropy without offset and annealing, and neither adversary nor "
                "certified_training; drop them"
            )

    def _check_certified_training(self) -> None:
        certified = self.certified_training
        if certified is None:
            return
        if self.adversary is not None or self.augmentation.noise:
            other = "adversary" if self.adversary is not None else "augmentation.noise"
            raise ValueError(f"certified_training and {other} exclude each other; drop one of them")
        if self.precision != "float32":
            raise ValueError("certified_training needs precision float32")
        if certified.warm_up_epochs + certified.ramp_epochs >= self.epochs:
            raise ValueError(
                "warm_up_epochs + ramp_epochs of certified_training must be less than "
                f"epochs={self.epochs}, so that training reaches the full eps"
            )


def find_recipe(architecture: Architecture, dataset: str | None, variant: str = "") -> Path:
    """Return the path of a plugin's recipe: DATASET.yaml, or DATASET-VARIANT.yaml.

    dataset: None, as for files of the user's own, for that of Fashion-MNIST, or else the only one.
    A data set without a recipe has that of its copies or originals (catalogue.served_by).
    Raises InputError, naming the existing recipes, if there is no such file.
    """
    folder = architecture.folder / "recipes"
    existing = sorted(path.name for path in folder.glob("*.yaml"))
    if dataset is None:
        of_variant = [name for name in existing if name.endswith(f"{variant}.yaml")]
        usual = _file_of(_USUAL, variant)
        name = of_variant[0] if usual not in existing and len(of_variant) == 1 else usual
    else:
        check_name(f"{dataset}/{variant}" if variant else dataset, "recipe")
        names = [_file_of(one, variant) for one in served_by(dataset)]
        name = next((name for name in names if name in existing), names[0])
    if name not in existing:
        raise InputError(
            f"model {architecture.name!r} has no recipe {name} (it has: "
            f"{', '.join(existing) or 'none'}); give one with --recipe FILE, and another data set "
            "for it with --dataset"
        )
    return folder / name


def _file_of(dataset: str, variant: str) -> str:
    return f"{dataset}-{variant}.yaml" if variant else f"{dataset}.yaml"


def read_recipe(path: Path) -> Recipe:
    """Read a recipe strictly; raises InputError where it breaks the schema."""
    return read_yaml(path, Recipe)
