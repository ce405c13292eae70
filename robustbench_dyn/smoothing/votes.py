"""Examples with their noise: whatever is drawn for one never depends on the others."""

from __future__ import annotations

import logging
import math
from typing import Literal

import torch
from torch import Tensor, nn

from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import InputError
from robustbench_dyn.models.batch_size import choose_batch_size, is_out_of_memory
from robustbench_dyn.models.counting import CountingModel
from robustbench_dyn.models.determinism import NOT_A_FUNCTION, RANDOM, find_defects
from robustbench_dyn.random_streams import Streams
from robustbench_dyn.smoothing.classifier import SmoothedClassifier
from robustbench_dyn.smoothing.statistics import Smoothing

log = logging.getLogger(__name__)

Purpose = Literal["select", "estimate", "attack", "screen", "judge"]
# Each purpose has noise of its own. That "select" and "estimate" differ makes the bound true.
_SALTS: dict[Purpose, int] = {"select": 1, "estimate": 2, "attack": 3, "screen": 4, "judge": 5}
# Examples that are looked at before the first votes.
_EXAMINED = 2


class NoisyExamples:
    """A data set, the smoothed classifier of a network, and the noise of each example.

    network: counts the passes. batch_size: how many noisy copies it is given at once.
    Raises InputError where the model does not give logits for every label.
    """

    def __init__(
        self, model: nn.Module, dataset: Dataset, smoothing: Smoothing, *, seed: int,
        batch_size: int | Literal["auto"], device: torch.device, n_draws: int,
    ) -> None:  # fmt: skip
        self.network = CountingModel(model)
        self.classifier = SmoothedClassifier(self.network, smoothing.sigma, n_draws=n_draws)
        self.dataset, self.smoothing, self.seed, self.device = dataset, smoothing, seed, device
        self.row_of = {int(example): row for row, example in enumerate(dataset.ids)}
        self.dimension = math.prod(dataset.x.shape[1:])
        self.n_classes, self.examined = self._check_classes(), False
        first = dataset.x[:4].to(device)
        self.batch_size = choose_batch_size(model, first) if batch_size == "auto" else batch_size

    def label(self, example_id: int) -> int:
        """Return the label of an example."""
        return int(self.dataset.y[self.row_of[example_id]])

    def inputs(self, ids: list[int], purpose: Purpose) -> tuple[Tensor, Tensor, Streams]:
        """Return x (n, *input_shape), y (n,), and the streams of their noise for one purpose."""
        rows = torch.tensor([self.row_of[example_id] for example_id in ids])
        x, y = self.dataset.x[rows].to(self.device), self.dataset.y[rows].to(self.device)
        return x, y, Streams.of(x, y, self.seed).derive(_SALTS[purpose])

    def examine(self) -> None:
        """Raise InputError, before the first votes, where they would be no votes of a classifier.

        A model that draws at random may be smoothed: it votes as a random classifier.
        """
        if self.examined:
            return
        x = self.dataset.x[:_EXAMINED].to(self.device)
        _, found = find_defects(self.network, x, seed=self.seed, most=self.batch_size)
        wrong = sorted(set(found) & NOT_A_FUNCTION - {RANDOM})
        if wrong:
            raise InputError(
                f"the model's answer to an input depends on more than the input ({', '.join(wrong)}"
                "), so that votes on noisy copies are no samples of one classifier; mend the model"
            )
        self.examined = True

    def votes_at(self, point: Tensor, example_id: int, purpose: Purpose, n: int) -> list[int]:
        """Count the votes of n draws at a point (1, *input_shape), with an example's noise."""
        _, _, streams = self.inputs([example_id], purpose)
        counts = [0] * (self.n_classes + 1)
        for start in range(0, n, self.batch_size):
            draws = range(start, min(start + self.batch_size, n))
            votes = self.classifier.votes(point, streams, draws)[0].tolist()
            counts = [a + b for a, b in zip(counts, votes, strict=True)]
        return counts

    def halve_batches(self, error: Exception) -> None:
        """Go on with smaller batches where memory ran out; raise any other error again."""
        if not is_out_of_memory(error) or self.batch_size == 1:
            raise error
        self.batch_size = max(1, self.batch_size // 2)
        log.warning("out of memory: batches of %d from here on", self.batch_size)

    @torch.no_grad()
    def _check_classes(self) -> int:
        x, highest = self.dataset.x[:1].to(self.device), int(self.dataset.y.max())
        try:
            shape = tuple(self.network(x).shape)
        except Exception as error:
            raise InputError(
                f"the model cannot classify inputs of shape {tuple(x.shape[1:])}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if len(shape) != 2 or shape[1] < 2 or highest >= shape[1]:
            raise InputError(
                f"the model answers one input with logits of shape {shape}, and the labels go up "
                f"to {highest}; it needs (batch, classes), at least two, one for each label"
            )
        return shape[1]
