"""FAB, the fast adaptive boundary attack, towards each target (Croce & Hein, arXiv 1907.02044)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from robustbench_dyn.attacks.native.batched_search import (
    Found,
    fools,
    gradient_of,
    grouped,
    logits_of,
    ranked_targets,
)
from robustbench_dyn.attacks.native.directions import lengths
from robustbench_dyn.attacks.native.hyperplane import project_onto_hyperplane
from robustbench_dyn.threat_models import project

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.attacks.problem import AttackProblem
    from robustbench_dyn.threat_models import Norm

# The paper's constants: the bias towards the original point, the overshoot, the backward step.
_ALPHA_MAX = 0.1
_ETA = 1.05
_BETA = 0.9
_FINAL_SEARCH = 10
_NEARLY = 1.05
# How many times eps the distance may be at an iteration for the search to go on: more than any of
# 800 searches on two networks that came below eps had (1.34 times after 20, 1.10 after 50).
_HOPELESS = {20: 1.4, 50: 1.15}
# The share of the searches that go on at the first of these iterations: on three networks, one in
# ten did at most.
_GOING_ON = 0.1
_TINY = 1e-12


def fab_targeted(problem: AttackProblem, *, n_targets: int = 9, n_iterations: int = 100) -> Tensor:
    """Return adversarial examples inside the ball, (n, C, H, W), and x where none was found."""
    targets, is_open = ranked_targets(problem, n_targets)
    eps, found = problem.threat_model.eps, Found(problem)
    for example, trial, to_come in grouped(problem, found, is_open):
        rows = _Rows.start(problem, example, trial, targets[example, trial])
        later = to_come * expected_iterations(n_iterations)

        def keep(rows: _Rows) -> None:
            inside = rows.distance <= eps
            found.keep(rows.example[inside], rows.trial[inside], rows.best[inside])

        for iteration, _ in enumerate(rows.search(problem, n_iterations)):
            keep(rows)
            here = len(rows.x) * expected_iterations(n_iterations, iteration)
            problem.tell(2 * (here + later))
            near = rows.within(_HOPELESS.get(iteration, torch.inf) * eps)
            rows.retain(found.undecided(rows.example, rows.trial) & near)
        keep(rows)
        # A point a little outside of the ball may fool the model from its surface, too.
        rows.retain((rows.distance > eps) & (rows.distance <= _NEARLY * eps))
        if len(rows.x):
            pulled = project(rows.best, rows.origin, problem.threat_model)
            fooled = fools(logits_of(problem, pulled), rows.y)
            found.keep(rows.example[fooled], rows.trial[fooled], pulled[fooled])
    return found.x_adv


def minimum_norm(
    problem: AttackProblem, *, n_targets: int = 9, n_iterations: int = 100, gives_up: bool = True
) -> Tensor:
    """Return the nearest adversarial examples found at any distance, (n, C, H, W), or x.

    The likeliest class comes first; the others follow where they may be nearer than it was found.
    gives_up: on a search that stays as much farther as `fab_targeted` gives up on outside of eps.
    """
    targets, is_open = ranked_targets(problem, n_targets)
    x_adv = problem.x.clone()
    nearest = problem.x.new_full((len(x_adv),), torch.inf)
    first = torch.arange(targets.shape[1], device=targets.device) == 0
    for columns in (first, ~first):
        nearer = problem.class_radii.gather(1, targets) < nearest[:, None]
        wanted = is_open & columns & nearer
        # Not the nearest of the others, whose searches may run in another group.
        reach = nearest.clone() if gives_up else torch.full_like(nearest, torch.inf)
        # Where another class may be nearer is known after the search of the first alone.
        after = int((is_open & ~first).sum()) if columns is first else 0
        for example, trial, to_come in grouped(problem, Found(problem), wanted):
            rows = _Rows.start(problem, example, trial, targets[example, trial])
            for iteration, _ in enumerate(rows.search(problem, n_iterations)):
                left = len(rows.x) * (n_iterations - iteration) + (to_come + after) * n_iterations
                problem.tell(2 * left)
                rows.retain(rows.within(_HOPELESS.get(iteration, torch.inf) * reach[rows.example]))
            # Farthest first: the last write stands.
            for row in rows.distance.argsort(descending=True, stable=True).tolist():
                k = rows.example[row]
                if rows.distance[row] < nearest[k]:
                    nearest[k], x_adv[k] = rows.distance[row], rows.best[row]
    return x_adv


def expected_of_minimum_norm(n_targets: int, n_iterations: int, *, gives_up: bool) -> float:
    """Return about how many iterations `minimum_norm` takes on an example."""
    others = expected_iterations(n_iterations) if gives_up else n_iterations + 1
    return n_iterations + 1 + (n_targets - 1) * others


def expected_iterations(n_iterations: int, done: int = 0) -> float:
    """Return how many more iterations a search takes on average, which most give up early."""
    check = min(n_iterations, *_HOPELESS)
    if done >= check:
        return n_iterations - done
    return check - done + _GOING_ON * (n_iterations - check)


@dataclass
class _Rows:
    """Pairs of an example and a target class; every tensor has one entry a pair."""

    example: Tensor
    trial: Tensor
    y: Tensor
    target: Tensor
    origin: Tensor
    x: Tensor
    best: Tensor
    distance: Tensor
    # The difference z_target - z_y where the model was last linearised, and its gradient there.
    gradient: Tensor | None = None
    value: Tensor | None = None
    linearised_at: Tensor | None = None

    @classmethod
    def start(cls, problem: AttackProblem, example: Tensor, trial: Tensor, target: Tensor) -> _Rows:
        """Start each search at its example itself."""
        origin = problem.x[example]
        distance = torch.full_like(origin[:, 0, 0, 0], torch.inf)
        y = problem.y[example]
        return cls(example, trial, y, target, origin, origin, origin, distance)

    def search(self, problem: AttackProblem, n_iterations: int) -> Iterator[None]:
        """Go towards the boundary; pauses after each pass, when pairs may be dropped."""
        for iteration in range(n_iterations + 1):
            # The last pass only checks the last step.
            self.linearise(problem)
            yield
            if len(self.x) == 0:
                return
            if iteration < n_iterations:
                self.step(problem.threat_model.norm)
        self.retain(self.distance.isfinite())
        if len(self.x):
            self.approach(problem)

    def within(self, reach: Tensor | float) -> Tensor:
        """Return which pairs found nothing yet, or something no farther than reach, (rows,)."""
        return (self.distance <= reach) | self.distance.isinf()

    def retain(self, kept: Tensor) -> None:
        """Keep some pairs only."""
        if kept.all():
            return
        for field in fields(self):
            value = getattr(self, field.name)
            setattr(self, field.name, None if value is None else value[kept])

    def linearise(self, problem: AttackProblem) -> None:
        """Linearise the model at x; where x is adversarial, keep it if near and step back."""

        def difference(logits: Tensor, rows: Tensor) -> Tensor:
            y, target = self.y[rows, None], self.target[rows, None]
            return (logits.gather(1, target) - logits.gather(1, y)).squeeze(1)

        gradient, value, logits = gradient_of(problem, self.x, difference)
        self.gradient, self.value, self.linearised_at = (
            gradient.nan_to_num(),
            value.nan_to_num(),
            self.x,
        )
        fooled = fools(logits, self.y)
        self._keep(self.x, fooled, problem.threat_model.norm)
        back = (1 - _BETA) * self.origin + _BETA * self.x
        self.x = torch.where(fooled.reshape(-1, 1, 1, 1), back, self.x)

    def step(self, norm: Norm) -> None:
        """Go to a mixture of the projections of x and of the origin onto the linear boundary."""
        assert self.gradient is not None
        here, there = self._projected(self.x, norm), self._projected(self.origin, norm)
        length, other = lengths(here - self.x, norm), lengths(there - self.origin, norm)
        alpha = (length / (length + other).clamp_min(_TINY)).clamp_max(_ALPHA_MAX)
        alpha = alpha.reshape(-1, 1, 1, 1)
        forward = self.x + _ETA * (here - self.x)
        biased = self.origin + _ETA * (there - self.origin)
        self.x = ((1 - alpha) * forward + alpha * biased).clamp(0, 1)

    def approach(self, problem: AttackProblem) -> None:
        """Approach the boundary on the line from the origin to the best point, by bisection."""
        line, shape = self.best - self.origin, (-1, 1, 1, 1)
        high = torch.ones_like(self.distance)
        low = torch.zeros_like(high)
        for _ in range(_FINAL_SEARCH):
            middle = (low + high) / 2
            points = self.origin + middle.reshape(shape) * line
            fooled = fools(logits_of(problem, points), self.y)
            self._keep(points, fooled, problem.threat_model.norm)
            high, low = torch.where(fooled, middle, high), torch.where(fooled, low, middle)

    def _keep(self, points: Tensor, fooled: Tensor, norm: Norm) -> None:
        distance = lengths(points - self.origin, norm)
        nearer = fooled & (distance < self.distance)
        self.distance = torch.where(nearer, distance, self.distance)
        self.best = torch.where(nearer.reshape(-1, 1, 1, 1), points, self.best)

    def _projected(self, points: Tensor, norm: Norm) -> Tensor:
        """Project points onto where the linearised logits of target and label are equal."""
        assert self.gradient is not None
        assert self.value is not None
        assert self.linearised_at is not None
        w = self.gradient.flatten(1)
        value = self.value + (w * (points - self.linearised_at).flatten(1)).sum(dim=1)
        return project_onto_hyperplane(points.flatten(1), w, value, norm).reshape(points.shape)
