"""Nearest prototypes, and the gradient flow whose basins of attraction are their cells."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from robustbench_dyn.lipschitz.max_affine import AffinePieces, MaxAffine
from robustbench_dyn.models.freezing import CachedParametrization

# Rounds of Lloyd's algorithm, after which k-means hardly changes.
_ROUNDS = 15
_N_STEPS = 32
# Of the way to the mean that a step takes.
_SHARE = 0.125


class Prototypes(CachedParametrization, MaxAffine):
    """The logit of class c is |z|^2 - min_k |z - w_ck|^2 = max_k (2 w_ck . z - |w_ck|^2).

    The nearest prototype has the largest logit (arXiv 2207.07208). The same prototypes are the
    attractors of x' = -grad V(x), V(x) = -log sum_ck exp(-b |x - w_ck|^2) (a modern Hopfield
    network, arXiv 2008.02217). A state whose squared distance to its nearest prototype is by
    delta^2 / 2 less than to any other stays in that cell and ends at that prototype, where
    b >= 2 log(4 N D / delta) / delta^2 for N other prototypes, least distance delta and largest
    distance D: the mean that a step goes to is within delta / 4 of the prototype. `value()` is
    this b, and delta^2 / 2.
    """

    def __init__(self, features: int, n_classes: int, *, prototypes: int) -> None:
        nn.Module.__init__(self)
        self.prototypes = nn.Parameter(torch.rand(n_classes, prototypes, features))

    def affine_pieces(self) -> AffinePieces:
        """Return 2 w and -|w|^2."""
        return AffinePieces(2 * self.prototypes, -self.prototypes.square().sum(dim=2))

    @torch.no_grad()
    def start_from(self, z: Tensor, y: Tensor, generator: torch.Generator) -> None:
        """Put the prototypes of each class at the means of k-means on its examples.

        z: (n, features); y: (n,). A class with fewer examples than prototypes has some of them
        twice, moved apart a little.
        """
        for label, of_class in enumerate(self.prototypes):
            of_class.copy_(_means(z[y == label], len(of_class), generator))

    def compute(self) -> Tensor:
        """Return the least b for which the flow ends at the nearest prototype, and delta^2 / 2."""
        distances = torch.pdist(self.prototypes.flatten(0, 1))
        least, n_others = distances.min(), self.prototypes[..., 0].numel() - 1
        lead = least.square() / 2
        return torch.stack([torch.log(4 * n_others * distances.max() / least) / lead, lead])

    def energy(self, x: Tensor) -> Tensor:
        """Return V(x), (batch,); x: (batch, features)."""
        return -torch.logsumexp(-self.value()[0] * self.squared_distances(x), dim=1)

    def trajectory(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the states after each explicit Euler step; x: (batch, features).

        With mean m(x) of the prototypes, weighted by exp(-b |x - w|^2), grad V(x) = 2 b (x - m(x)),
        and a step of size s / (2 b) is x + s (m(x) - x). V has no curvature above 2 b, so that it
        decreases for s < 2.
        """
        flat = self.prototypes.flatten(0, 1)
        for _ in range(_N_STEPS):
            shares = torch.softmax(-self.value()[0] * self.squared_distances(x), dim=1)
            x = x + _SHARE * (shares @ flat - x)
            yield x

    def into_basin(self, x: Tensor) -> Tensor:
        """Move each x towards its nearest prototype until the flow provably ends there."""
        flat = self.prototypes.flatten(0, 1)
        distances = self.squared_distances(x)
        nearest = distances.argmin(dim=1)
        between = torch.cdist(flat[nearest], flat).square()
        # The difference of squared distances is linear on the way.
        lead = distances - distances.gather(1, nearest[:, None])
        needed = (self.value()[1] - lead) / (between - lead)
        others = torch.ones_like(needed).scatter(1, nearest[:, None], 0.0)
        way = (needed * others).nan_to_num(0.0).clamp(0, 1).amax(dim=1, keepdim=True)
        return x + way * (flat[nearest] - x)

    def squared_distances(self, x: Tensor) -> Tensor:
        """Return |x - w|^2 for all prototypes, (batch, classes * prototypes)."""
        flat = self.prototypes.flatten(0, 1)
        return x.square().sum(dim=1, keepdim=True) + flat.square().sum(dim=1) - 2 * x @ flat.T


def _means(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Return k means of points, (n, features), by Lloyd's algorithm from random ones."""
    n = len(points)
    order = torch.randperm(n, generator=generator).repeat(math.ceil(k / n))[:k]
    noise = torch.randn(k, points.shape[1], generator=generator).to(points)
    means = points[order.to(points.device)] + 1e-3 * noise
    for _ in range(_ROUNDS):
        nearest = (means.square().sum(dim=1) - 2 * points @ means.T).argmin(dim=1)
        sums = torch.zeros_like(means).index_add_(0, nearest, points)
        counts = torch.bincount(nearest, minlength=k)[:, None]
        # A mean without points stays.
        means = torch.where(counts > 0, sums / counts.clamp_min(1), means)
    return means
