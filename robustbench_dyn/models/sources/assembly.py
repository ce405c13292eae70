"""A model of a source with its preprocessing, held to the data set, and with an identity."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from robustbench_dyn.datasets import DATASETS, dataset_info
from robustbench_dyn.errors import InputError
from robustbench_dyn.models.sources.base import Loaded, Preprocessing, Task
from robustbench_dyn.models.sources.catalogue import source_of
from robustbench_dyn.names import check_name

if TYPE_CHECKING:
    from torch import nn

    from robustbench_dyn.models.identity import ModelIdentity
    from robustbench_dyn.threat_models import Norm


class Assembled(NamedTuple):
    """A model, its identity, and what its source said of it."""

    model: nn.Module
    identity: ModelIdentity
    loaded: Loaded


def load_from_source(
    model_name: str,
    *,
    dataset: str | None = None,
    norm: Norm | None = None,
    weights: Path | str | None = None,
) -> Assembled:
    """Load a model by SOURCE:REFERENCE, in eval mode, on the CPU.

    dataset: held to the classes and the input shape that the model states, where it is given.
    weights: a file of weights of the user's own. Raises InputError for an unknown source or model
    and where the model does not fit the data set, and else what Source.load raises.
    """
    source, reference, local = source_of(model_name)
    source.check_weights(weights)
    task = _task(dataset, norm)
    name = source.table_name(reference) if local else model_name
    check_name(name, "model")
    path = Path(weights) if weights is not None else None
    loaded = source.load(reference, task, path, local=local)
    _check_fit(model_name, loaded, task)
    from robustbench_dyn.models.validation import check_precision

    model = _classifier(loaded).eval()
    check_precision(model)
    return Assembled(model, _identified(model, loaded, name), loaded)


def facts(model_name: str, *, weights: Path | str | None = None) -> dict[str, Any]:
    """Load a model and return what is known of it, for a reader: name, library, shapes, hashes."""
    model, identity, loaded = load_from_source(model_name, weights=weights)
    return {
        "name": model_name,
        "in tables": identity.name,
        "library": loaded.library or "code of your own",
        "input": "x".join(map(str, loaded.input_shape or ())) or "not stated",
        "classes": loaded.n_classes or "not stated",
        "preprocessing": _described(loaded.preprocessing),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights_sha256": identity.weights_sha256,
    }


def _described(preprocessing: Preprocessing) -> str:
    steps = []
    if preprocessing.size is not None:
        height, width = preprocessing.size
        steps.append(f"other sizes are resized to {height}x{width} ({preprocessing.interpolation})")
    if preprocessing.flipped:
        steps.append("channels in reverse order")
    if preprocessing.mean:
        mean, std = (
            ", ".join(f"{one:g}" for one in values)
            for values in (preprocessing.mean, preprocessing.std)
        )
        steps.append(f"mean {mean}; standard deviation {std}")
    return "; ".join(steps) or "none"


def _task(dataset: str | None, norm: Norm | None) -> Task:
    if dataset is None:
        return Task(norm=norm)
    info = dataset_info(dataset)
    return Task(dataset, norm, tuple(info.input_shape) or None, info.n_classes or None)


def _check_fit(model_name: str, loaded: Loaded, task: Task) -> None:
    """Raise InputError where what a model states cannot be true of the data set's examples."""
    if task.n_classes is not None and loaded.n_classes is not None:
        # Files of a user's own hold some of the classes, maybe; a data set of ours has its own.
        partial = task.dataset not in DATASETS and task.n_classes < loaded.n_classes
        if task.n_classes != loaded.n_classes and not partial:
            raise InputError(
                f"{model_name} has {loaded.n_classes} classes, and {task.dataset} has "
                f"{task.n_classes}; give a model and a data set of the same classes"
            )
    if task.input_shape is None or loaded.input_shape is None:
        return
    # A network with one channel does not see the others; sizes are made equal where it says how.
    there, wanted = task.input_shape, loaded.input_shape
    same = (
        there[:1] == wanted[:1]
        if loaded.preprocessing.size or len(wanted) == 1
        else there == wanted
    )
    if not same:
        raise InputError(
            f"{model_name} takes inputs of shape {wanted}, and those of {task.dataset} have "
            f"{there}; give a data set of such inputs"
        )


def _classifier(loaded: Loaded) -> nn.Module:
    from robustbench_dyn.models.sources.preprocessing import ImageClassifier

    # A network of a user's own, and one of RobustBench, has its preprocessing inside.
    if loaded.preprocessing == Preprocessing() and not loaded.library.startswith("transformers"):
        return loaded.network
    return ImageClassifier(loaded.network, loaded.preprocessing)


def _identified(model: nn.Module, loaded: Loaded, name: str) -> ModelIdentity:
    """Give a model its identity and remember it.

    The code of a library is told by its version, with the preprocessing.
    """
    from robustbench_dyn.models.identity import (
        ModelIdentity,
        hash_tensors,
        registered_identity,
        remember,
    )

    state = hash_tensors(model.state_dict())
    about = {"library": loaded.library, "preprocessing": asdict(loaded.preprocessing)}
    code = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    identity = ModelIdentity(
        name=name,
        plugin_version=loaded.library,
        code_sha256=loaded.code_sha256 or code,
        weights_sha256=loaded.weights_sha256 or state,
        state_sha256=state,
    )
    remember(model, identity, measured=loaded.measured)
    if registered_identity(model) is None:
        # A network that holds something of which no fingerprint can be taken.
        remember(model, identity, measured=True)
    return identity
