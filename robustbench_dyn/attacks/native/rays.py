"""RayS, a search on predictions alone for Linf (Chen & Gu, arXiv 2006.12792).

It searches the corners of balls in Linf: directions of signs, in which blocks are flipped, the
larger ones first. A flip is kept where the point at the smallest radius so far is adversarial, and
the radius then shrinks by bisection. It draws nothing at random.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from robustbench_dyn.attacks.native.batched_search import fools, logits_of

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.attacks.problem import AttackProblem

_BISECTIONS = 12
# A batch is filled up to so many rows with later flips of a direction; the first success counts.
_FULL = 64
_LARGEST_RADIUS = 1.0


def rays(problem: AttackProblem, *, n_queries: int = 10_000) -> Tensor:
    """Return the adversarial examples found within eps, (n, C, H, W), and x where there is none.

    An example ends as soon as it is within eps, or after n_queries predictions. Linf only.
    """
    found = problem.x.clone()
    examples = torch.arange(len(found), device=found.device)
    for part in torch.split(examples, max(_FULL, problem.batch_size)):
        found[part] = _search(problem.rows(part), n_queries)
    return found


class _Rows(NamedTuple):
    """Searches under way, one row an example; place: how many flips were tried."""

    example: Tensor
    x: Tensor
    y: Tensor
    signs: Tensor
    radius: Tensor
    place: Tensor
    queries: Tensor

    def select(self, kept: Tensor) -> _Rows:
        """Keep some rows only."""
        return _Rows(*(t[kept] for t in self))

    def points(self, radius: Tensor, signs: Tensor, rows: Tensor) -> Tensor:
        """Return the points at a radius in a direction of signs (n, d), for rows (n,)."""
        x = self.x[rows]
        return (x.flatten(1) + radius[:, None] * signs).clamp(0, 1).reshape(x.shape)


def _search(problem: AttackProblem, n_queries: int) -> Tensor:
    found, x, eps = problem.x.clone(), problem.x, problem.threat_model.eps
    starts, ends = _blocks(math.prod(x.shape[1:]), x.device)
    pixel = torch.arange(math.prod(x.shape[1:]), device=x.device)
    zeros = torch.zeros_like(problem.y)
    rows = _Rows(
        example=torch.arange(len(x), device=x.device),
        x=x,
        y=problem.y,
        signs=torch.ones_like(x).flatten(1),
        radius=torch.full_like(problem.y, _LARGEST_RADIUS, dtype=x.dtype),
        place=zeros,
        queries=zeros,
    )
    while len(rows.x):
        ahead = max(1, _FULL // len(rows.x))
        row = torch.arange(len(rows.x), device=x.device).repeat_interleave(ahead)
        later = torch.arange(ahead, device=x.device).repeat(len(rows.x))
        place = rows.place.repeat_interleave(ahead) + later
        k = place % len(starts)
        flipped = (pixel >= starts[k][:, None]) & (pixel < ends[k][:, None])
        signs = torch.where(flipped, -rows.signs[row], rows.signs[row])
        adversarial = fools(
            logits_of(problem, rows.points(rows.radius[row], signs, row)), rows.y[row]
        ).reshape(-1, ahead)
        hit, first = adversarial.any(dim=1), adversarial.float().argmax(dim=1)
        tried = torch.where(hit, first + 1, ahead)
        rows = rows._replace(
            place=rows.place + tried, queries=rows.queries + tried + hit * (1 + _BISECTIONS)
        )
        (better,) = hit.nonzero(as_tuple=True)
        near = torch.zeros_like(hit)
        if len(better):
            rows.signs[better] = signs.reshape(len(rows.x), ahead, -1)[better, first[better]]
            near[better] = _shrink(problem, rows, better)
            points = rows.points(torch.full_like(rows.radius, eps), rows.signs, row[::ahead])
            found[rows.example[near]] = points[near]
        rows = rows.select(~near & (rows.queries < n_queries))
    return found


def _shrink(problem: AttackProblem, rows: _Rows, better: Tensor) -> Tensor:
    """Lower the radius of some rows; return which of them are adversarial at eps, (n,)."""
    signs, y = rows.signs[better], rows.y[better]
    low = torch.full_like(rows.radius[better], problem.threat_model.eps)
    near = fools(logits_of(problem, rows.points(low, signs, better)), y)
    high = rows.radius[better]
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        adversarial = fools(logits_of(problem, rows.points(middle, signs, better)), y)
        high = torch.where(adversarial, middle, high)
        low = torch.where(adversarial, low, middle)
    rows.radius[better] = high
    return near


def _blocks(dimension: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the ends of the blocks in their order: all of x, its halves, its quarters, ..."""
    sizes = [dimension]
    while sizes[-1] > 1:
        sizes.append(math.ceil(dimension / 2 ** len(sizes)))
    starts = [start for size in sizes for start in range(0, dimension, size)]
    ends = [min(start + size, dimension) for size in sizes for start in range(0, dimension, size)]
    return torch.tensor(starts, device=device), torch.tensor(ends, device=device)
