"""Projected gradient ascent in expectation over noise, for classifiers that draw some."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from robustbench_dyn.attacks.directions import unit_l2
from robustbench_dyn.threat_models import project

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.threat_models import ThreatModel


def eot_pgd(
    log_probabilities: Callable[[Tensor, int], Tensor],
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    n_steps: int = 20,
) -> Tensor:
    """Return where each ascent from x ends, a point of the threat model; x's shape.

    log_probabilities(x_adv, step): logarithms of the mean probabilities over fresh noise,
    (batch, classes), as the objective (S) of SmoothAdv has them (arXiv 1906.04584); gradients of
    such means are those of expectation over transformation (arXiv 1707.07397, Section 2.1). What
    is climbed is the best rival's lead, which does not saturate as the label's probability does.
    x: (batch, *input_shape) in [0, 1]; y: (batch,).
    """
    x_adv = x.detach()
    for step in range(n_steps):
        x_adv = x_adv.detach().requires_grad_()
        with torch.enable_grad():
            scores = log_probabilities(x_adv, step)
            rivals = scores.scatter(1, y[:, None], -torch.inf)
            lead = rivals.amax(dim=1) - scores.gather(1, y[:, None])[:, 0]
            (gradient,) = torch.autograd.grad(lead.sum(), x_adv)
        # Steps that shrink to nothing, so that noise does not have the last word: 2.5 eps in all.
        length = 5 * threat_model.eps / n_steps * (1 - step / n_steps)
        moved = x_adv.detach() + length * _steepest(gradient, threat_model)
        x_adv = project(moved, x, threat_model)
    return x_adv


def _steepest(gradient: Tensor, threat_model: ThreatModel) -> Tensor:
    """Return the direction of length 1 in Linf or L2; L1 goes the L2 way."""
    if threat_model.norm == "Linf":
        return gradient.sign()
    return unit_l2(gradient)
