"""A linear classifier, whose nearest adversarial examples are known exactly in each norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustbench_dyn.threat_models import Norm, ThreatModel

_SHAPE = (1, 4, 4)
# Of so many directions for each example, enough lead away from the boundaries.
_DRAWS = 32
# The norm of a gradient that is dual to the norm of a step: steps of size eps ascend eps times it.
_DUAL: dict[Norm, float] = {"Linf": 1.0, "L2": 2.0, "L1": math.inf}


class Halfspaces(nn.Module):
    """Logits w_j . (x - 1/2), with weights drawn from a fixed seed; x: (batch, 1, 4, 4).

    Each row is computed by itself, so that its logits do not depend on the size of the batch.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(n_classes, *_SHAPE, generator=generator))
        # Only in train mode: a search that does not put the model into eval mode sees noise.
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, classes)."""
        logits: Tensor = ((self.dropout(x) - 0.5)[:, None] * self.weight).flatten(2).sum(dim=2)
        return logits

    def surrogates(self) -> dict[str, nn.Module]:
        """Return one surrogate, for attacks that transfer from it."""
        return {"twin": Halfspaces(len(self.weight))}


def examples_at_distance(
    model: Halfspaces, n: int, norm: Norm, reach: float
) -> tuple[Tensor, Tensor]:
    """Return n examples at the distance `reach` from their nearest boundary, and their labels.

    x: (n, 1, 4, 4) float32; y: (n,). The distance is min_j (w_y - w_j) . (x - 1/2) / |w_y - w_j|
    in the dual norm, which is linear along rays from the middle of the box. All examples have
    entries in [1/4, 3/4], so that [0, 1] is in the way of no step of less than 1/4 in Linf.
    """
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(_DRAWS * n, *_SHAPE, generator=generator, dtype=torch.float64)
    weight = model.weight.detach().double()
    y = (direction[:, None] * weight).flatten(2).sum(dim=2).argmax(dim=1)
    distances = _distances(weight, direction, y, norm).amin(dim=1)
    offset = (reach / distances).reshape(-1, 1, 1, 1) * direction
    inside = (offset.flatten(1).abs().amax(dim=1) <= 0.25).nonzero()[:n, 0]
    return (0.5 + offset[inside]).float(), y[inside]


def step_across(model: Halfspaces, x: Tensor, y: Tensor, threat_model: ThreatModel) -> Tensor:
    """Return x, moved by eps in the steepest direction towards the nearest boundary."""
    weight = model.weight.detach()
    nearest = _distances(weight, x - 0.5, y, threat_model.norm).argmin(dim=1)
    gradient = (weight[nearest] - weight[y]).flatten(1)
    if threat_model.norm == "Linf":
        step = gradient.sign()
    elif threat_model.norm == "L2":
        step = gradient / gradient.norm(dim=1, keepdim=True)
    else:
        largest = gradient.abs().argmax(dim=1, keepdim=True)
        step = torch.zeros_like(gradient).scatter(1, largest, gradient.gather(1, largest).sign())
    return x + threat_model.eps * step.reshape(x.shape)


def _distances(weight: Tensor, offset: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """Return the distance of 1/2 + offset to each class, (n, classes); inf to its label."""
    towards = (weight[y][:, None] - weight[None]).flatten(2)
    margins = (towards * offset.flatten(1)[:, None]).sum(dim=2)
    distances = margins / towards.norm(p=_DUAL[norm], dim=2)
    return distances.scatter(1, y[:, None], math.inf)
