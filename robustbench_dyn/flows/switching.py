"""Expansive and contractive steps in turn: single steps may grow, together they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from robustbench_dyn.flows.activations import find_activation
from robustbench_dyn.flows.linear import UnitNormConv
from robustbench_dyn.flows.orthogonal import Rotation, ShiftedRotation
from robustbench_dyn.lipschitz.norms import composed_kernel, conv_norm

# Keeps learned steps so far inside their constraint that the defect of float32 rotations fits in.
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
    (1 - a h1)-Lipschitz as long as h1 <= 2 / (1 + a); (1 - a h1)(1 + h2) <= 1 makes the pair
    nonexpansive although the first step alone expands. (arXiv 2210.02373, section 3.3.)
    Flexible: both steps are learned under that constraint, from where `contractive` and
    `expansive` put them. Prescribed (learned=False): they stay there. Raises ValueError where the
    two break the constraint. make_expansion and make_contraction: from channels to B and to A. By
    default B mixes neighbours and A does not; if both shifted alike, no pixel would ever see
    further than one shift.
    """

    def __init__(
        self, channels: int, *, contractive: float = 0.3, expansive: float = 0.141,
        learned: bool = True, activation: str = "leaky_relu_0.5",
        make_expansion: Callable[[int], nn.Module] = ShiftedRotation,
        make_contraction: Callable[[int], nn.Module] = Rotation,
    ) -> None:  # fmt: skip
        super().__init__()
        self.activation = find_activation(activation)
        self.slope = self.activation.lowest_slope
        longest = _SAFETY * 2 / (1 + self.slope)
        if not 0 < contractive <= longest or not 0 < expansive <= self._most(contractive):
            raise ValueError(
                f"contractive={contractive} and expansive={expansive} break (1 - a h1)(1 + h2) <= 1"
                f" or h1 <= 2 / (1 + a), where a={self.slope} is the lowest slope of {activation}"
            )
        self.contraction, self.expansion = make_contraction(channels), make_expansion(channels)
        self.bias = nn.Parameter(torch.zeros(2, channels, 1, 1))
        # Both steps as logits of their shares of what they may be.
        shares = torch.tensor([contractive / longest, expansive / self._most(contractive)])
        logits = torch.logit(shares.clamp(1e-3, 1 - 1e-3))
        self.learned = learned
        self.prescribed = (contractive, expansive)
        if learned:
            self.share_logits = nn.Parameter(logits)

    def _most(self, contractive: float) -> float:
        return _SAFETY * (1 / (1 - self.slope * contractive) - 1)

    def steps(self) -> tuple[Tensor | float, Tensor | float]:
        """Return h1 of the contractive and h2 of the expansive step."""
        if not self.learned:
            return self.prescribed
        first, second = torch.sigmoid(self.share_logits)
        h1 = _SAFETY * first * 2 / (1 + self.slope)
        return h1, _SAFETY * second * (1 / (1 - self.slope * h1) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Step twice; x: (batch, channels, height, width)."""
        h1, h2 = self.steps()
        sigma, (first, second) = self.activation.function, self.bias.flatten(1)
        x = self._map("expansion").step(x, h2, second, sigma)
        return self._map("contraction").step(x, -h1, first, sigma)

    def _map(self, name: str) -> OrthogonalMap:
        return cast(OrthogonalMap, getattr(self, name))

    def bounds(self) -> tuple[float, float]:
        """Return the Lipschitz bounds of the expansive and of the contractive step, in float64.

        With the eigenvalues of B^T B up to s: 1 + h2 s. With those of A^T A in [r, s], those of
        I - h1 A^T D A, D in [a, 1], lie in [1 - h1 s, 1 - a h1 r]: the larger modulus.
        """
        with torch.no_grad():
            h1, h2 = (float(h) for h in self.steps())
        lowest, highest = self._map("contraction").gram_range()
        contractive = max(abs(1 - self.slope * h1 * lowest), abs(1 - h1 * highest))
        return 1 + h2 * self._map("expansion").gram_range()[1], contractive

    def lipschitz_bound(self) -> float:
        """Return the product of the two steps' bounds: at most 1 unless A or B is far from it."""
        expansive, contractive = self.bounds()
        return expansive * contractive * (1 + 1e-12)


class NaiveStep(nn.Module):
    """x -> (x + B sigma(A x + b)) / 2 with |A|, |B| <= 1: 1-Lipschitz by the triangle inequality.

    Half of every step is lost where the two terms do not point the same way: the straw man of the
    comparison. A and B are convolutions divided by a provable bound of their norm.
    """

    def __init__(self, channels: int, *, kernel_size: int = 3, activation: str = "relu") -> None:
        super().__init__()
        self.activation = find_activation(activation)
        self.inner = UnitNormConv(channels, channels, kernel_size=kernel_size)
        self.outer = UnitNormConv(channels, channels, kernel_size=kernel_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Step once; x: (batch, channels, height, width)."""
        outer: Tensor = self.outer(self.activation.function(self.inner(x)))
        return (x + outer) / 2

    def lipschitz_bound(self) -> float:
        """Return (|I + c B A| + r |B| |A|) / 2, where slopes of sigma lie within r of c.

        Jacobians are (I + B D A) / 2 with a diagonal D = c + r E, |E| <= 1. On the infinite grid D
        is 0 outside the image, where the padding is, so 0 is among the slopes. No larger than by
        the triangle inequality, (1 + |B| max abs(sigma') |A|) / 2.
        """
        lowest, highest = min(0.0, self.activation.lowest_slope), self.activation.highest_slope
        c, r = (highest + lowest) / 2, (highest - lowest) / 2
        product = self.outer.lipschitz_bound() * self.inner.lipschitz_bound()
        kernel = c * composed_kernel(self.outer.value(), self.inner.value())
        channels, middle = torch.arange(len(kernel)), [size // 2 for size in kernel.shape[2:]]
        kernel[channels, channels, middle[0], middle[1]] += 1
        # A bound of a norm over a grid of frequencies is a percent too large.
        at_most = min(conv_norm(kernel), 1 + abs(c) * product)
        return (at_most + r * product) / 2 * (1 + 1e-12)
