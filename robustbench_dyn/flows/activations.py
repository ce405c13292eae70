"""Activations by name: the function, a primitive of it (for energies), and the range of slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Activation(NamedTuple):
    """sigma, R with R' = sigma, and the range in which the slopes of sigma lie, all entrywise."""

    function: Callable[[Tensor], Tensor]
    primitive: Callable[[Tensor], Tensor]
    lowest_slope: float
    highest_slope: float

    @property
    def steepest(self) -> float:
        """The Lipschitz constant."""
        return max(abs(self.lowest_slope), abs(self.highest_slope))


def _log_cosh(x: Tensor) -> Tensor:
    # Without the overflow of cosh.
    return F.softplus(-2 * x) + x - torch.log(torch.tensor(2.0, dtype=x.dtype, device=x.device))


def _leaky_relu(slope: float) -> Activation:
    def function(x: Tensor) -> Tensor:
        return F.leaky_relu(x, slope)

    return Activation(function, lambda x: x * function(x) / 2, slope, 1.0)


class MaxMin(nn.Module):
    """Put each channel of the first half and its partner in the second in order, larger first.

    1-Lipschitz, and it keeps the norm and every gradient's norm (GroupSort of groups of two, Anil,
    Lucas & Grosse, arXiv 1811.05381). (batch, channels, ...), channels even.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return max(a, b) and min(a, b) for the halves a and b of the channels."""
        a, b = x.chunk(2, dim=1)
        # The gradients of maximum and minimum cost several times as much.
        excess = F.relu(a - b)
        return torch.cat([b + excess, a - excess], dim=1)

    def lipschitz_bound(self) -> float:
        """Return 1."""
        return 1.0


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(F.relu, lambda x: F.relu(x).square() / 2, 0.0, 1.0),
    "leaky_relu": _leaky_relu(0.1),
    "leaky_relu_0.5": _leaky_relu(0.5),
    "tanh": Activation(torch.tanh, _log_cosh, 0.0, 1.0),
    # Not monotone: its potentials are not convex.
    "sin": Activation(torch.sin, lambda x: -torch.cos(x), -1.0, 1.0),
}


def find_activation(name: str) -> Activation:
    """Look an activation up; raises ValueError, naming those there are."""
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation={name!r} is unknown; choose one of {known}")
    return ACTIVATIONS[name]
