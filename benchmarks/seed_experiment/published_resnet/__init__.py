"""The network of the published comparison: blocks of 3 x 3 convolutions with five kinds of step."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.flows import (
    Classifier,
    EulerStep,
    PeriodicConv,
    SwitchingPair,
    UnitRowLinear,
    lipschitz_bound,
)

_CONVOLUTIONS_PER_BLOCK = 4
# Largest step size of the nonexpansive network: h |A|^2 <= 2 up to |A| = 1.02.
_MAX_STEP = 1.9


class NaiveConvStep(nn.Module):
    """x -> (x + B relu(A x + b)) / 2, 1-Lipschitz for |A| |B| <= 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = PeriodicConv(channels, channels, bias=True)
        self.outer = PeriodicConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the state after one step; x: (batch, channels, height, width)."""
        outer: Tensor = self.outer(F.relu(self.inner(x)))
        return (x + outer) / 2

    def lipschitz_bound(self) -> float:
        """Return (1 + |B| |A|) / 2."""
        return (1 + lipschitz_bound(self.outer) * lipschitz_bound(self.inner)) / 2 * (1 + 1e-12)


class NonexpansiveStep(nn.Module):
    """x -> x - h A^T relu(A x + b) with h learned in (0, 1.9), 1-Lipschitz for h |A|^2 <= 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = PeriodicConv(channels, channels)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.share_logit = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the state after one step; x: (batch, channels, height, width)."""
        return self.conv.step(x, -_MAX_STEP * torch.sigmoid(self.share_logit), self.bias, F.relu)

    def lipschitz_bound(self) -> float:
        """Return max(1, h |A|^2 - 1): Jacobians are I - h A^T D A with 0 <= D <= I."""
        h = _MAX_STEP * float(torch.sigmoid(self.share_logit.detach().double()))
        excess = h * self.conv.gram_range()[1] * (1 + 1e-12) - 1
        # Written so that NaN stays NaN: max(1, nan) would be 1.
        return 1.0 if excess <= 1 else excess


class ScaledLift(nn.Module):
    """x -> s K * x + b with an unconstrained scale s, as published."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = PeriodicConv(in_channels, out_channels)
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Lift (batch, in_channels, height, width) to out_channels."""
        lifted: Tensor = self.scale * self.conv(x) + self.bias[:, None, None]
        return lifted

    def lipschitz_bound(self) -> float:
        """Return |s| |K|."""
        return abs(float(self.scale.detach())) * lipschitz_bound(self.conv) * (1 + 1e-12)


def _euler(channels: int) -> nn.Module:
    inner, outer = PeriodicConv(channels, channels, bias=True), PeriodicConv(channels, channels)
    return EulerStep(nn.Sequential(inner, nn.ReLU(), outer))


def _conv(channels: int) -> nn.Module:
    return PeriodicConv(channels, channels)


def _flexible(channels: int) -> nn.Module:
    return SwitchingPair(channels, make_expansion=_conv, make_contraction=_conv)


def _prescribed(channels: int) -> nn.Module:
    return SwitchingPair(channels, learned=False, make_expansion=_conv, make_contraction=_conv)


# Each step, and its number of convolutions.
_STEPS: dict[str, tuple[Callable[[int], nn.Module], int]] = {
    "unconstrained": (_euler, 2),
    "naive": (NaiveConvStep, 2),
    "nonexpansive": (NonexpansiveStep, 1),
    "flexible": (_flexible, 2),
    "prescribed": (_prescribed, 2),
}


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    steps: str = "flexible",
    channels: int = 32,
    n_blocks: int = 3,
    unshuffle: bool = False,
    free_scales: bool = True,
) -> nn.Module:
    """Build blocks of lift, four convolutions and 2 x 2 max pooling, and a linear head.

    steps: unconstrained, naive, nonexpansive, flexible or prescribed. channels: of the first
    block; each later block has twice as many. unshuffle: start at half the resolution.
    free_scales: lifts have a scale and rows of the head any length, as published; otherwise lifts
    are nearly isometries and rows have unit norm, so that a margin is a distance.
    """
    if steps not in _STEPS:
        raise ValueError(f"steps={steps!r} is unknown; choose one of {', '.join(_STEPS)}")
    make, n_convolutions = _STEPS[steps]
    n_in, height, width = input_shape
    layers = list[nn.Module]()
    if unshuffle:
        layers.append(nn.PixelUnshuffle(2))
        n_in, height, width = 4 * n_in, height // 2, width // 2
    for block in range(n_blocks):
        n_out = channels * 2**block
        lift = ScaledLift if free_scales else PeriodicConv
        layers.append(lift(n_in, n_out))
        layers += [make(n_out) for _ in range(_CONVOLUTIONS_PER_BLOCK // n_convolutions)]
        layers.append(nn.MaxPool2d(2))
        n_in, height, width = n_out, height // 2, width // 2
    features = n_in * height * width
    head = nn.Linear if free_scales else UnitRowLinear
    return Classifier(nn.Sequential(*layers, nn.Flatten()), head(features, n_classes))
