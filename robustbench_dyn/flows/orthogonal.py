"""Weights on the Stiefel manifold, and a convolution that is an orthogonal map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_dyn.flows.norms import diagonal_bound


class Orthonormal(nn.Module):
    """A matrix with orthonormal rows, `weight` (rows, columns), rows <= columns.

    Training must call `retract()` after each optimizer step.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        if rows > columns:
            raise ValueError(f"{rows} orthonormal rows do not fit into {columns} dimensions")
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(rows, columns)))

    @torch.no_grad()
    def retract(self) -> None:
        """Put the rows of `weight` back onto the Stiefel manifold, by the QR retraction.

        QR by Cholesky; Absil, Mahony & Sepulchre, Optimization Algorithms on Matrix Manifolds,
        2008, example 4.1.3.
        """
        lower = torch.linalg.cholesky(self.weight @ self.weight.t())
        self.weight.copy_(torch.linalg.solve_triangular(lower, self.weight, upper=False))

    def squared_norm(self) -> float:
        """Return an upper bound on |W|^2 of the weights as they are, from W W^T in float64."""
        weight = self.weight.detach().double()
        return float(diagonal_bound(weight, weight.new_ones(len(weight))).max()) * (1 + 1e-10)

    def defect(self) -> float:
        """Return d with (1 - d) |z|^2 <= |W^T z|^2 <= (1 + d) |z|^2, by Gershgorin's theorem."""
        weight = self.weight.detach().double()
        gram = weight @ weight.t() - torch.eye(len(weight), dtype=weight.dtype)
        return float(gram.abs().sum(dim=1).max()) * (1 + 1e-10) + 1e-12


class ShiftedRotation(Orthonormal):
    """A(x) = shift(Q x): an orthogonal matrix over channels, then a cyclic shift of each channel.

    A fifth of the channels stays, the others move by a pixel up, down, left or right, so that a
    step sees its neighbours. Orthogonal up to Q's defect, on images of any size; a special case of
    the block orthogonal convolutions of Li et al., arXiv 1911.00937.
    """

    _SHIFTS = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return A x; x: (batch, channels, height, width)."""
        return self._shift(torch.einsum("ij,njhw->nihw", self.weight, x), 1)

    def adjoint(self, z: Tensor) -> Tensor:
        """Return A^T z."""
        return torch.einsum("ij,nihw->njhw", self.weight, self._shift(z, -1))

    def _shift(self, x: Tensor, sign: int) -> Tensor:
        parts = x.tensor_split(len(self._SHIFTS), dim=1)
        moved = [
            part.roll((sign * down, sign * right), dims=(2, 3))
            for part, (down, right) in zip(parts, self._SHIFTS, strict=True)
        ]
        return torch.cat(moved, dim=1)
