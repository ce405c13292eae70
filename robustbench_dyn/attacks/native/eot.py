"""Attacks in expectation over what a model draws at random, and what such a model predicts.

A randomised model errs at a point where another class than the label is predicted most often, by
fresh passes; a single wrong draw, which is to be had at clean inputs too, does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from robustbench_dyn.attacks.native.apgd import Loss, apgd
from robustbench_dyn.attacks.native.batched_search import votes_of
from robustbench_dyn.attacks.native.directions import unit_l2
from robustbench_dyn.threat_models import project

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.attacks.base import Problem
    from robustbench_dyn.threat_models import ThreatModel

# As AutoAttack's version for randomised models (arXiv 2003.01690).
EOT_ITERATIONS = 20
# Passes that decide what a randomised model predicts: of two classes, one that is drawn in 60 % of
# passes wins with probability 0.97.
N_PASSES = 100


@torch.no_grad()
def count_votes(model: nn.Module, x: Tensor, n_passes: int = N_PASSES) -> Tensor:
    """Return how many of n_passes passes predict each class, (batch, classes + 1).

    Last come those whose logits are not finite.
    """
    votes = votes_of(model(x))
    for _ in range(n_passes - 1):
        votes = votes + votes_of(model(x))
    return votes


def outvoted(votes: Tensor, y: Tensor) -> Tensor:
    """Say where another class, or none, has more votes than y, (batch,); a tie does not suffice."""
    others = votes.scatter(1, y[:, None], -1.0).amax(dim=1)
    return others > votes.gather(1, y[:, None]).squeeze(1)


def eot_apgd(
    problem: Problem,
    *,
    loss: Loss,
    n_restarts: int = 1,
    n_iterations: int = 100,
    eot_iterations: int = EOT_ITERATIONS,
) -> Tensor:
    """Return what Auto-PGD finds on losses and gradients averaged over eot_iterations passes.

    Found are points where the label is outvoted in these passes and in N_PASSES fresh ones.
    Returns (n, C, H, W), x where there is none.
    """

    def fooled(example: Tensor, _attempt: Tensor, x: Tensor, votes: Tensor) -> Tensor:
        y = problem.y[example]
        found = outvoted(votes, y)
        # The search picks lucky draws: they have to hold in passes that it did not see.
        for rows in torch.split(found.nonzero().flatten(), problem.batch_size):
            found[rows] = outvoted(count_votes(problem.model, x[rows]), y[rows])
        return found

    return apgd(
        problem, loss=loss, n_restarts=n_restarts, n_iterations=n_iterations, fooled=fooled,
        n_passes=eot_iterations,
    )  # fmt: skip


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
    such means are those of expectation over transformation (arXiv 1707.07397, Section 2.1). What
    is climbed is the best rival's lead, which does not saturate as the label's probability does.
    x: (batch, *input_shape) in [0, 1]; y: (batch,).
    """
    x_adv = x.detach()
    for step in range(n_steps):
        x_adv = x_adv.detach().requires_grad_()
        with torch.enable_grad():
            scores = log_probabilities(x_adv, step)
            rivals = scores.scatter(1, y[:, None], -torch.inf)
            lead = rivals.amax(dim=1) - scores.gather(1, y[:, None])[:, 0]
            (gradient,) = torch.autograd.grad(lead.sum(), x_adv)
        # Steps that shrink to nothing, so that noise does not have the last word: 2.5 eps in all.
        length = 5 * threat_model.eps / n_steps * (1 - step / n_steps)
        moved = x_adv.detach() + length * _steepest(gradient, threat_model)
        x_adv = project(moved, x, threat_model)
    return x_adv


def _steepest(gradient: Tensor, threat_model: ThreatModel) -> Tensor:
    """Return the direction of length 1 in Linf or L2; L1 goes the L2 way."""
    if threat_model.norm == "Linf":
        return gradient.sign()
    return unit_l2(gradient)
