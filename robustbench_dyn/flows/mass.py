"""Mass-preserving flows, and steps that keep the state in the probability simplex."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.lipschitz.norms import conv_norm


class FluxField(nn.Module):
    """f(x) = S(x) 1 with S(x) skew-symmetric: mass moves between neighbouring entries of the state.

    A network computes the fluxes from each entry to its neighbours on the right, below and in the
    next channel (the channels form a ring, and no flux crosses the border); f is their divergence.
    Hence 1^T f = 0, and every Runge-Kutta method preserves the sum. (arXiv 2210.02373, section 2;
    S_ij is the flux from j to i.) gain: scale of the inner weights at initialisation; small states
    need a large one for the field to be nonlinear.
    """

    def __init__(
        self, channels: int, hidden: int, *, kernel_size: int = 3, gain: float = 1.0
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.inner = nn.Conv2d(channels, hidden, kernel_size, padding=padding)
        nn.init.orthogonal_(self.inner.weight, gain=gain)
        nn.init.uniform_(cast(Tensor, self.inner.bias), -gain, gain)
        self.outer = nn.Conv2d(hidden, 3 * channels, kernel_size, padding=padding)

    def forward(self, _t: float, x: Tensor) -> Tensor:
        """Return the velocity; x: (batch, channels, height, width)."""
        right, down, across = self.outer(torch.tanh(self.inner(x))).chunk(3, dim=1)
        right, down = right[..., :-1], down[..., :-1, :]
        velocity: Tensor = across.roll(1, dims=1) - across
        velocity = velocity + F.pad(right, (1, 0)) - F.pad(right, (0, 1))
        return velocity + F.pad(down, (0, 0, 1, 0)) - F.pad(down, (0, 0, 0, 1))

    def lipschitz_bound(self) -> float:
        """Return 2 sqrt(3) |outer| |inner|; each of the three differences has norm at most 2."""
        return 12**0.5 * conv_norm(self.outer.weight) * conv_norm(self.inner.weight) * (1 + 1e-12)


class TransportStep(nn.Module):
    """x+ = P(x) x, P(x) with entries >= 0 and columns that sum to 1: preserves the simplex.

    Each entry distributes its mass over itself, its four neighbours and the channels before and
    after it (a ring), with the softmax of a convolution of x as weights. No mass crosses the
    border. So the step preserves the sum and nonnegativity: a Markov chain that depends on its
    state. max_entry: a bound of the entries of x, such as the total mass; only lipschitz_bound uses
    it.
    """

    def __init__(
        self, channels: int, *, kernel_size: int = 3, max_entry: float = torch.inf
    ) -> None:
        super().__init__()
        self.max_entry = max_entry
        self.gate = nn.Conv2d(channels, 7 * channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the state after one step; x: (batch, channels, height, width)."""
        n, channels, height, width = x.shape
        logits = self.gate(x).reshape(n, 7, channels, height, width)
        shares = (logits + _walls(height, width, logits)).softmax(dim=1) * x[:, None]
        stay, up, down, left, right, before, after = shares.unbind(dim=1)
        moved: Tensor = stay + before.roll(-1, dims=1) + after.roll(1, dims=1)
        moved = moved + F.pad(up[..., 1:, :], (0, 0, 0, 1)) + F.pad(down[..., :-1, :], (0, 0, 1, 0))
        return moved + F.pad(left[..., 1:], (0, 1)) + F.pad(right[..., :-1], (1, 0))

    def lipschitz_bound(self) -> float:
        """Return sqrt(7) (1 + max_entry |gate| / 2): softmax is 1/2-Lipschitz, a shift 1."""
        return 7**0.5 * (1 + self.max_entry * conv_norm(self.gate.weight) / 2) * (1 + 1e-12)


def _walls(height: int, width: int, like: Tensor) -> Tensor:
    """Return -inf where mass would leave the image, else 0; (7, 1, height, width)."""
    walls = like.new_zeros(7, 1, height, width)
    walls[1, :, 0], walls[2, :, -1] = -torch.inf, -torch.inf
    walls[3, :, :, 0], walls[4, :, :, -1] = -torch.inf, -torch.inf
    return walls
