"""The smoothed classifier: votes of a network on noisy copies, and gradients of their mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustbench_dyn.random_streams import Streams


class SmoothedClassifier(nn.Module):
    """g(x) = argmax_c P(f(x + e) = c), e ~ N(0, sigma^2 I), through draws of the noise.

    As a module it answers the soft version, log (1/m) sum_i softmax(f(x + e_i)) of
    Salman et al. (arXiv 1906.04584) over m = n_draws fixed draws: a function of x alone, with its
    gradient, that any attack can be let loose on. What g answers, and how surely, is for
    the votes to tell (certification.smoothing). Noise is float32; no draw lies beyond 5.8 sigma,
    where a normal variable lies once in 10^8 pixels.
    """

    def __init__(self, model: nn.Module, sigma: float, *, n_draws: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        self.sigma, self.n_draws, self.seed = sigma, n_draws, seed

    def forward(self, x: Tensor) -> Tensor:
        """Return the logarithms of the mean probabilities, (batch, classes)."""
        keys = torch.full((len(x),), self.seed, dtype=torch.int64, device=x.device)
        return self.log_probabilities(x, Streams(keys).substream(0), 0)

    def log_probabilities(self, x: Tensor, streams: Streams, first: int) -> Tensor:
        """Return the same over draws first ... first + n_draws - 1 of each row's own stream."""
        noisy = self._noisy(x, streams, range(first, first + self.n_draws))
        each = self.model(noisy).log_softmax(dim=1)
        means = each.unflatten(0, (len(x), self.n_draws)).logsumexp(dim=1)
        return means - math.log(self.n_draws)

    @torch.no_grad()
    def votes(self, x: Tensor, streams: Streams, draws: range) -> Tensor:
        """Count the classes of some draws of each row, in one batch: (batch, classes + 1) int64.

        Last come the draws without a class: those whose first two logits tie, and those with a
        logit that is not finite.
        """
        logits = self.model(self._noisy(x, streams, draws))
        n_classes = logits.shape[1]
        largest = logits.topk(2, dim=1)
        sure = logits.isfinite().all(dim=1) & (largest.values[:, 0] > largest.values[:, 1])
        classes = largest.indices[:, 0].where(sure, n_classes).unflatten(0, (len(x), len(draws)))
        counts = torch.zeros(len(x), n_classes + 1, dtype=torch.int64, device=x.device)
        return counts.scatter_add_(1, classes, torch.ones_like(classes))

    def _noisy(self, x: Tensor, streams: Streams, draws: range) -> Tensor:
        rows = torch.arange(len(x), device=x.device).repeat_interleave(len(draws))
        counters = torch.arange(draws.start, draws.stop, device=x.device).repeat(len(x))
        noise = streams.select(rows).normal(counters, *x.shape[1:])
        # Not clipped to [0, 1]: the theorem is about noise without bounds.
        return x[rows] + self.sigma * noise.to(x.dtype)
