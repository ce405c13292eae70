"""Alternating expansive and contractive steps, which together are nonexpansive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from robustbench_dyn.flows.activations import find_activation
from robustbench_dyn.flows.linear import UnitNormConv
from robustbench_dyn.flows.orthogonal import Rotation, ShiftedRotation
from robustbench_dyn.lipschitz.norms import composed_kernel, conv_norm

# Keeps learned step sizes far enough inside their constraint for the defect of float32 rotations.
_SAFETY = 1.0 - 1e-4


class OrthogonalMap(Protocol):
    """A linear map A with A^T A near the identity: Rotation, ShiftedRotation, PeriodicConv."""

    def step(
        self, x: Tensor, h: Tensor | float, bias: Tensor, sigma: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return x + h A^T sigma(A x + b)."""

    def gram_range(self) -> tuple[float, float]:
        """Return a lower and an upper bound of the eigenvalues of A^T A."""


class SwitchingPair(nn.Module):
    """x -> y = x + h2 B^T sigma(B x + c), then y -> y - h1 A^T sigma(A y + b); A, B orthogonal.

    With slopes of sigma in [a, 1], the first step is (1 + h2)-Lipschitz, and the second
    (1 - a h1)-Lipschitz for h1 <= 2 / (1 + a); (1 - a h1)(1 + h2) <= 1 makes the pair nonexpansive
    although the first step alone expands. (arXiv 2210.02373, section 3.3.)
    Flexible: both step sizes are learned under that constraint, starting at `contractive` and
    `expansive`. Prescribed (learned=False): they stay at these values. Raises ValueError where the
    values break the constraint. make_expansion and make_contraction: return B and A for a number of
    channels. By default B mixes neighbours and A does not; two maps with the same shift would have
    the receptive field of one shift.
    """

    def __init__(
        self,
        channels: int,
        *,
        contractive: float = 0.3,
        expansive: float = 0.141,
        learned: bool = True,
        activation: str = "leaky_relu_0.5",
        make_expansion: Callable[[int], nn.Module] = ShiftedRotation,
        make_contraction: Callable[[int], nn.Module] = Rotation,
    ) -> None:
        super().__init__()
        self.activation = find_activation(activation)
        self.slope = self.activation.min_slope
        max_contractive = _SAFETY * 2 / (1 + self.slope)
        contracts = 0 < contractive <= max_contractive
        if not contracts or not 0 < expansive <= self._max_expansive(contractive):
            raise ValueError(
                f"contractive={contractive} and expansive={expansive} break (1 - a h1)(1 + h2) <= 1"
                f" or h1 <= 2 / (1 + a), where a={self.slope} is the lowest slope of {activation}"
            )
        self.contraction, self.expansion = make_contraction(channels), make_expansion(channels)
        self.bias = nn.Parameter(torch.zeros(2, channels, 1, 1))
        # Both step sizes, as logits of their ratios to the largest ones allowed.
        max_expansive = self._max_expansive(contractive)
        shares = torch.tensor([contractive / max_contractive, expansive / max_expansive])
        logits = torch.logit(shares.clamp(1e-3, 1 - 1e-3))
        self.learned = learned
        self.prescribed = (contractive, expansive)
        if learned:
            self.share_logits = nn.Parameter(logits)

    def _max_expansive(self, contractive: float) -> float:
        return _SAFETY * (1 / (1 - self.slope * contractive) - 1)

    def steps(self) -> tuple[Tensor | float, Tensor | float]:
        """Return h1 of the contractive step and h2 of the expansive one."""
        if not self.learned:
            return self.prescribed
        first, second = torch.sigmoid(self.share_logits)
        h1 = _SAFETY * first * 2 / (1 + self.slope)
        return h1, _SAFETY * second * (1 / (1 - self.slope * h1) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the state after both steps; x: (batch, channels, height, width)."""
        h1, h2 = self.steps()
        sigma, (first, second) = self.activation.function, self.bias.flatten(1)
        x = self._map("expansion").step(x, h2, second, sigma)
        return self._map("contraction").step(x, -h1, first, sigma)

    def _map(self, name: str) -> OrthogonalMap:
        return cast(OrthogonalMap, getattr(self, name))

    def bounds(self) -> tuple[float, float]:
        """Return the Lipschitz bounds of the expansive and of the contractive step, in float64.

        Expansive: 1 + h2 s, where s bounds the eigenvalues of B^T B. Contractive: with the
        eigenvalues of A^T A in [r, s], those of I - h1 A^T D A, D in [a, 1], lie in
        [1 - h1 s, 1 - a h1 r]; the bound is the larger modulus.
        """
        with torch.no_grad():
            h1, h2 = (float(h) for h in self.steps())
        lowest, highest = self._map("contraction").gram_range()
        contractive = max(abs(1 - self.slope * h1 * lowest), abs(1 - h1 * highest))
        return 1 + h2 * self._map("expansion").gram_range()[1], contractive

    def lipschitz_bound(self) -> float:
        """Return the product of both bounds; at most 1 unless A or B is far from orthogonal."""
        expansive, contractive = self.bounds()
        return expansive * contractive * (1 + 1e-12)


class NaiveStep(nn.Module):
    """x -> (x + B sigma(A x + b)) / 2 with |A|, |B| <= 1: 1-Lipschitz by the triangle inequality.

    The baseline of the comparison: a step loses up to half of the norm where its two terms do not
    align. A and B are convolutions divided by a rigorous bound of their norm.
    """

    def __init__(self, channels: int, *, kernel_size: int = 3, activation: str = "relu") -> None:
        super().__init__()
        self.activation = find_activation(activation)
        self.inner = UnitNormConv(channels, channels, kernel_size=kernel_size)
        self.outer = UnitNormConv(channels, channels, kernel_size=kernel_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the state after one step; x: (batch, channels, height, width)."""
        outer: Tensor = self.outer(self.activation.function(self.inner(x)))
        return (x + outer) / 2

    def lipschitz_bound(self) -> float:
        """Return (|I + c B A| + r |B| |A|) / 2, where the slopes of sigma lie within r of c.

        The Jacobians are (I + B D A) / 2 with diagonal D = c + r E, |E| <= 1. On the infinite grid
        D is 0 in the padding outside the image, so that 0 counts as a slope. Never larger than the
        bound by the triangle inequality, (1 + |B| max abs(sigma') |A|) / 2.
        """
        low, high = min(0.0, self.activation.min_slope), self.activation.max_slope
        c, r = (high + low) / 2, (high - low) / 2
        product = self.outer.lipschitz_bound() * self.inner.lipschitz_bound()
        kernel = c * composed_kernel(self.outer.value(), self.inner.value())
        channels, middle = torch.arange(len(kernel)), [size // 2 for size in kernel.shape[2:]]
        kernel[channels, channels, middle[0], middle[1]] += 1
        # conv_norm is about a percent too large; the triangle inequality may give less.
        norm_bound = min(conv_norm(kernel), 1 + abs(c) * product)
        return (norm_bound + r * product) / 2 * (1 + 1e-12)
