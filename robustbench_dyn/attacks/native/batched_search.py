"""Searches of many examples as rows of full batches, from which decided examples leave at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.attacks.problem import AttackProblem

# Rows of state held at a time, in batches: enough to keep the batches full while rows leave.
_BATCHES_HELD = 4


class Found:
    """The adversarial examples of a search with several trials (restarts or targets) an example.

    That of an example's lowest trial counts, whichever was found first: what is found for one
    example does not depend on which others are searched beside it.
    """

    def __init__(self, problem: AttackProblem) -> None:
        self.x_adv = problem.x.clone()
        self._trial = torch.full_like(problem.y, torch.iinfo(torch.int64).max)

    def keep(self, example: Tensor, trial: Tensor, points: Tensor) -> None:
        """Keep points (rows, C, H, W) that fool the model; example, trial: (rows,)."""
        # The last write stands: order them so that it is the lowest trial's.
        for row in trial.argsort(descending=True, stable=True).tolist():
            if trial[row] < self._trial[example[row]]:
                self._trial[example[row]] = trial[row]
                self.x_adv[example[row]] = points[row]

    def undecided(self, example: Tensor, trial: Tensor) -> Tensor:
        """Return for which rows an adversarial example would still count, (rows,) bool."""
        return trial < self._trial[example]


def grouped(
    problem: AttackProblem, found: Found, trials: Tensor
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Split the trials into groups of rows that fit in memory: (example, trial) indices.

    trials: (n, trials an example) bool, those to run. What earlier groups decided is left out.
    The third entry is how many rows are still to come after the group.
    """
    to_come = int(trials.sum())
    for rows in torch.split(trials.nonzero(), _BATCHES_HELD * problem.batch_size):
        to_come -= len(rows)
        example, trial = rows[found.undecided(rows[:, 0], rows[:, 1])].unbind(dim=1)
        if len(example):
            yield example, trial, to_come


def lead_of(logits: Tensor, y: Tensor) -> Tensor:
    """Return z_y less the largest other logit, (rows,), differentiable where none are equal."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    return own - logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)


def margins_of(logits: Tensor, y: Tensor) -> Tensor:
    """Return `lead_of`, (rows,), made negative wherever the prediction is not y."""
    margins = lead_of(logits, y)
    # Of equal logits the first is the prediction; logits that are not finite predict no class.
    tie_lost = (margins == 0) & (logits.argmax(dim=1) != y)
    margins = margins.masked_fill(tie_lost, -torch.finfo(margins.dtype).tiny)
    return margins.masked_fill(~logits.isfinite().all(dim=1), -torch.inf)


def fools(logits: Tensor, y: Tensor) -> Tensor:
    """Return in which rows the prediction is not y, (rows,) bool, as the candidate check does."""
    return margins_of(logits, y) < 0


def votes_of(logits: Tensor) -> Tensor:
    """Return 1 for the class that each row predicts and 0 elsewhere, (rows, classes + 1).

    The last entry stands for logits that are not finite, which predict no class.
    """
    n_classes = logits.shape[1]
    predicted = logits.argmax(dim=1).where(logits.isfinite().all(dim=1), n_classes)
    return F.one_hot(predicted, n_classes + 1).to(logits)


@torch.no_grad()
def logits_of(problem: AttackProblem, x: Tensor) -> Tensor:
    """Return the model's logits, (rows, classes), for x (rows, C, H, W), batch by batch."""
    return torch.cat([problem.model(batch) for batch in torch.split(x, problem.batch_size)])


def gradient_of(
    problem: AttackProblem,
    x: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    n_passes: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (gradient, loss, logits) of the rows, batch by batch, without a graph.

    loss(logits, rows) gives (rows,) for the rows of one batch; rows are their indices. n_passes: of
    a randomised model; gradient and loss are means over them (arXiv 1707.07397, Section 2.1), and
    instead of the logits come the numbers of passes that predict each class.
    """
    if n_passes > 1:
        gradient, value, logits = gradient_of(problem, x, loss)
        votes = votes_of(logits)
        for _ in range(n_passes - 1):
            another, more, logits = gradient_of(problem, x, loss)
            gradient, value, votes = gradient + another, value + more, votes + votes_of(logits)
        return gradient / n_passes, value / n_passes, votes
    gradients, losses, outputs = [], [], []
    for rows in torch.split(torch.arange(len(x), device=x.device), problem.batch_size):
        inputs = x[rows].requires_grad_()
        with torch.enable_grad():
            logits = problem.model(inputs)
            values = loss(logits, rows)
        (gradient,) = torch.autograd.grad(values.sum(), inputs)
        gradients.append(gradient)
        losses.append(values.detach())
        outputs.append(logits.detach())
    return torch.cat(gradients), torch.cat(losses), torch.cat(outputs)


def ranked_targets(problem: AttackProblem, n_targets: int) -> tuple[Tensor, Tensor]:
    """Return each example's n_targets likeliest target classes, and which of them are open.

    Both are (n, min(n_targets, classes - 1)). Open classes come first; others fill up the rows.
    """
    logits = logits_of(problem, problem.x)
    others = logits.scatter(1, problem.y[:, None], -torch.inf)
    ranked = others.where(problem.open_classes, -torch.inf).nan_to_num(neginf=-torch.inf)
    targets = ranked.topk(min(n_targets, logits.shape[1] - 1), dim=1).indices
    return targets, problem.open_classes.gather(1, targets)
