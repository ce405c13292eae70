"""Many short searches as rows of full batches, and the examples they decide leave at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

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


def grouped(problem: Problem, n_tries: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Split examples x tries into groups of rows that fit in memory: (example, attempt) indices."""
    size = max(1, _BATCHES_HELD * problem.batch_size // n_tries)
    tries = torch.arange(n_tries, device=problem.x.device)
    for examples in torch.split(torch.arange(len(problem.x), device=problem.x.device), size):
        yield examples.repeat_interleave(n_tries), tries.repeat(len(examples))


@torch.no_grad()
def logits_of(problem: Problem, x: Tensor) -> Tensor:
    """Return the model's logits, (rows, classes), for x (rows, C, H, W), batch by batch."""
    return torch.cat([problem.model(batch) for batch in torch.split(x, problem.batch_size)])


def gradient_of(
    problem: Problem, x: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (gradient, loss, logits) of the rows, batch by batch, without a graph.

    loss(logits, rows) gives (rows,) for the rows of one batch; rows are their indices.
    """
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


def ranked_targets(logits: Tensor, y: Tensor, n_targets: int) -> Tensor:
    """Return the n_targets most likely classes other than y, (rows, n_targets)."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.topk(min(n_targets, logits.shape[1] - 1), dim=1).indices
