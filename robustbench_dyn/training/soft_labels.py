"""Labels that are drawn from the probabilities of a trained network, as in distillation."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from robustbench_dyn.errors import InputError
from robustbench_dyn.models.architectures import split_name, weights_for
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.loading import find_architecture, load_model
from robustbench_dyn.models.sources import is_from_source
from robustbench_dyn.strict_yaml import StrictFile


class SoftLabels(StrictFile):
    """The teacher, and how often an example takes its label (Hinton et al., arXiv 1503.02531).

    teacher: a model with weights for the data set, such as euler_resnet/pgd. share: in each epoch,
    an example has with this probability a label drawn from the teacher's softmax at `temperature`,
    and else its own; so every loss, also one of certified radii, is on average that of the mixed
    probabilities.
    """

    teacher: str
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0


@torch.no_grad()
def label_probabilities(
    soft: SoftLabels, dataset: str, x: Tensor, y: Tensor, *, n_classes: int, device: str
) -> Tensor:
    """Return the probability of each label for each example, (n, n_classes).

    x: (n, channels, height, width), y: (n,). Raises InputError where the teacher has no weights
    for the data set, or has other inputs or classes.
    """
    teacher = load_model(soft.teacher, dataset=dataset).to(device)
    try:
        with frozen_eval(teacher):
            parts = [teacher(part.to(device)).cpu() for part in torch.split(x, 500)]
    except RuntimeError as error:
        raise InputError(
            f"the teacher {soft.teacher!r} cannot classify inputs of shape {tuple(x.shape[1:])}: "
            f"{error}"
        ) from error
    logits = torch.cat(parts).float()
    if logits.shape != (len(x), n_classes):
        raise InputError(
            f"the teacher {soft.teacher!r} returns {tuple(logits.shape[1:])} logits an example; "
            f"{dataset} has {n_classes} classes"
        )
    taught = (logits / soft.temperature).softmax(dim=1)
    return torch.lerp(F.one_hot(y, n_classes).float(), taught, soft.share)


def seconds_of_teacher(soft: SoftLabels, dataset: str) -> float:
    """Return the seconds of the teacher's training, 0 where they are not known."""
    if is_from_source(soft.teacher):
        return 0.0
    name, variant = split_name(soft.teacher)
    _, card = find_architecture(name)
    return weights_for(card, dataset, None, variant).training_seconds or 0.0


def draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Return a label for each row of probabilities, (n, classes)."""
    return torch.multinomial(probabilities, 1, generator=generator).flatten()
