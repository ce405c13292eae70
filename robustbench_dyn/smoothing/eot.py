"""Projected gradient ascent in expectation over the noise of a smoothed classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_dyn.attacks.native.batched_search import lead_of
from robustbench_dyn.attacks.native.directions import steepest
from robustbench_dyn.threat_models import ThreatModel, project


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
    such means are those of expectation over transformation (arXiv 1707.07397, Section 2.1). It
    ascends the lead of the likeliest other class, which does not saturate as the label's
    probability does.
    x: (batch, *input_shape) in [0, 1]; y: (batch,).
    """
    x_adv = x.detach()
    for step in range(n_steps):
        x_adv = x_adv.detach().requires_grad_()
        with torch.enable_grad():
            scores = log_probabilities(x_adv, step)
            (gradient,) = torch.autograd.grad(-lead_of(scores, y).sum(), x_adv)
        # Steps that shrink to nothing, so that the last ones average noise out: 2.5 eps in all.
        length = 5 * threat_model.eps / n_steps * (1 - step / n_steps)
        moved = x_adv.detach() + length * steepest(gradient, threat_model.norm)
        x_adv = project(moved, x, threat_model)
    return x_adv
