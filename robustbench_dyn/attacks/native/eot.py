"""Attacks in expectation over what a model draws at random, and what such a model predicts.

A randomised model errs at a point where fresh passes predict another class more often than the
label; a single wrong draw, which clean inputs have too, does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from robustbench_dyn.attacks.native.apgd import Loss, apgd
from robustbench_dyn.attacks.native.batched_search import lead_of, votes_of
from robustbench_dyn.attacks.native.directions import steepest
from robustbench_dyn.threat_models import project

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.attacks.problem import AttackProblem
    from robustbench_dyn.threat_models import ThreatModel

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


def eot_pgd(
    log_probabilities: Callable[[Tensor, int], Tensor],
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    n_steps: int = 20,
) -> Tensor:
    """Return where each ascent from x ends, a point of the threat model; x's shape.

    log_probabilities(x_adv, step): logarithms of the mean probabilities over fresh noise,
    (batch, classes), as the objective (S) of SmoothAdv has them (arXiv 1906.04584); gradients of
    such means are those of expectation over transformation (arXiv 1707.07397, Section 2.1). It
    ascends the lead of the likeliest other class, which does not saturate as the label's
    probability does.
    x: (batch, *input_shape) in [0, 1]; y: (batch,).
    """
    x_adv = x.detach()
    for step in range(n_steps):
        x_adv = x_adv.detach().requires_grad_()
        with torch.enable_grad():
            scores = log_probabilities(x_adv, step)
            (gradient,) = torch.autograd.grad(-lead_of(scores, y).sum(), x_adv)
        # Steps that shrink to nothing, so that the last ones average noise out: 2.5 eps in all.
        length = 5 * threat_model.eps / n_steps * (1 - step / n_steps)
        moved = x_adv.detach() + length * steepest(gradient, threat_model.norm)
        x_adv = project(moved, x, threat_model)
    return x_adv
