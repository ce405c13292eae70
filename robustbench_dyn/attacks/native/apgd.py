"""Auto-PGD, the step-size-free PGD of AutoAttack (Croce & Hein, arXiv 2003.01690, Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

from robustbench_dyn.attacks.native.batched_search import (
    Found,
    fools,
    gradient_of,
    grouped,
    lead_of,
    margins_of,
    ranked_targets,
)
from robustbench_dyn.attacks.native.directions import steepest, unit_l2
from robustbench_dyn.random_streams import Streams

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.attacks.problem import AttackProblem
    from robustbench_dyn.threat_models import Norm

Loss = Literal["ce", "dlr", "margin"]
# (example, trial, x (rows, C, H, W), logits of the model at x) -> which are adversarial, (rows,).
Fooled = Callable[["Tensor", "Tensor", "Tensor", "Tensor"], "Tensor"]
_MOMENTUM = 0.75
# A step size is kept only while at least this share of the steps since the last check raised the
# loss.
_SHARE_UP = 0.75
# A search that gives up does so after this share of its iterations, where what is left of the loss
# is more than so many times what was gained since the start.
_LOOKS_BACK = 0.2
_HOPELESS = 2.0
# The share of the searches that go on from there: about a third on five networks.
_GOING_ON = 0.35
_TINY = 1e-12


def apgd(
    problem: AttackProblem,
    *,
    loss: Loss,
    n_restarts: int = 1,
    n_iterations: int = 100,
    fooled: Fooled | None = None,
    n_passes: int = 1,
) -> Tensor:
    """Return the adversarial examples found, (n, C, H, W), and x where there is none.

    loss: cross-entropy, the margin, or the difference of logits ratio (DLR), which needs 3 classes.
    fooled: what counts as adversarial; by default what fools the model. n_passes: of a randomised
    model; losses and gradients are means over them, and fooled is given votes (see gradient_of).
    """

    def losses(example: Tensor, _trial: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        y = problem.y[example]
        if loss == "ce":
            return lambda logits, rows: F.cross_entropy(logits, y[rows], reduction="none")
        if loss == "margin":
            return lambda logits, rows: -margins_of(logits, y[rows])
        return lambda logits, rows: _dlr(logits, y[rows])

    restarts = problem.x.new_ones(len(problem.x), n_restarts, dtype=torch.bool)
    return _search(problem, losses, restarts, n_iterations, fooled, n_passes)


def apgd_targeted(
    problem: AttackProblem,
    *,
    n_targets: int = 9,
    n_iterations: int = 100,
    gives_up: bool = False,
    fooled: Fooled | None = None,
) -> Tensor:
    """Return what Auto-PGD on the targeted DLR finds towards the n_targets likeliest open classes.

    Needs 4 classes. gives_up: on a target whose loss, which is positive where the target has
    overtaken the label, has risen far too little. fooled: as in apgd. Returns (n, C, H, W), x where
    nothing was found.
    """
    targets, is_open = ranked_targets(problem, n_targets)

    def losses(example: Tensor, trial: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        y, target = problem.y[example], targets[example, trial]
        return lambda logits, rows: _targeted_dlr(logits, y[rows], target[rows])

    return _search(problem, losses, is_open, n_iterations, fooled, gives_up=gives_up)


def expected_iterations(n_iterations: int, done: int = 0, *, gives_up: bool) -> float:
    """Return how many more iterations a search takes on average, the last check included."""
    look = math.ceil(_LOOKS_BACK * n_iterations)
    if not gives_up or done >= look:
        return n_iterations + 1 - done
    return look - done + _GOING_ON * (n_iterations + 1 - look)


def _search(
    problem: AttackProblem,
    losses: Callable[[Tensor, Tensor], Callable[[Tensor, Tensor], Tensor]],
    trials: Tensor,
    n_iterations: int,
    fooled: Fooled | None,
    n_passes: int = 1,
    *,
    gives_up: bool = False,
) -> Tensor:
    found, looks_back = Found(problem), math.ceil(_LOOKS_BACK * n_iterations)
    streams = Streams.of(problem.x, problem.y, problem.seed)
    for example, trial, to_come in grouped(problem, found, trials):
        state = _start(problem, example, trial, streams)
        checks = _checkpoints(n_iterations)
        last_check = 0
        for iteration in range(n_iterations + 1):
            # The last pass only checks the last step.
            here = len(state.x) * expected_iterations(n_iterations, iteration, gives_up=gives_up)
            later = to_come * expected_iterations(n_iterations, gives_up=gives_up)
            problem.tell(2 * n_passes * (here + later))
            gradient, loss, logits = gradient_of(
                problem, state.x, losses(*state.rows), n_passes=n_passes
            )
            if fooled is None:
                adversarial = fools(logits, problem.y[state.example])
            else:
                adversarial = fooled(*state.rows, state.x, logits)
            if adversarial.any():
                found.keep(
                    state.example[adversarial], state.trial[adversarial], state.x[adversarial]
                )
            undecided = found.undecided(*state.rows) & loss.isfinite()
            state.update(gradient, loss)
            if iteration == 0:
                state.first_loss = loss
            if gives_up and iteration == looks_back:
                undecided &= -state.best_loss <= _HOPELESS * (state.best_loss - state.first_loss)
            if not undecided.all():
                state = state.select(undecided)
            if len(state.x) == 0 or iteration == n_iterations:
                break
            if iteration in checks:
                state.check(iteration - last_check)
                last_check = iteration
            state.step(problem.threat_model.norm, problem.threat_model.eps, first=iteration == 0)
    return found.x_adv


@dataclass
class _State:
    """The rows of a search in progress; every tensor has one entry a row."""

    example: Tensor
    trial: Tensor
    origin: Tensor
    x: Tensor
    previous: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    size: Tensor
    loss: Tensor
    best_loss: Tensor
    first_loss: Tensor
    n_up: Tensor
    checked_loss: Tensor
    halved: Tensor

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Which example and which of its trials each row is."""
        return self.example, self.trial

    def select(self, kept: Tensor) -> _State:
        """Return the state of some rows only."""
        return _State(*(getattr(self, field.name)[kept] for field in fields(self)))

    def update(self, gradient: Tensor, loss: Tensor) -> None:
        """Keep the loss and its gradient at x, and x where its loss is the largest yet."""
        self.gradient = gradient.nan_to_num()
        self.n_up += loss > self.loss
        self.loss = loss
        better = loss > self.best_loss
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.best = _where(better, self.x, self.best)
        self.best_gradient = _where(better, self.gradient, self.best_gradient)

    def check(self, n_steps: int) -> None:
        """Halve the step sizes that stopped helping, and go back to the best point from there."""
        stuck = ~self.halved & (self.best_loss <= self.checked_loss)
        self.halved = (self.n_up < _SHARE_UP * n_steps) | stuck
        self.size = torch.where(self.halved, self.size / 2, self.size)
        self.x = _where(self.halved, self.best, self.x)
        self.gradient = _where(self.halved, self.best_gradient, self.gradient)
        self.checked_loss = self.best_loss
        self.n_up = torch.zeros_like(self.n_up)

    def step(self, norm: Norm, eps: float, *, first: bool) -> None:
        """Go one step up the gradient, with momentum, and back into ball and box."""
        size = self.size.reshape(-1, 1, 1, 1)
        stepped = _project(self.x + size * steepest(self.gradient, norm), self.origin, norm, eps)
        if not first:
            moved = _MOMENTUM * (stepped - self.x) + (1 - _MOMENTUM) * (self.x - self.previous)
            stepped = _project(self.x + moved, self.origin, norm, eps)
        self.x, self.previous = stepped, self.x


