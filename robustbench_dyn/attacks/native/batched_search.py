"""Many short searches as rows of full batches, and the examples they decide leave at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.attacks.base import Problem

# Rows of state held at a time, in batches: enough to keep the batches full while rows leave.
_BATCHES_HELD = 4


class Finds:
    """What a search of several tries an example (restarts, or target classes) has found.

    The find of an example's earliest try counts, whichever came first in time: what is found for
    one example does not depend on which others were searched beside it.
    """

    def __init__(self, problem: Problem) -> None:
        self.x_adv = problem.x.clone()
        self._try = torch.full_like(problem.y, torch.iinfo(torch.int64).max)

    def keep(self, example: Tensor, attempt: Tensor, points: Tensor) -> None:
        """Keep points (rows, C, H, W) that fool the model; example, attempt: (rows,)."""
        # The last write stands: order them so that it is the earliest try's.
        for row in attempt.argsort(descending=True, stable=True).tolist():
            if attempt[row] < self._try[example[row]]:
                self._try[example[row]] = attempt[row]
                self.x_adv[example[row]] = points[row]

    def wanted(self, example: Tensor, attempt: Tensor) -> Tensor:
        """Say of which rows a find would still count, (rows,) bool."""
        return attempt < self._try[example]


def grouped(problem: Problem, finds: Finds, tries: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Split the tries into groups of rows that fit in memory: (example, attempt) indices.

    tries: (n, tries an example) bool. What an earlier group has made superfluous is left out.
    """
    for rows in torch.split(tries.nonzero(), _BATCHES_HELD * problem.batch_size):
        example, attempt = rows[finds.wanted(rows[:, 0], rows[:, 1])].unbind(dim=1)
        if len(example):
            yield example, attempt


def margins_of(logits: Tensor, y: Tensor) -> Tensor:
    """Return z_y less the largest other logit, (rows,): below 0 where the prediction is not y."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    margins = own - logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    # Of equal logits the first is the prediction; logits that are not finite predict no class.
    tie_lost = (margins == 0) & (logits.argmax(dim=1) != y)
    margins = margins.masked_fill(tie_lost, -torch.finfo(margins.dtype).tiny)
    return margins.masked_fill(~logits.isfinite().all(dim=1), -torch.inf)


def fools(logits: Tensor, y: Tensor) -> Tensor:
    """Say of which rows the prediction is not y, (rows,) bool, as the candidate check will."""
    return margins_of(logits, y) < 0


def votes_of(logits: Tensor) -> Tensor:
    """Return 1 for the class that each row predicts and 0 elsewhere, (rows, classes + 1).

    The last entry stands for logits that are not finite, which predict no class.
    """
    n_classes = logits.shape[1]
    predicted = logits.argmax(dim=1).where(logits.isfinite().all(dim=1), n_classes)
    return F.one_hot(predicted, n_classes + 1).to(logits)


@torch.no_grad()
def logits_of(problem: Problem, x: Tensor) -> Tensor:
    """Return the model's logits, (rows, classes), for x (rows, C, H, W), batch by batch."""
    return torch.cat([problem.model(batch) for batch in torch.split(x, problem.batch_size)])


def gradient_of(
    problem: Problem, x: Tensor, loss: Callable[[Tensor, Tensor], Tensor], *, n_passes: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (gradient, loss, logits) of the rows, batch by batch, without a graph.

    loss(logits, rows) gives (rows,) for the rows of one batch; rows are their indices. n_passes: of
    a randomised model; gradient and loss are means over them (arXiv 1707.07397, Section 2.1), and
    in the place of the logits stands how many passes predict each class.
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


def ranked_targets(problem: Problem, n_targets: int) -> tuple[Tensor, Tensor]:
    """Return each example's n_targets likeliest rivals, and which of these entries are rivals.

    Both are (n, min(n_targets, classes - 1)).
    """
    logits = logits_of(problem, problem.x)
    others = logits.scatter(1, problem.y[:, None], -torch.inf)
    ranked = others.where(problem.rivals, -torch.inf).nan_to_num(neginf=-torch.inf)
    targets = ranked.topk(min(n_targets, logits.shape[1] - 1), dim=1).indices
    return targets, problem.rivals.gather(1, targets)
