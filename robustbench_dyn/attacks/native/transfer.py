"""The transfer attack: crafted on surrogates of a model, judged by the model itself.

What gradients of the model cannot find where they are masked, gradients of a network like it may:
one with another solver, other steps, or without the block that masks (Athalye, Carlini & Wagner,
arXiv 1802.00420, section 3.1, count the success of such attacks as a sign of masking).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from robustbench_dyn.attacks.native.apgd import apgd, apgd_targeted
from robustbench_dyn.attacks.native.batched_search import logits_of, margins_of
from robustbench_dyn.models.counting import surrogates_of
from robustbench_dyn.models.freezing import frozen_eval

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.attacks.base import Problem

# As in AutoAttack where there are too few classes for targets.
_RESTARTS_OF_FEW_CLASSES = 5
# On each surrogate: with all nine of AutoAttack this would cost more than the rest of the suite.
_N_TARGETS = 3


def transfer(problem: Problem) -> Tensor:
    """Return what Auto-PGD on the model's surrogates finds, (n, C, H, W).

    Each surrogate is attacked in turn, on cross-entropy and then towards its likeliest targets
    (with 4 classes; with fewer, cross-entropy gets restarts); every point on the way is shown to
    the model, and what has fooled it leaves. Where nothing does, the point that lowered the model's
    margin most is returned, and x without surrogates.
    """
    found, lowest = problem.x.clone(), torch.full_like(problem.y, torch.inf, dtype=torch.float32)
    for surrogate in surrogates_of(problem.model).values():
        with frozen_eval(surrogate.to(problem.x.device)):
            for targeted in (False, True) if problem.n_classes >= 4 else (False,):
                (standing,) = (lowest >= 0).nonzero(as_tuple=True)
                if len(standing) == 0:
                    return found
                points, margin = _craft(_rows(problem, standing), surrogate, targeted=targeted)
                better = margin < lowest[standing]
                found[standing[better]] = points[better]
                lowest[standing[better]] = margin[better]
    return found


def _craft(problem: Problem, surrogate: nn.Module, *, targeted: bool) -> tuple[Tensor, Tensor]:
    """Return each example's best point on one surrogate, and the model's margin there."""
    witness, on_surrogate = _Witness(problem), problem._replace(model=surrogate)
    if targeted:
        finds = apgd_targeted(on_surrogate, n_targets=_N_TARGETS, fooled=witness)
    else:
        restarts = 1 if problem.n_classes >= 4 else _RESTARTS_OF_FEW_CLASSES
        finds = apgd(on_surrogate, loss="ce", n_restarts=restarts, fooled=witness)
    # Of what fools the model, the earliest try's find: it does not depend on the batch.
    hit = (witness.margin < 0).reshape(-1, 1, 1, 1)
    return torch.where(hit, finds, witness.best), witness.margin


class _Witness:
    """The model, looking at all points on the way, and the best of them for each example."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.best = problem.x.clone()
        self.margin = torch.full_like(problem.y, torch.inf, dtype=torch.float32)
        self._try = torch.full_like(problem.y, torch.iinfo(torch.int64).max)

    def __call__(self, example: Tensor, attempt: Tensor, x: Tensor, _logits: Tensor) -> Tensor:
        """Return which points fool the model, (rows,), and remember the lowest margins."""
        margins = margins_of(logits_of(self.problem, x), self.problem.y[example])
        lowest = torch.full_like(self.margin, torch.inf).scatter_reduce(0, example, margins, "amin")
        tied = margins == lowest[example]
        # Of equal margins the earliest try's: rows of one example may come in any order.
        late = torch.full_like(self._try, torch.iinfo(torch.int64).max)
        earliest = late.scatter_reduce(0, example[tied], attempt[tied], "amin")
        chosen = tied & (attempt == earliest[example])
        k, margin, of = example[chosen], margins[chosen], attempt[chosen]
        better = (margin < self.margin[k]) | ((margin == self.margin[k]) & (of < self._try[k]))
        k = k[better]
        self.margin[k], self._try[k] = margin[better], of[better]
        self.best[k] = x[chosen][better]
        return margins < 0


def _rows(problem: Problem, rows: Tensor) -> Problem:
    return problem._replace(
        x=problem.x[rows], y=problem.y[rows], class_radii=problem.class_radii[rows]
    )