def _start(problem: AttackProblem, example: Tensor, trial: Tensor, streams: Streams) -> _State:
    """Start each row at a random point as far from its example as the ball allows."""
    norm, eps = problem.threat_model.norm, problem.threat_model.eps
    origin = problem.x[example]
    own = streams.select(example).substream(trial)
    if norm == "Linf":
        noise = 2 * own.uniform(0, *origin.shape[1:]) - 1
        noise /= noise.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(_TINY)
    else:
        noise = own.normal(0, *origin.shape[1:])
        noise = unit_l2(noise)
    x = _project(origin + eps * noise, origin, norm, eps)
    low = torch.full_like(origin[:, 0, 0, 0], -torch.inf)
    return _State(
        example=example,
        trial=trial,
        origin=origin,
        x=x,
        previous=x,
        gradient=torch.zeros_like(x),
        best=x,
        best_gradient=torch.zeros_like(x),
        size=torch.full_like(low, 2 * eps),
        loss=-low,
        best_loss=low,
        first_loss=low,
        n_up=torch.zeros_like(example),
        checked_loss=low,
        halved=torch.ones_like(example, dtype=torch.bool),
    )


def _checkpoints(n_iterations: int) -> frozenset[int]:
    """Return when step sizes are checked: after 22 % of the steps, and then ever more often."""
    # In whole percent: 0.57 * 100 would be rounded up to 58.
    shares = [0, 22]
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    return frozenset(math.ceil(share * n_iterations / 100) for share in shares[1:])


def _project(x: Tensor, origin: Tensor, norm: Norm, eps: float) -> Tensor:
    # The origin lies in the box: clipping only shortens.
    if norm == "Linf":
        return torch.minimum(torch.maximum(x, origin - eps), origin + eps).clamp(0, 1)
    delta = x - origin
    return (origin + delta * (eps / _norm2(delta)).clamp_max(1)).clamp(0, 1)


def _norm2(x: Tensor) -> Tensor:
    return x.square().sum(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(_TINY)


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(rows.reshape(-1, 1, 1, 1), yes, no)


def _dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return -(z_y - max of the others) / (z_1st - z_3rd), arXiv 2003.01690, eq. 6."""
    ordered = logits.sort(dim=1, descending=True).values
    return -lead_of(logits, y) / _divisor(ordered[:, 0] - ordered[:, 2])


def _targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return -(z_y - z_target) / (z_1st - (z_3rd + z_4th) / 2), arXiv 2003.01690, eq. 7."""
    ordered = logits.sort(dim=1, descending=True).values
    own, wanted = (logits.gather(1, k[:, None]).squeeze(1) for k in (y, target))
    scale = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
    return (wanted - own) / _divisor(scale)


def _divisor(gap: Tensor) -> Tensor:
    """Return a gap of logits, or 1 where it is zero or NaN, so that it can be divided by."""
    return gap.clamp_min(torch.finfo(gap.dtype).tiny).where(gap > 0, 1)
