"""Powers and the exponential function: activations of unbounded slope, some with a limited domain.

Where the bounds of the argument leave the domain, nothing is known of the value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import ClosedFormActivation, Line

# More than the rounding of a slope, in float32, too.
_STEEPER = 1 + 2.0**-10


class Exp(ClosedFormActivation):
    """exp(z)."""

    max_slope = float("inf")

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return torch.exp(z)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        return torch.exp(z)

    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return where exp(z) = slope."""
        return [torch.log(slope.clamp_min(1e-300))]

    def slope_bound(self, lower: Tensor, upper: Tensor, error: Tensor) -> Tensor:
        """Return the slope at the upper end."""
        return torch.exp(upper + error) * _STEEPER

    def slope_range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slopes at the ends."""
        return torch.exp(lower), torch.exp(upper)


class Square(ClosedFormActivation):
    """z^2."""

    rounding_units = 4
    min_slope, max_slope = -float("inf"), float("inf")
    stationary_points = (0.0,)

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return z.square()

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        return 2 * z

    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return where 2 z = slope."""
        return [slope / 2]

    def slope_bound(self, lower: Tensor, upper: Tensor, error: Tensor) -> Tensor:
        """Return twice the largest |z|."""
        return 2 * (torch.maximum(lower.abs(), upper.abs()) + error) * _STEEPER

    def slope_range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slopes at the ends."""
        return 2 * lower, 2 * upper


class _Limited(ClosedFormActivation):
    """A function with a pole at 0, on each side of which it is monotone, and convex or concave.

    least: what the argument is known to be at least, if that is above 0.
    """

    rounding_units = 8
    min_slope = -float("inf")
    max_slope = 0.0

    def __init__(self, least: float = 0.0) -> None:
        self.least = least

    def _defined(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Say where f is defined between the bounds, and return them; there is 1 elsewhere."""
        if self.least > 0:
            lower, upper = lower.clamp_min(self.least), upper.clamp_min(self.least)
        defined = (lower > 0) | self._below_0(upper)
        one = torch.ones_like(lower)
        return defined, lower.where(defined, one), upper.where(defined, one)

    def _below_0(self, upper: Tensor) -> Tensor:
        """Say where f is defined below 0."""
        return torch.zeros_like(upper, dtype=torch.bool)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values at the ends, and all numbers where f is not defined."""
        defined, lower, upper = self._defined(lower, upper)
        at_lower, at_upper = self(lower), self(upper)
        low, high = at_lower.minimum(at_upper), at_lower.maximum(at_upper)
        return low.where(defined, -torch.inf), high.where(defined, torch.inf)

    def line(self, slope: Tensor, lower: Tensor, upper: Tensor, *, above: bool) -> Line:
        """Return the line of this slope; without a finite offset where f is not defined."""
        defined, lower, upper = self._defined(lower, upper)
        line = super().line(slope, lower, upper, above=above)
        return Line(slope, line.offset.where(defined, torch.inf if above else -torch.inf))

    def initial_slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slope at the middle, on the convex side, and the secant's."""
        _, lower, upper = self._defined(lower, upper)
        middle, secant = self.derivative((lower + upper) / 2), self.secant_slope(lower, upper)
        convex = lower > 0
        return middle.where(convex, secant), secant.where(convex, middle)

    def slope_bound(self, lower: Tensor, upper: Tensor, error: Tensor) -> Tensor:
        """Return the slope at the end that is nearer to 0."""
        nearest = torch.maximum(lower, -upper)
        nearest = (nearest * (2 - _STEEPER) - error * _STEEPER).clamp_min(self.least)
        steepest = self.derivative(nearest).abs() * _STEEPER
        return steepest.where(nearest > 0, torch.inf)

    def slope_range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slopes at the ends."""
        _, lower, upper = self._defined(lower, upper)
        ends = torch.stack([self.derivative(lower), self.derivative(upper)])
        return ends.amin(dim=0), ends.amax(dim=0)


class Reciprocal(_Limited):
    """1 / z on either side of 0."""

    secant_upper = False

    def _below_0(self, upper: Tensor) -> Tensor:
        return upper < 0

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return torch.reciprocal(z)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        return -torch.reciprocal(z.square())

    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return where -1 / z^2 = slope."""
        z = torch.rsqrt((-slope).clamp_min(1e-300))
        return [z, -z]


class _Concave(_Limited):
    """One that increases, above 0 alone."""

    min_slope = 0.0
    max_slope = float("inf")
    secant_upper = False

    def initial_slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the secant's slope, and that at the middle."""
        return super().initial_slopes(lower, upper)[::-1]

    def slope_bound(self, lower: Tensor, upper: Tensor, error: Tensor) -> Tensor:
        """Return the slope at the lower end."""
        return super().slope_bound(lower, torch.full_like(lower, torch.inf), error)


class Sqrt(_Concave):
    """sqrt(z) for z above 0."""

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return torch.sqrt(z)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        return 0.5 * torch.rsqrt(z)

    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return where z^(-1/2) / 2 = slope."""
        return [(2 * slope).clamp_min(1e-100).pow(-2)]


class Log(_Concave):
    """log(z) for z above 0."""

    rounding_units = 16

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return torch.log(z)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        return torch.reciprocal(z)

    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return where 1 / z = slope."""
        return [torch.reciprocal(slope.clamp_min(1e-300))]


class Rsqrt(_Limited):
    """1 / sqrt(z) for z above 0."""

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return torch.rsqrt(z)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        return -0.5 * torch.rsqrt(z) / z

    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return where -z^(-3/2) / 2 = slope."""
        return [(-2 * slope).clamp_min(1e-200).pow(-2 / 3)]

    def slope_bound(self, lower: Tensor, upper: Tensor, error: Tensor) -> Tensor:
        """Return the slope at the lower end."""
        return super().slope_bound(lower, torch.full_like(lower, torch.inf), error)
