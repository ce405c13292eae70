"""Votes on noisy copies of examples: the noise of one example never depends on the others."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import Literal

from torch import Tensor

from robustbench_dyn.models.validation import ModelUnderTest
from robustbench_dyn.random_streams import Streams
from robustbench_dyn.results.store import Votes
from robustbench_dyn.smoothing.classifier import SmoothedClassifier
from robustbench_dyn.smoothing.statistics import Smoothing

Purpose = Literal["select", "estimate", "attack", "screen", "check"]
# Each purpose has noise of its own. That "select" and "estimate" differ makes the bound true.
_STREAM_IDS: dict[Purpose, int] = {
    "select": 1,
    "estimate": 2,
    "attack": 3,
    "screen": 4,
    "check": 5,
}


class VoteCounter:
    """Count the votes of a smoothed classifier.

    classifier: of the model under test. kept: the votes so far, by example_id and "select" or
    "estimate"; each batch of votes is put there before the next is drawn, so that a run that was
    killed goes on in the middle of an example.
    """

    def __init__(
        self,
        model: ModelUnderTest,
        smoothing: Smoothing,
        kept: MutableMapping[tuple[int, str], Votes],
        *,
        seed: int,
        n_draws: int,
    ) -> None:
        self.model, self.smoothing = model, smoothing
        self.classifier = SmoothedClassifier(model.network, smoothing.sigma, n_draws=n_draws)
        self._kept, self._seed = kept, seed

    def streams(self, x: Tensor, y: Tensor, purpose: Purpose) -> Streams:
        """Return the random streams of the noise of examples (n, *input_shape) for one purpose."""
        return Streams.of(x, y, self._seed).substream(_STREAM_IDS[purpose])

    def count(
        self,
        example_id: int,
        x: Tensor,
        y: Tensor,
        purpose: Literal["select", "estimate"],
        *,
        size: int,
    ) -> Votes:
        """Bring the votes on one example, x (1, *input_shape), to n0 or n draws.

        size: how many noisy copies the model is given at once.
        """
        n = self.smoothing.n0 if purpose == "select" else self.smoothing.n
        none = Votes(0, (0,) * (self.model.n_classes + 1), 0.0)
        votes = self._kept.get((example_id, purpose), none)
        while votes.draws < n:
            started = time.perf_counter()
            draws = range(votes.draws, min(votes.draws + size, n))
            new = self.classifier.votes(x, self.streams(x, y, purpose), draws)[0].tolist()
            counts = tuple(a + b for a, b in zip(votes.counts, new, strict=True))
            seconds = votes.seconds + time.perf_counter() - started
            votes = self._kept[example_id, purpose] = Votes(draws.stop, counts, seconds)
        return votes

    def votes_at(
        self, point: Tensor, x: Tensor, y: Tensor, purpose: Purpose, n: int, *, size: int
    ) -> list[int]:
        """Count n votes at a point (1, *input_shape), with the noise of the example x."""
        streams = self.streams(x, y, purpose)
        counts = [0] * (self.model.n_classes + 1)
        for start in range(0, n, size):
            draws = range(start, min(start + size, n))
            votes = self.classifier.votes(point, streams, draws)[0].tolist()
            counts = [a + b for a, b in zip(counts, votes, strict=True)]
        return counts
