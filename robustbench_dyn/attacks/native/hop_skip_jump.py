"""HopSkipJump, a search on predictions alone (Chen, Jordan & Wainwright, arXiv 1904.02144).

It walks along the decision boundary towards the example. Instead of a gradient it takes the
direction in which more of the points nearby are adversarial, so masks of gradients or of scores do
not stop it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

from robustbench_dyn.attacks.native.batched_search import fools, logits_of
from robustbench_dyn.attacks.native.directions import lengths, unit_l2
from robustbench_dyn.random_streams import Streams

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.attacks.problem import AttackProblem

# Queries of the first estimate of a direction; that of step t has the root of t times as many.
_FIRST_QUERIES = 100
# The radius of the first estimate; later ones follow the distance to the example.
_FIRST_RADIUS = 0.1
_MAX_HALVINGS = 20
# Starts are ranked by a rough bisection; only the best one is brought to the boundary.
_RANKING_STEPS = 7
_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
_CELLS = (1, 2, 3, 4, 7, 14)


def hop_skip_jump(problem: AttackProblem, *, n_queries: int = 25_000) -> Tensor:
    """Return the adversarial examples found within eps, (n, C, H, W), and x where there is none.

    An example ends as soon as it is within eps, or after n_queries predictions. L1, which the paper
    does not have, takes the steps of L2.
    """
    found = problem.x.clone()
    for examples in torch.split(torch.arange(len(found), device=found.device), problem.batch_size):
        found[examples] = _search(problem.rows(examples), n_queries)
    return found


def _search(problem: AttackProblem, n_queries: int) -> Tensor:
    found, norm = problem.x.clone(), problem.threat_model.norm
    dimension = math.prod(problem.x.shape[1:])
    # Relative to the distance: far finer than the radius within which a direction is estimated.
    n_bisections = math.ceil(math.log2(dimension) * (2 if norm == "Linf" else 1.5)) + 1
    rows, queries = _best_starts(problem)
    rows = rows.approach(problem, n_bisections)
    queries += n_bisections
    for step in range(1, n_queries):
        distance = lengths(rows.x - rows.origin, norm)
        near = distance <= problem.threat_model.eps
        found[rows.example[near]] = rows.x[near]
        rows = rows.select(~near)
        n_points = int(_FIRST_QUERIES * math.sqrt(step))
        queries += n_points + _MAX_HALVINGS + n_bisections
        if len(rows.x) == 0 or queries > n_queries:
            break
        radius = lengths(rows.x - rows.origin, "L2") / dimension
        if step == 1:
            radius = torch.full_like(radius, _FIRST_RADIUS)
        direction = rows.directions(problem, radius, step, n_points)
        length = lengths(rows.x - rows.origin, "Linf" if norm == "Linf" else "L2")
        rows = rows.jump(problem, direction, length / math.sqrt(step))
        rows = rows.approach(problem, n_bisections)
    return found


class _Rows(NamedTuple):
    """Searches under way: each x (rows, C, H, W) is adversarial for its origin, of label y."""

    example: Tensor
    origin: Tensor
    y: Tensor
    x: Tensor
    streams: Streams

    def select(self, kept: Tensor) -> _Rows:
        """Keep some rows only."""
        example, origin, y, x = (t[kept] for t in self[:4])
        return _Rows(example, origin, y, x, self.streams.select(kept))

    def approach(self, problem: AttackProblem, n_steps: int) -> _Rows:
        """Approach the boundary between x and the origin, by bisection."""
        x, _ = _bisect(problem, self.origin, self.y, self.x, n_steps)
        return self._replace(x=x)

    def directions(
        self, problem: AttackProblem, radius: Tensor, step: int, n_points: int
    ) -> Tensor:
        """Estimate the direction into the adversarial region at each x, eq. 9 and 16."""
        estimates, is_linf = [], problem.threat_model.norm == "Linf"
        # Row by row: the points of one fill a batch, and sums do not depend on the other rows.
        for k in range(len(self.x)):
            own = self.streams.select(torch.tensor([k], device=self.x.device))
            shape = (n_points, *self.x.shape[1:])
            noise = 2 * own.uniform(step, *shape) - 1 if is_linf else own.normal(step, *shape)
            points = (self.x[k] + radius[k] * unit_l2(noise[0])).clamp(0, 1)
            moved = (points - self.x[k]) / radius[k]
            y = self.y[k].expand(n_points)
            phi = fools(logits_of(problem, points), y).to(moved) * 2 - 1
            mean = phi.mean()
            weights = phi - mean if mean.abs() < 1 else phi
            estimates.append((weights[:, None] * moved.flatten(1)).mean(dim=0))
        direction = torch.stack(estimates).reshape(self.x.shape)
        return direction.sign() if is_linf else unit_l2(direction)

    def jump(self, problem: AttackProblem, direction: Tensor, length: Tensor) -> _Rows:
        """Go length along the direction; halve it until the point is adversarial."""
        x, pending = self.x.clone(), torch.arange(len(self.x), device=self.x.device)
        for _ in range(_MAX_HALVINGS):
            points = self.x[pending] + length[pending].reshape(-1, 1, 1, 1) * direction[pending]
            points = points.clamp(0, 1)
            adversarial = fools(logits_of(problem, points), self.y[pending])
            x[pending[adversarial]] = points[adversarial]
            pending, length = pending[~adversarial], length / 2
            if len(pending) == 0:
                break
        return self._replace(x=x)


def _best_starts(problem: AttackProblem) -> tuple[_Rows, int]:
    """Return the start that meets the boundary nearest, for the examples that have one.

    The second entry is the number of queries for each example.
    """
    streams = Streams.of(problem.x, problem.y, problem.seed)
    starts = _starts(problem.x, streams)
    n, n_starts = starts.shape[:2]
    shape = (-1, *problem.x.shape[1:])
    origin = problem.x.repeat_interleave(n_starts, dim=0)
    y = problem.y.repeat_interleave(n_starts)
    points = starts.reshape(shape)
    adversarial = fools(logits_of(problem, points), y)
    distance = torch.full_like(points[:, 0, 0, 0], torch.inf)
    if adversarial.any():
        points[adversarial], reached = _bisect(
            problem, origin[adversarial], y[adversarial], points[adversarial], _RANKING_STEPS
        )
        distance[adversarial] = reached
    distance = distance.reshape(n, n_starts)
    nearest, best = distance.min(dim=1)
    example = nearest.isfinite().nonzero().flatten()
    x = points.reshape(n, n_starts, *problem.x.shape[1:])[example, best[example]]
    rows = _Rows(example, problem.x[example], problem.y[example], x, streams.select(example))
    return rows, n_starts * (1 + _RANKING_STEPS)


def _starts(x: Tensor, streams: Streams) -> Tensor:
    """Return points that may be of another class, (rows, starts, C, H, W).

    Each depends on its example alone: grey images, the example turned and inverted, noise of
    several grains and blends of the example with it.
    """
    _, channels, height, width = x.shape
    starts = [torch.full_like(x, level) for level in _LEVELS]
    starts += [1 - x, x.flip(3), x.flip(2), x.flip(1, 2, 3)]
    for k, cell in enumerate(_CELLS):
        down, right = -(-height // cell), -(-width // cell)
        for repeat in range(2):
            coarse = streams.uniform(-2 - 2 * k - repeat, channels, down, right)
            noise = F.interpolate(coarse, scale_factor=cell)[:, :, :height, :width]
            noise = noise.to(x)
            starts += [noise, (noise > 0.5).to(x), (x + noise) / 2]
    return torch.stack(starts, dim=1)


def _bisect(
    problem: AttackProblem, origin: Tensor, y: Tensor, x: Tensor, n_steps: int
) -> tuple[Tensor, Tensor]:
    """Return an adversarial point near the boundary between origin and x, and its distance.

    The path consists of the projections of x onto the balls around the origin: a line in L2; in
    Linf the largest changes shrink first; in L1 the smallest vanish first.
    """
    norm, shape = problem.threat_model.norm, (-1, 1, 1, 1)
    delta = x - origin
    largest = delta.flatten(1).abs().amax(dim=1).reshape(shape)
    high = torch.ones_like(y, dtype=x.dtype)
    low = torch.zeros_like(high)
    for _ in range(n_steps):
        middle = (low + high) / 2
        scale = middle.reshape(shape)
        if norm == "Linf":
            points = origin + delta.clamp(-scale * largest, scale * largest)
        elif norm == "L1":
            points = origin + delta.sign() * (delta.abs() - (1 - scale) * largest).clamp_min(0)
        else:
            points = origin + scale * delta
        adversarial = fools(logits_of(problem, points), y)
        x = torch.where(adversarial.reshape(shape), points, x)
        high = torch.where(adversarial, middle, high)
        low = torch.where(adversarial, low, middle)
    return x, lengths(x - origin, norm)
