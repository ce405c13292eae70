"""Counterexamples: down the margins, from minimisers of relaxations and other points of balls."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.branch_and_bound.bounding import Rows
from robustbench_dyn.certification.branch_and_bound.margins import Margins

# Gives the logits of points, (n, *input_shape), float64; differentiable.
Logits = Callable[[Tensor], Tensor]


def from_minimisers(
    logits: Logits, ball: Ball, margins: Margins, rows: Rows, *, n_steps: int, most: int | None
) -> dict[int, Tensor]:
    """Search from the minimisers of relaxations; most: of so many of each example, the best ones.

    Returns what from_points does.
    """
    example = rows.example
    x = ball.minimiser(rows.ascent.coefficients.double().view(-1, *ball.shape), example)
    if most is None:
        return from_points(logits, ball, margins, example, rows.margins, x, n_steps=n_steps)
    values = (logits(x) * margins.coefficients[example, rows.margins]).sum(dim=1)
    order = (values - margins.limits[example, rows.margins]).argsort()
    order = order[example[order].argsort(stable=True)]
    _, counts = torch.unique_consecutive(example[order], return_counts=True)
    firsts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    best = order[torch.arange(len(order), device=order.device) - firsts < most]
    return from_points(
        logits, ball, margins, example[best], rows.margins[best], x[best], n_steps=n_steps
    )


@torch.enable_grad()
def from_points(
    logits: Logits,
    ball: Ball,
    margins: Margins,
    example: Tensor,
    which: Tensor,
    start: Tensor,
    *,
    n_steps: int,
) -> dict[int, Tensor]:
    """Return a counterexample of each example where one is found, by the example.

    example, which: (n,), the example and its margin; start: (n, *input_shape), points of its ball.
    From there it takes steps of Frank and Wolfe: towards the minimiser of the linearised margin,
    ever shorter ones.
    """
    objectives, limits = margins.coefficients[example, which], margins.limits[example, which]
    x, found = start, dict[int, Tensor]()
    for step in range(n_steps + 1):
        x = x.detach().requires_grad_(step < n_steps)
        values = (logits(x) * objectives).sum(dim=1) - limits
        below = (values.detach() <= 0).nonzero().flatten()
        # Of each example the point of the least value.
        for row in below[values.detach()[below].argsort(stable=True)].tolist():
            found.setdefault(int(example[row]), x[row].detach())
        left = (~torch.isin(example, example[below])).nonzero().flatten()
        if step == n_steps or not len(left):
            break
        (gradient,) = torch.autograd.grad(values.sum(), x)
        corner = ball.minimiser(gradient[left], example[left])
        x = x[left] + (corner - x[left]) / (1 + step / 2)
        objectives, limits, example = objectives[left], limits[left], example[left]
    return found
