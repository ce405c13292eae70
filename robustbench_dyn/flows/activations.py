"""Activations by name: the function, its primitive (for energies), and the range of its slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Activation(NamedTuple):
    """sigma, R with R' = sigma, and the range of the slopes of sigma, all entrywise."""

    function: Callable[[Tensor], Tensor]
    primitive: Callable[[Tensor], Tensor]
    min_slope: float
    max_slope: float

    @property
    def lipschitz_constant(self) -> float:
        """The largest modulus of a slope."""
        return max(abs(self.min_slope), abs(self.max_slope))


def _log_cosh(x: Tensor) -> Tensor:
    # log(cosh(x)), without the overflow of cosh.
    return F.softplus(-2 * x) + x - torch.log(torch.tensor(2.0, dtype=x.dtype, device=x.device))


def _leaky_relu(slope: float) -> Activation:
    def function(x: Tensor) -> Tensor:
        return F.leaky_relu(x, slope)

    return Activation(function, lambda x: x * function(x) / 2, slope, 1.0)


class MaxMin(nn.Module):
    """Sort each channel of the first half and its partner in the second half, larger one first.

    1-Lipschitz; keeps the norm of the state and of every gradient (GroupSort with groups of two,
    Anil, Lucas & Grosse, arXiv 1811.05381). Input: (batch, channels, ...), channels even.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return max(a, b) and min(a, b) for the halves a and b of the channels."""
        a, b = x.chunk(2, dim=1)
        # torch.maximum and torch.minimum have gradients that cost several times as much.
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
    # Not monotone, so that its potentials are not convex.
    "sin": Activation(torch.sin, lambda x: -torch.cos(x), -1.0, 1.0),
}


def find_activation(name: str) -> Activation:
    """Return an activation by name; raises ValueError, with the known names, for any other."""
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation={name!r} is unknown; choose one of {known}")
    return ACTIVATIONS[name]
