"""Activations and their linear bounds, which are sound for any slopes: offsets follow from them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from copy import copy
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

# Evaluations of the functions below err by fewer units in the last place than this.
ULPS = 16 * 2.0**-53
_BISECTIONS = 12
# More than an underflow loses.
TINY = 2.0**-1000
# Errors of derivatives at most 1.
_DERIVATIVE_ERROR = 2.0**-48


class Line(NamedTuple):
    """The function slope z + offset, entry by entry."""

    slope: Tensor
    offset: Tensor


class LinearBounds(NamedTuple):
    """Two lines with lower(z) <= f(z) <= upper(z) between the bounds of z."""

    lower: Line
    upper: Line


class Activation(ABC):
    """A function of one number, applied entry by entry.

    A subclass says how it is computed, its derivative, and which line of a given slope bounds it;
    all linear bounds follow from these, and are sound for any slopes.

    rounding_units: how many units roundoff of its value the model's function may err by.
    deviation: what the function as it is computed may differ by from the one that is meant, besides
    rounding. min_slope, max_slope: bounds of the derivative; f increases where min_slope is at
    least 0. stationary_points: where any other f has a derivative of 0. secant_upper: the secant is
    the best upper line (f is convex), so that only the lower one is optimised. piecewise_linear:
    slopes are searched in larger steps.
    """

    rounding_units = 16
    deviation = 0.0
    min_slope = 0.0
    max_slope = 1.0
    stationary_points: tuple[float, ...] = ()
    secant_upper = True
    piecewise_linear = False

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""

    @abstractmethod
    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""

    @abstractmethod
    def line(self, slope: Tensor, lower: Tensor, upper: Tensor, *, above: bool) -> Line:
        """Return the line of this slope that touches f from above or from below on [l, u]."""

    def unrounded(self) -> Self:
        """Return the same function, as a step that the model itself does not compute."""
        exact = copy(self)
        exact.rounding_units = 0
        return exact

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the largest value between the bounds of z, but for rounding.

        They lie at the ends of a monotone function; else there or where the derivative is 0.
        """
        low, high = self(lower), self(upper)
        if self.min_slope >= 0:
            return low, high
        points = [lower.new_tensor(z).clamp(lower, upper) for z in self.stationary_points]
        values = torch.stack([low, high, *map(self, points)])
        return values.amin(dim=0), values.amax(dim=0)

    def summands(self, z: Tensor) -> Tensor | float:
        """Return the size of numbers that cancel in f(z), whose rounding it has beside its own.

        It does not decrease with |z|.
        """
        return 0.0

    def slope_bound(self, lower: Tensor, upper: Tensor, error: Tensor) -> Tensor | float:
        """Return at least the largest |f'| within `error` of the bounds of z; here, everywhere."""
        return max(abs(self.min_slope), abs(self.max_slope))

    def slope_range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return the least and the largest slope that lines are searched with."""
        return min(0.0, self.min_slope), max(1.0, self.max_slope)

    def initial_slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return good slopes of a lower and an upper line between the bounds of z; f is convex."""
        return self.derivative((lower + upper) / 2), self.secant_slope(lower, upper)

    def secant_slope(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return (f(u) - f(l)) / (u - l), and f' where u is l."""
        width = upper - lower
        wide = width > 1e-9
        quotient = (self(upper) - self(lower)) / width.where(wide, 1.0)
        return quotient.where(wide, self.derivative(lower))

    def sector(
        self, low: Tensor, high: Tensor, lower: Tensor, upper: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return bounds of (f(w) - f(z)) / (w - z) for z in [low, high] and w in [lower, upper].

        Here those of f' everywhere, which a subclass may tighten.
        """
        return torch.full_like(low, self.min_slope), torch.full_like(low, self.max_slope)

    def relaxation_gap(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return a measure of the space between the lines; 0 where they coincide."""
        return (upper - lower).square()

    def linear_bounds(self, lower: Tensor, upper: Tensor) -> LinearBounds:
        """Return the lines of the initial slopes."""
        lower_slope, upper_slope = self.initial_slopes(lower, upper)
        return LinearBounds(
            self.line(lower_slope, lower, upper, above=False),
            self.line(upper_slope, lower, upper, above=True),
        )


class ClosedFormActivation(Activation):
    """An activation of which the critical points are known in closed form; its lines follow."""

    @abstractmethod
    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return all z where f(z) - slope z may have a local extremum; more do no harm."""

    def line(self, slope: Tensor, lower: Tensor, upper: Tensor, *, above: bool) -> Line:
        """Return the line of this slope that touches f from above or from below on [l, u].

        Its offset is the extremum of f(z) - slope z over the ends and the critical points, lowered
        or raised by the rounding; differentiable in slope (by the envelope theorem).
        """
        with torch.no_grad():
            points = [lower, upper]
            points += [torch.clamp(z, lower, upper) for z in self.critical_points(slope)]
        sign = 1.0 if above else -1.0
        offset = None
        for z in points:
            value = self(z)
            candidate = value - slope * z
            size, summands = value.abs() + (slope * z).abs(), self.summands(z)
            if isinstance(summands, Tensor) or summands:
                size = size + summands
            slack = ULPS * size.detach() + self.deviation + TINY
            candidate = candidate + sign * slack
            if offset is None:
                offset = candidate
            else:
                offset = torch.maximum(offset, candidate) if above else offset.minimum(candidate)
        assert offset is not None
        return Line(slope, offset)


class LeakyReLU(ClosedFormActivation):
    """max(z, a z) with 0 <= a <= 1; ReLU where a = 0."""

    piecewise_linear = True
    rounding_units = 1

    def __init__(self, a: float) -> None:
        self.a = self.min_slope = a

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        # The gradient of torch.maximum costs several times as much.
        return F.leaky_relu(z, self.a)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        return torch.where(z > 0, 1.0, self.a).to(z)

    def sector(
        self, low: Tensor, high: Tensor, lower: Tensor, upper: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the secant slopes at the ends: a convex function's increase in both points."""
        lower, upper = lower.minimum(low), upper.maximum(high)
        # The share of [lower, low] and of [high, upper] that lies above the kink.
        least = low.clamp_min(0) / (low - lower.clamp_max(0)).clamp_min(1e-300)
        most = upper.clamp_min(0) / (upper - high.clamp_max(0)).clamp_min(1e-300)
        least = torch.where(lower > 0, 1.0, least * (1 - ULPS))
        most = torch.where(high >= 0, 1.0, most * (1 + ULPS)).clamp_max(1.0)
        # With a in [0, 1]; where all is above or below the kink, both are exact.
        return self.a + (1 - self.a) * least, self.a + (1 - self.a) * most

    def relaxation_gap(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return the product of the lengths on both sides of the kink."""
        return (-lower).clamp_min(0) * upper.clamp_min(0)

    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return the kink."""
        return [torch.zeros_like(slope)]


class Softplus(ClosedFormActivation):
    """log(1 + exp(beta z)) / beta, and z where torch leaves the formula, beta z > threshold."""

    def __init__(self, beta: float, threshold: float) -> None:
        self.beta, self.threshold = beta, threshold
        self.deviation = math.exp(-threshold) / beta

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return F.softplus(z, self.beta, self.threshold)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        return torch.sigmoid(self.beta * z)

    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return where f' is slope."""
        return [torch.logit(slope.clamp(1e-300, 1 - 1e-16)) / self.beta]


class _SShaped(ClosedFormActivation):
    """Convex below 0 and concave above it."""

    secant_upper = False

    def sector(
        self, low: Tensor, high: Tensor, lower: Tensor, upper: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return bounds of f' (mean value theorem), which decreases on both sides of 0."""
        lower, upper = lower.minimum(low), upper.maximum(high)
        peak = torch.zeros_like(lower).clamp(lower, upper)
        min_slope = self.derivative(lower).minimum(self.derivative(upper)) - _DERIVATIVE_ERROR
        max_slope = self.derivative(peak) + _DERIVATIVE_ERROR
        return min_slope.clamp_min(0.0), max_slope.clamp_max(self.max_slope)

    def initial_slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slopes of the lines that leave the least area.

        Of all lines below f on [l, u], the one that is highest at the middle m leaves the least: it
        supports the convex envelope of f there. The envelope follows f up to the point d < 0 whose
        tangent meets f at u, and this tangent from there on: so the slope is f' at the smaller of d
        and m, and that of the secant where f' at l is no smaller already. Above, likewise, with the
        ends exchanged. (The tangents at d: arXiv 1811.00866, Section 3.)
        """
        secant, middle = self.secant_slope(lower, upper), (lower + upper) / 2
        below = middle.minimum(self._tangency(lower, upper)).maximum(lower)
        above = middle.maximum(self._tangency(upper, lower)).minimum(upper)
        return (
            secant.where(self.derivative(lower) >= secant, self.derivative(below)),
            secant.where(self.derivative(upper) >= secant, self.derivative(above)),
        )

    def _tangency(self, far: Tensor, end: Tensor) -> Tensor:
        """Return d between far and 0 whose tangent meets f at `end`, by bisection; 0 beyond it."""
        at_end, inner, side = self(end), torch.zeros_like(far), torch.sign(end - far)
        for _ in range(_BISECTIONS):
            middle = (far + inner) / 2
            reached = self(middle) + self.derivative(middle) * (end - middle)
            # The tangent overshoots: the point of tangency lies further out.
            over = (reached - at_end) * side > 0
            inner, far = torch.where(over, middle, inner), torch.where(over, far, middle)
        return far


class Tanh(_SShaped):
    """The hyperbolic tangent."""

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return torch.tanh(z)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        return 1 - torch.tanh(z).square()

    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return +-z with 1 - tanh(z)^2 = slope."""
        z = torch.atanh((1 - slope.clamp(1e-16, 1)).sqrt())
        return [z, -z]


class Sigmoid(_SShaped):
    """1 / (1 + exp(-z))."""

    max_slope = 0.25

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return torch.sigmoid(z)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        value = torch.sigmoid(z)
        return value * (1 - value)

    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return +-z with s (1 - s) = slope, s = sigmoid(z)."""
        # The smaller root p of s (1 - s) = slope, and the logit of 1 - p, without cancellation.
        slope = slope.clamp(1e-300, 0.25)
        p = 2 * slope / (1 + (1 - 4 * slope).sqrt())
        z = torch.log1p(-p) - torch.log(p)
        return [z, -z]
