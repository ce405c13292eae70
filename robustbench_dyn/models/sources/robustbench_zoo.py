"""Models of RobustBench's zoo, loaded by its own loader, with its data sets and threat models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from robustbench_dyn.datasets.search_path import cache_folder
from robustbench_dyn.errors import InputError
from robustbench_dyn.models.sources.base import Defaults, Loaded, Source, Task
from robustbench_dyn.models.sources.packages import loading, require, version
from robustbench_dyn.plugins import unknown
from robustbench_dyn.threat_models import Norm

INSTALL = "'robustbench-dyn[robustbench]'"
# Of its own evaluation and data sets, which are not used here.
_UNUSED = ("autoattack", "autoattack.state", "pkg_resources")
# The order in which RobustBench itself looks: its default is cifar10 in Linf.
_NORMS: tuple[Norm, ...] = ("Linf", "L2")
# Of its leaderboards, https://robustbench.github.io
_EPS: dict[tuple[str, Norm], float] = {
    ("cifar10", "Linf"): 8 / 255,
    ("cifar10", "L2"): 0.5,
    ("cifar100", "Linf"): 8 / 255,
    ("imagenet", "Linf"): 4 / 255,
}
_SIZES = {"cifar10": 32, "cifar100": 32, "imagenet": 224}
_CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}


class _Place(NamedTuple):
    """Where the zoo has a model; threat_model: Linf, L2 or corruptions."""

    dataset: str
    threat_model: str


class RobustBench(Source):
    """robustbench:NAME, as https://robustbench.github.io names it."""

    name = "robustbench"
    form = "robustbench:NAME"
    description = "a model of RobustBench's zoo; data set, norm and eps are its own"
    extra = "robustbench"
    packages = ("robustbench",)

    def load(self, reference: str, task: Task, weights: Path | None, *, local: bool) -> Loaded:
        """Load a model by RobustBench's loader, which downloads it where it is not here.

        The checkpoint is looked for in ./models, as RobustBench does, and kept in the user's cache.
        """
        del weights, local
        place, entry = _find(reference, task)
        utils = _require("utils", reference)
        with loading(f"robustbench:{reference}"):
            network = utils.load_model(
                reference,
                model_dir=_folder(reference, place),
                dataset=place.dataset,
                threat_model=place.threat_model,
            )
        return Loaded(
            network,
            library=version("robustbench"),
            input_shape=(3, *(_size(place.dataset, entry),) * 2),
            n_classes=_CLASSES[place.dataset],
        )

    def defaults(self, reference: str, task: Task) -> Defaults:
        """Return the data set, norm and eps of the leaderboard that has the model."""
        place, _ = _find(reference, task)
        norm = task.norm or next((n for n in _NORMS if n == place.threat_model), None)
        eps = None if norm is None else _EPS.get((place.dataset, norm))
        return Defaults(dataset=place.dataset, norm=norm, eps=eps)


def _require(module: str, name: str) -> Any:
    return require(f"robustbench.{module}", f"robustbench:{name}", INSTALL, without=_UNUSED)


def _find(name: str, task: Task) -> tuple[_Place, dict[str, Any]]:
    """Return where the zoo has a model for a task, and its entry there."""
    zoo = _require("model_zoo", name).model_dicts
    there = {
        _Place(dataset.value, threat_model.value): models
        for dataset, by_threat in zoo.items()
        for threat_model, models in by_threat.items()
        if not threat_model.value.endswith("_3d")  # the same models as without
    }
    places = [place for place, models in there.items() if name in models]
    if not places:
        known = {model for models in there.values() for model in models}
        see = "https://robustbench.github.io"
        raise InputError(unknown("RobustBench model", name, sorted(known), see=see))
    fitting = [place for place in places if task.dataset in (None, place.dataset)]
    if not fitting:
        trained = ", ".join(sorted({place.dataset for place in places}))
        raise InputError(
            f"RobustBench has {name} for {trained}, and not for {task.dataset}; "
            f"give --dataset {places[0].dataset}, or leave --dataset out"
        )
    wanted = [task.norm, *_NORMS]
    place = min(
        fitting,
        key=lambda p: wanted.index(p.threat_model) if p.threat_model in wanted else len(wanted),
    )
    return place, there[place][name]


def _folder(name: str, place: _Place) -> Path:
    """Return the folder of checkpoints: ./models where the model lies there, else the cache."""
    own = Path("models")
    held = (own / place.dataset / place.threat_model).glob(f"{name}.pt*")
    return own if any(file.stem.startswith(name) for file in held) else cache_folder() / "models"


def _size(dataset: str, entry: dict[str, Any]) -> int:
    """Return the side of the images of a model: of ImageNet's, that of the crop before it."""
    crop = re.search(r"Crop(\d+)", str(entry.get("preprocessing", "")))
    return int(crop[1]) if crop and dataset == "imagenet" else _SIZES[dataset]
