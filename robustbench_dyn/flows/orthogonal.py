"""Weights on the Stiefel manifold, and the orthogonal maps of images built from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.lipschitz.norms import diagonal_bound


class Orthonormal(nn.Module):
    """A matrix with orthonormal rows: `weight`, (rows, columns), rows <= columns.

    The training loop must call `retract()` after each optimizer step.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        if rows > columns:
            raise ValueError(f"{rows} orthonormal rows do not fit into {columns} dimensions")
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(rows, columns)))

    @torch.no_grad()
    def retract(self) -> None:
        """Map `weight` back to the Stiefel manifold by the QR retraction.

        QR by Cholesky; Absil, Mahony & Sepulchre, Optimization Algorithms on Matrix Manifolds,
        2008, example 4.1.3.
        """
        lower = torch.linalg.cholesky(self.weight @ self.weight.t())
        self.weight.copy_(torch.linalg.solve_triangular(lower, self.weight, upper=False))

    def squared_norm(self) -> float:
        """Return an upper bound of |W|^2 for the current weights, from W W^T in float64."""
        weight = self.weight.detach().double()
        return float(diagonal_bound(weight, weight.new_ones(len(weight))).max()) * (1 + 1e-10)

    def defect(self) -> float:
        """Return d with (1 - d) |z|^2 <= |W^T z|^2 <= (1 + d) |z|^2, by Gershgorin's theorem."""
        weight = self.weight.detach().double()
        gram = weight @ weight.t() - torch.eye(len(weight)).to(weight)
        return float(gram.abs().sum(dim=1).max()) * (1 + 1e-10) + 1e-12


class OrthonormalLinear(Orthonormal):
    """x -> W x + b with orthonormal rows of W: (batch, columns) -> (batch, rows), 1-Lipschitz."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(out_features, in_features)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return W x + b."""
        return F.linear(x, self.weight, self.bias)

    def lipschitz_bound(self) -> float:
        """Return a bound of |W|, which is 1 up to the rounding of the retraction."""
        return self.squared_norm() ** 0.5 * (1 + 1e-12)


class Rotation(Orthonormal):
    """A x = Q x: an orthogonal matrix over the channels, the same at each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return A x; x: (batch, channels, height, width)."""
        return F.linear(self._to_channels_last(x), self.weight).permute(0, 3, 1, 2)

    def adjoint(self, z: Tensor) -> Tensor:
        """Return A^T z."""
        return self._to_channels_first(F.linear(z.permute(0, 2, 3, 1), self.weight.t()))

    def step(
        self, x: Tensor, h: Tensor | float, bias: Tensor, sigma: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return x + h A^T sigma(A x + b); bias: (channels,); h is negative for a descent."""
        state = self._to_channels_last(x)
        force = sigma(F.linear(state, self.weight, bias))
        return self._to_channels_first(state + F.linear(force, (h * self.weight).t()))

    def gram_range(self) -> tuple[float, float]:
        """Return bounds of the eigenvalues of A^T A for the current weights."""
        defect = self.defect()
        return 1 - defect, 1 + defect

    # Channels last, so that a product with Q is one matrix product over all pixels.
    def _to_channels_last(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)

    def _to_channels_first(self, state: Tensor) -> Tensor:
        return state.permute(0, 3, 1, 2)


class ShiftedRotation(Rotation):
    """A x = Q S x: a cyclic shift of each channel, then an orthogonal matrix over the channels.

    A fifth of the channels stays in place; the others shift by a pixel up, down, left or right, so
    that Q mixes each pixel with its neighbours. The order matters: S commutes with entrywise maps,
    so that (S Q)^T sigma(S Q x + b) = Q^T sigma(Q x + b) would not mix pixels. For the same reason
    consecutive steps with the same shift have the receptive field of one step; put another map
    between them. Orthogonal up to the defect of Q, on images of any size; a special case of the
    block orthogonal convolutions of Li et al., arXiv 1911.00937.
    """

    # A step is taken in the coordinates of S x: x + h A^T f = S^T (S x + h Q^T f).
    def _to_channels_last(self, x: Tensor) -> Tensor:
        return _shift(x.permute(0, 2, 3, 1), 1)

    def _to_channels_first(self, state: Tensor) -> Tensor:
        return _shift(state, -1).permute(0, 3, 1, 2)


_SHIFTS = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))


def _shift(x: Tensor, sign: int) -> Tensor:
    """Shift (batch, height, width, channels) cyclically, each fifth of the channels its own way."""
    order = _shifted_order(tuple(x.shape[1:]), sign).to(x.device)
    return x.flatten(1).index_select(1, order).view(x.shape)


@lru_cache(maxsize=64)
def _shifted_order(shape: tuple[int, int, int], sign: int) -> Tensor:
    # One gather is several times faster than rolls and a concatenation. NumPy, because a tensor
    # that is cached while torch traces or differentiates may belong to that trace.
    order = np.arange(np.prod(shape)).reshape(shape)
    moved = [
        np.roll(part, (sign * down, sign * right), axis=(0, 1))
        for part, (down, right) in zip(np.array_split(order, len(_SHIFTS), 2), _SHIFTS, strict=True)
    ]
    with torch.inference_mode(False):
        return torch.from_numpy(np.concatenate(moved, axis=2).ravel())
