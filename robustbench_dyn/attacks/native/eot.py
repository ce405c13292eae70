"""Randomised models: attacks in expectation over their draws, and predictions by majority.

A randomised model errs at a point where fresh passes predict another class more often than the
label; a single wrong draw, which clean inputs have too, does not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from robustbench_dyn.attacks.native.apgd import Loss, apgd
from robustbench_dyn.attacks.native.batched_search import votes_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.attacks.problem import AttackProblem

# Passes that decide what a randomised model predicts: of two classes, one that is drawn in 60 % of
# passes wins with probability 0.97.
N_PASSES = 100


@torch.no_grad()
def count_votes(model: nn.Module, x: Tensor, n_passes: int = N_PASSES) -> Tensor:
    """Return how many of n_passes passes predict each class, (batch, classes + 1).

    The last entry counts those whose logits are not finite.
    """
    votes = votes_of(model(x))
    for _ in range(n_passes - 1):
        votes = votes + votes_of(model(x))
    return votes


def outvoted(votes: Tensor, y: Tensor) -> Tensor:
    """Return where another class, or none, has more votes than y, (batch,) bool; not at a tie."""
    others = votes.scatter(1, y[:, None], -1.0).amax(dim=1)
    return others > votes.gather(1, y[:, None]).squeeze(1)


def eot_apgd(
    problem: AttackProblem,
    *,
    loss: Loss,
    n_restarts: int = 1,
    n_iterations: int = 100,
    n_passes: int = 20,
) -> Tensor:
    """Return what Auto-PGD finds on losses and gradients averaged over n_passes passes.

    A point is adversarial where the label is outvoted in these passes and in N_PASSES fresh ones.
    Twenty are those of AutoAttack's version for randomised models (arXiv 2003.01690).
    Returns (n, C, H, W), x where there is none.
    """

    def fooled(example: Tensor, _trial: Tensor, x: Tensor, votes: Tensor) -> Tensor:
        y = problem.y[example]
        found = outvoted(votes_of(votes) if n_passes == 1 else votes, y)
        # The search selects lucky draws: they have to hold in passes that it did not see.
        for rows in torch.split(found.nonzero().flatten(), problem.batch_size):
            found[rows] = outvoted(count_votes(problem.model, x[rows]), y[rows])
        return found

    return apgd(
        problem,
        loss=loss,
        n_restarts=n_restarts,
        n_iterations=n_iterations,
        fooled=fooled,
        n_passes=n_passes,
    )
