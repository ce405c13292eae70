"""Activations between two lines: sound for any slopes, since only the offsets are computed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Evaluations of the functions below err by fewer units in the last place than this.
_ULPS = 16 * 2.0**-53
_BISECTIONS = 12
# More than an underflow loses.
_TINY = 2.0**-1000
# Errors of derivatives at most 1.
_ABSOLUTE = 2.0**-48


class Line(NamedTuple):
    """slope z + offset, entry by entry."""

    slope: Tensor
    offset: Tensor


class Lines(NamedTuple):
    """lower(z) <= f(z) <= upper(z) between the bounds of z."""

    lower: Line
    upper: Line


class Activation(ABC):
    """An increasing function of one number, applied entry by entry.

    units: how many units roundoff of its value the model's function may err by. error: what the
    function as it is computed may be away from the one that is meant, besides rounding.
    tight_upper: the chord is the best upper line, so that only the lower is optimised. flattest,
    steepest: the least and the largest slope.
    """

    units = 16
    error = 0.0
    flattest = 0.0
    steepest = 1.0
    tight_upper = True
    piecewise_linear = False

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""

    @abstractmethod
    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""

    @abstractmethod
    def critical(self, slope: Tensor) -> list[Tensor]:
        """Return all z where f(z) - slope z may have a local extremum; more do no harm."""

    def slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return good slopes of a lower and an upper line between the bounds of z; f is convex."""
        return self.derivative((lower + upper) / 2), self.chord(lower, upper)

    def chord(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return (f(u) - f(l)) / (u - l), and f' where u is l."""
        width = upper - lower
        wide = width > 1e-9
        quotient = (self(upper) - self(lower)) / width.where(wide, 1.0)
        return quotient.where(wide, self.derivative(lower))

    def secants(
        self, low: Tensor, high: Tensor, lower: Tensor, upper: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return bounds of (f(w) - f(z)) / (w - z) for z in [low, high] and w in [lower, upper].

        Here, by the mean value theorem, those of f', which falls on both sides of 0.
        """
        lower, upper = lower.minimum(low), upper.maximum(high)
        peak = torch.zeros_like(lower).clamp(lower, upper)
        least = self.derivative(lower).minimum(self.derivative(upper)) - _ABSOLUTE
        most = self.derivative(peak) + _ABSOLUTE
        return least.clamp_min(0.0), most.clamp_max(self.steepest)

    def looseness(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return a measure of the space between the lines; 0 where they coincide."""
        return (upper - lower).square()

    def line(self, slope: Tensor, lower: Tensor, upper: Tensor, *, above: bool) -> Line:
        """Return the line of this slope that touches f from above or from below on [l, u].

        Its offset is the extremum of f(z) - slope z over the ends and the critical points, lowered
        or raised by the rounding; differentiable in slope (by the envelope theorem).
        """
        with torch.no_grad():
            points = [lower, upper]
            points += [torch.clamp(z, lower, upper) for z in self.critical(slope)]
        sign = 1.0 if above else -1.0
        offset = None
        for z in points:
            value = self(z)
            candidate = value - slope * z
            slack = _ULPS * (value.abs() + (slope * z).abs()).detach() + self.error + _TINY
            candidate = candidate + sign * slack
            if offset is None:
                offset = candidate
            else:
                offset = torch.maximum(offset, candidate) if above else offset.minimum(candidate)
        assert offset is not None
        return Line(slope, offset)

    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """Return the lines of the good slopes."""
        below, above = self.slopes(lower, upper)
        return Lines(
            self.line(below, lower, upper, above=False), self.line(above, lower, upper, above=True)
        )


class LeakyReLU(Activation):
    """max(z, a z) with 0 <= a <= 1; ReLU where a = 0."""

    piecewise_linear = True
    units = 1

    def __init__(self, a: float) -> None:
        self.a = self.flattest = a

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        # The gradient of torch.maximum costs several times as much.
        return F.leaky_relu(z, self.a)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        return torch.where(z > 0, 1.0, self.a).to(z)

    def secants(
        self, low: Tensor, high: Tensor, lower: Tensor, upper: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the secants at the ends: those of a convex function increase in both points."""
        lower, upper = lower.minimum(low), upper.maximum(high)
        # The share of [lower, low] and of [high, upper] that lies above the kink.
        least = low.clamp_min(0) / (low - lower.clamp_max(0)).clamp_min(1e-300)
        most = upper.clamp_min(0) / (upper - high.clamp_max(0)).clamp_min(1e-300)
        least = torch.where(lower > 0, 1.0, least * (1 - _ULPS))
        most = torch.where(high >= 0, 1.0, most * (1 + _ULPS)).clamp_max(1.0)
        # With a in [0, 1]; where all is above or below the kink, both are exact.
        return self.a + (1 - self.a) * least, self.a + (1 - self.a) * most

    def looseness(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return the product of what lies on both sides of the kink."""
        return (-lower).clamp_min(0) * upper.clamp_min(0)

    def critical(self, slope: Tensor) -> list[Tensor]:
        """Return the kink."""
        return [torch.zeros_like(slope)]


class Softplus(Activation):
    """log(1 + exp(beta z)) / beta, and z where torch leaves the formula, beta z > threshold."""

    def __init__(self, beta: float, threshold: float) -> None:
        self.beta, self.threshold = beta, threshold
        self.error = math.exp(-threshold) / beta

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return F.softplus(z, self.beta, self.threshold)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        return torch.sigmoid(self.beta * z)

    def critical(self, slope: Tensor) -> list[Tensor]:
        """Return where f' is slope."""
        return [torch.logit(slope.clamp(1e-300, 1 - 1e-16)) / self.beta]


class _SShaped(Activation):
    """Convex below 0 and concave above it."""

    tight_upper = False

    def slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return chords where they bound f, and else tangents from the other end, or at the middle.

        The lines of the tanh of arXiv 1811.00866, Section 3.
        """
        chord, middle = self.chord(lower, upper), self.derivative((lower + upper) / 2)
        below = self._tangent_slope(lower, upper, upper)
        above = self._tangent_slope(upper, lower, lower)
        below = torch.where(upper <= 0, middle, torch.where(lower >= 0, chord, below))
        above = torch.where(lower >= 0, middle, torch.where(upper <= 0, chord, above))
        return (
            torch.where(self.derivative(lower) >= chord, chord, below),
            torch.where(self.derivative(upper) >= chord, chord, above),
        )

    def _tangent_slope(self, far: Tensor, near: Tensor, end: Tensor) -> Tensor:
        """Return f'(d) for d between far and 0 whose tangent meets f at `end`, by bisection."""
        at_end, inner = self(end), torch.zeros_like(far)
        for _ in range(_BISECTIONS):
            middle = (far + inner) / 2
            reached = self(middle) + self.derivative(middle) * (end - middle)
            # The tangent overshoots: the point of tangency lies further out.
            over = (reached - at_end) * torch.sign(end) > 0
            inner, far = torch.where(over, middle, inner), torch.where(over, far, middle)
        return self.derivative(far)


class Tanh(_SShaped):
    """The hyperbolic tangent."""

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return torch.tanh(z)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        return 1 - torch.tanh(z).square()

    def critical(self, slope: Tensor) -> list[Tensor]:
        """Return +-z with 1 - tanh(z)^2 = slope."""
        z = torch.atanh((1 - slope.clamp(1e-16, 1)).sqrt())
        return [z, -z]


class Sigmoid(_SShaped):
    """1 / (1 + exp(-z))."""

    steepest = 0.25

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return torch.sigmoid(z)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        value = torch.sigmoid(z)
        return value * (1 - value)

    def critical(self, slope: Tensor) -> list[Tensor]:
        """Return +-z with s (1 - s) = slope, s = sigmoid(z)."""
        # The smaller root p of s (1 - s) = slope, and the logit of 1 - p, without cancellation.
        slope = slope.clamp(1e-300, 0.25)
        p = 2 * slope / (1 + (1 - 4 * slope).sqrt())
        z = torch.log1p(-p) - torch.log(p)
        return [z, -z]
