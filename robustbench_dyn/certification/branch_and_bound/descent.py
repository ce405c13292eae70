"""Counterexamples near the minimisers of relaxations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball


@torch.enable_grad()
def counterexample(
    logits: Callable[[Tensor], Tensor],
    ball: Ball,
    objectives: Tensor,
    limits: Tensor,
    start: Tensor,
    *,
    n_steps: int,
) -> Tensor | None:
    """Return a point of the ball where an objective is at most its limit, or None.

    logits: of points (n, *input_shape), float64, differentiable. objectives: (n, classes);
    limits: (n,); start: (n, *input_shape), a point of the ball for each. From there it takes steps
    of Frank and Wolfe: towards the minimiser of the linearised objective, ever shorter ones.
    """
    x = start
    owners = torch.zeros(len(x), dtype=torch.long)
    for step in range(n_steps + 1):
        x = x.detach().requires_grad_(step < n_steps)
        values = (logits(x) * objectives).sum(dim=1) - limits
        least, at = values.detach().min(dim=0)
        if float(least) <= 0:
            return x[int(at)].detach()
        if step < n_steps:
            (gradient,) = torch.autograd.grad(values.sum(), x)
            corner = ball.minimiser(gradient, owners)
            x = x + (corner - x) / (1 + step / 2)
    return None
