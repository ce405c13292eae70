"""The transfer attack: candidates are crafted on surrogates and tried on the model itself.

Where a model masks its gradients, those of a similar network may still lead to adversarial
examples: one with another solver, other steps, or without the block that masks (Athalye, Carlini &
Wagner, arXiv 1802.00420, section 3.1, count the success of such attacks as a sign of masking).
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

    from robustbench_dyn.attacks.problem import AttackProblem

# As in AutoAttack where there are too few classes for targets.
_RESTARTS_OF_FEW_CLASSES = 5


def transfer(problem: AttackProblem, *, n_targets: int = 3, n_iterations: int = 100) -> Tensor:
    """Return what Auto-PGD on the model's surrogates finds, (n, C, H, W).

    Each surrogate is attacked in turn, on cross-entropy and then towards its n_targets likeliest
    targets (with 4 classes; with fewer, cross-entropy gets restarts). With all nine targets of
    AutoAttack this would cost more than the rest of the suite. Every iterate is tried on the model,
    and examples that fool it leave. Where none does, the iterate with the model's lowest margin is
    returned, and x without surrogates.
    """
    found, lowest = problem.x.clone(), torch.full_like(problem.y, torch.inf, dtype=torch.float32)
    for surrogate in surrogates_of(problem.model).values():
        with frozen_eval(surrogate.to(problem.x.device)):
            for targeted in (False, True) if problem.n_classes >= 4 else (False,):
                (robust,) = (lowest >= 0).nonzero(as_tuple=True)
                if len(robust) == 0:
                    return found
                points, margin = _craft(
                    problem.rows(robust),
                    surrogate,
                    n_targets=n_targets if targeted else 0,
                    n_iterations=n_iterations,
                )
                better = margin < lowest[robust]
                found[robust[better]] = points[better]
                lowest[robust[better]] = margin[better]
    return found


def _craft(
    problem: AttackProblem, surrogate: nn.Module, *, n_targets: int, n_iterations: int
) -> tuple[Tensor, Tensor]:
    """Return each example's best point on one surrogate, and the model's margin there.

    n_targets: 0 for an untargeted search.
    """
    best, on_surrogate = _BestPoints(problem), problem._replace(model=surrogate)
    if n_targets:
        found = apgd_targeted(
            on_surrogate, n_targets=n_targets, n_iterations=n_iterations, fooled=best
        )
    else:
        n_restarts = 1 if problem.n_classes >= 4 else _RESTARTS_OF_FEW_CLASSES
        found = apgd(
            on_surrogate, loss="ce", n_restarts=n_restarts, n_iterations=n_iterations, fooled=best
        )
    # Of points that fool the model, the lowest trial's: it does not depend on the batch.
    fooled = (best.margin < 0).reshape(-1, 1, 1, 1)
    return torch.where(fooled, found, best.x), best.margin


class _BestPoints:
    """For each example the iterate at which the model's margin is lowest."""

    def __init__(self, problem: AttackProblem) -> None:
        self.problem = problem
        self.x = problem.x.clone()
        self.margin = torch.full_like(problem.y, torch.inf, dtype=torch.float32)
        self._trial = torch.full_like(problem.y, torch.iinfo(torch.int64).max)

    def __call__(self, example: Tensor, trial: Tensor, x: Tensor, _logits: Tensor) -> Tensor:
        """Keep the points with the lowest margins; return which fool the model, (rows,)."""
        margins = margins_of(logits_of(self.problem, x), self.problem.y[example])
        lowest = torch.full_like(self.margin, torch.inf).scatter_reduce(0, example, margins, "amin")
        tied = margins == lowest[example]
        # Of equal margins the lowest trial's: rows of one example may come in any order.
        late = torch.full_like(self._trial, torch.iinfo(torch.int64).max)
        first = late.scatter_reduce(0, example[tied], trial[tied], "amin")
        chosen = tied & (trial == first[example])
        k, margin, of = example[chosen], margins[chosen], trial[chosen]
        better = (margin < self.margin[k]) | ((margin == self.margin[k]) & (of < self._trial[k]))
        k = k[better]
        self.margin[k], self._trial[k] = margin[better], of[better]
        self.x[k] = x[chosen][better]
        return margins < 0
