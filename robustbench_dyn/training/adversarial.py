"""Training examples at their worst: projected gradient ascent on the loss (arXiv 1706.06083)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from robustbench_dyn.strict_yaml import StrictFile
from robustbench_dyn.threat_models import Norm, ThreatModel, project


class Adversary(StrictFile):
    """Where each training example may be moved to, and in how many steps of 2.5 eps / n_steps."""

    norm: Norm
    eps: Annotated[float, Field(gt=0)]
    n_steps: Annotated[int, Field(ge=1)] = 5


def perturb(
    model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor], adversary: Adversary,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Return each input at the end of an ascent from a random point of its ball, x's shape.

    x: (batch, *input_shape) in [0, 1]. loss: from logits to a number. The model's gradients are
    left alone; it runs in the mode that it is in.
    """
    threat_model = ThreatModel(adversary.norm, adversary.eps)
    length = 2.5 * adversary.eps / adversary.n_steps
    noise = torch.randn(x.shape, generator=generator).to(x)
    x_adv = project(x + _scaled(noise, adversary.norm, adversary.eps), x, threat_model)
    for _ in range(adversary.n_steps):
        x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(x_adv)), x_adv)
        moved = x_adv.detach() + _scaled(gradient, adversary.norm, length)
        x_adv = project(moved, x, threat_model)
    return x_adv.detach()


def _scaled(direction: Tensor, norm: Norm, length: float) -> Tensor:
    """Return the steepest step of that length in L2 or Linf; L1 steps go the L2 way."""
    if norm == "Linf":
        return length * direction.sign()
    size = direction.flatten(1).norm(dim=1).clamp_min(1e-12)
    return length * direction / size.reshape(-1, *[1] * (direction.dim() - 1))
