"""Classifiers of torchvision, with the weights that torchvision publishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustbench_dyn.errors import InputError
from robustbench_dyn.models.sources.base import Loaded, Preprocessing, Source, Task
from robustbench_dyn.models.sources.checkpoints import fill_from_file
from robustbench_dyn.models.sources.packages import loading, require, version
from robustbench_dyn.plugins import unknown


class Torchvision(Source):
    """torchvision:NAME, with the newest weights, or torchvision:NAME/WEIGHTS.

    Size, interpolation, mean and standard deviation are those of the weights' own transforms.
    """

    name = "torchvision"
    form = "torchvision:NAME"
    description = "a classifier of torchvision, or NAME/IMAGENET1K_V1 for certain weights"
    extra = "zoo"
    packages = ("torchvision",)
    takes_weights = True

    def load(self, reference: str, task: Task, weights: Path | None, *, local: bool) -> Loaded:
        """Load a model and what the transforms of its weights say."""
        del local
        models = require("torchvision.models", f"torchvision:{reference}", self.install)
        name, _, tag = reference.partition("/")
        known = models.list_models(module=models)
        if name not in known:
            see = "https://pytorch.org/vision/stable/models.html"
            raise InputError(unknown("torchvision classifier", name, known, see=see))
        published = _published(models, name, tag)
        sha256, n_classes = "", len(published.meta["categories"])
        with loading(f"torchvision:{reference}"):
            if weights is None:
                network = models.get_model(name, weights=published, progress=False)
            else:
                n_classes = task.n_classes or n_classes
                network = models.get_model(name, weights=None, num_classes=n_classes)
                sha256 = fill_from_file(network, weights)
            preprocessing = _preprocessing(published.transforms())
        return Loaded(
            network,
            library=version("torchvision"),
            preprocessing=preprocessing,
            input_shape=(3, *(preprocessing.size or ())),
            n_classes=n_classes,
            weights_sha256=sha256,
        )


def _published(models: Any, name: str, tag: str) -> Any:
    sets = models.get_model_weights(name)
    if tag and tag not in sets.__members__:
        raise InputError(unknown(f"set of weights of torchvision:{name}", tag, sets.__members__))
    return sets[tag] if tag else sets.DEFAULT


def _preprocessing(transforms: Any) -> Preprocessing:
    (size,) = transforms.crop_size
    return Preprocessing(
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        size=(size, size),
        interpolation=transforms.interpolation.value,
    )
