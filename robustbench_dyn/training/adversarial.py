"""Adversarial training: projected gradient ascent on the loss (arXiv 1706.06083)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from robustbench_dyn.strict_yaml import Eps, StrictFile
from robustbench_dyn.threat_models import Norm, ThreatModel, project


class Adversary(StrictFile):
    """The ball of each training example, and the number of steps, of size 2.5 eps / n_steps."""

    norm: Norm
    eps: Eps
    n_steps: Annotated[int, Field(ge=1, le=10_000)] = 5


def perturb(
    model: nn.Module,
    x: Tensor,
    loss: Callable[[Tensor], Tensor],
    adversary: Adversary,
    generator: torch.Generator,
) -> Tensor:
    """Return adversarial inputs, of the shape of x: PGD from a random point of each ball.

    x: (batch, *input_shape) in [0, 1]. loss: maps logits to a scalar. The parameters' gradients
    and the train/eval mode of the model stay as they are.
    """
    threat_model = ThreatModel(adversary.norm, adversary.eps)
    step_size = 2.5 * adversary.eps / adversary.n_steps
    noise = torch.randn(x.shape, generator=generator).to(x)
    x_adv = project(x + _step(noise, adversary.norm, adversary.eps), x, threat_model)
    for _ in range(adversary.n_steps):
        x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(x_adv)), x_adv)
        moved = x_adv.detach() + _step(gradient, adversary.norm, step_size)
        x_adv = project(moved, x, threat_model)
    return x_adv.detach()


def _step(direction: Tensor, norm: Norm, length: float) -> Tensor:
    """Return the steepest step of this length in L2 or Linf; L1 uses the L2 direction."""
    if norm == "Linf":
        return length * direction.sign()
    size = direction.flatten(1).norm(dim=1).clamp_min(1e-12)
    return length * direction / size.reshape(-1, *[1] * (direction.dim() - 1))
