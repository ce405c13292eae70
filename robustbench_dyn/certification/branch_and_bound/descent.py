"""Counterexamples near the minimisers of relaxations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball


@torch.enable_grad()
def counterexamples(
    logits: Callable[[Tensor], Tensor],
    ball: Ball,
    objectives: Tensor,
    limits: Tensor,
    start: Tensor,
    example: Tensor,
    *,
    n_steps: int,
) -> dict[int, Tensor]:
    """Return a point of the ball where an objective is at most its limit, by example, where found.

    logits: of points (n, *input_shape), float64, differentiable. objectives: (n, classes);
    limits: (n,); start: (n, *input_shape), points of the balls of the examples, (n,). From there it
    takes steps of Frank and Wolfe: towards the minimiser of the linearised objective, ever shorter
    ones.
    """
    x, found = start, dict[int, Tensor]()
    for step in range(n_steps + 1):
        x = x.detach().requires_grad_(step < n_steps)
        values = (logits(x) * objectives).sum(dim=1) - limits
        below = (values.detach() <= 0).nonzero().flatten()
        if len(below):
            # The first of each example is the one of its least value.
            below = below[values.detach()[below].argsort(stable=True)]
            for owner, row in zip(example[below].tolist(), below.tolist(), strict=True):
                found.setdefault(owner, x[row].detach())
        left = (~torch.isin(example, example[below])).nonzero().flatten()
        if step == n_steps or not len(left):
            break
        (gradient,) = torch.autograd.grad(values.sum(), x)
        corner = ball.minimiser(gradient[left], example[left])
        x = x[left] + (corner - x[left]) / (1 + step / 2)
        objectives, limits, example = objectives[left], limits[left], example[left]
    return found
