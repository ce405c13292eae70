"""Activations that are neither convex nor increasing everywhere: GELU, SiLU, hardswish and ELU."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_dyn.certification.activations import (
    TINY,
    ULPS,
    Activation,
    ClosedFormActivation,
    Line,
)

# Of the choice of slopes: steps of bisection, and points between the bounds.
_BISECTIONS, _SAMPLES = 12, 33
# Steps of the search for a point of tangency.
_ROOT_STEPS = 10
# More than the rounding of derivatives up to 2.
_DERIVATIVE_ERROR = 2.0**-46


def least_area_slopes(
    activation: Activation, lower: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the slopes of the lower and the upper line with the least area to the function.

    The area depends on the line's value at the middle alone. The lower line of slope s has there
    the value min_z f(z) - s (z - middle), which is concave in s, with the derivative middle - z at
    the minimiser: found by bisection, over samples of f.
    """
    shares = torch.linspace(0, 1, _SAMPLES, dtype=lower.dtype, device=lower.device)
    shares = shares.view(-1, *[1] * lower.dim())
    z = lower + shares * (upper - lower)
    value, offset = activation(z), z - (lower + upper) / 2
    slopes = []
    for sign in (1.0, -1.0):
        least, most = (
            torch.as_tensor(end).to(lower).expand_as(lower)
            for end in (activation.min_slope, activation.max_slope)
        )
        for _ in range(_BISECTIONS):
            slope = (least + most) / 2
            touching = (sign * (value - slope * offset)).argmin(dim=0, keepdim=True)
            at = offset.gather(0, touching)[0]
            larger = sign * at < 0
            least, most = torch.where(larger, slope, least), torch.where(larger, most, slope)
        slopes.append((least + most) / 2)
    return slopes[0], slopes[1]


class Curved(Activation):
    """A smooth function with points of inflection, between which its derivative is monotone.

    inflections: these points. A line of any slope touches f between the bounds at an end, or where
    f' is its slope: once at most between two inflections.
    """

    secant_upper = False
    inflections: tuple[float, ...]

    def initial_slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slopes of least area."""
        return least_area_slopes(self, lower, upper)

    def line(self, slope: Tensor, lower: Tensor, upper: Tensor, *, above: bool) -> Line:
        """Return the line of this slope that touches f from above or from below on [l, u].

        On a branch [p, q] between inflections the root of f'(z) - slope is searched by regula
        falsi. However far the search has come: between the point m where it stops and the root,
        f' - slope lies between 0 and its value at m, since f' is monotone, so that f(z) - slope z
        differs by at most |f'(m) - slope| (q - p), which is added to the slack.
        """
        with torch.no_grad():
            p, q = self._branches(lower, upper)
            point, residual = self._root(slope, p, q)
            beyond = residual * (q - p)
        sign = 1.0 if above else -1.0
        ends = torch.stack([lower, upper])
        z = torch.cat([ends, point])
        value = self(z)
        size = value.abs() + (slope * z).abs() + self.summands(z)
        # The sign of f' - slope may be wrong where it is within the rounding of f'.
        slack = ULPS * size.detach() + _DERIVATIVE_ERROR * (upper - lower) + TINY
        slack = slack + torch.cat([torch.zeros_like(ends), beyond])
        candidates = value - slope * z + sign * slack
        offset = candidates.amax(dim=0) if above else candidates.amin(dim=0)
        return Line(slope, offset)

    def _branches(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ends of the parts of [l, u] between inflections, each stacked."""
        inner = [lower.new_tensor(z).clamp(lower, upper) for z in self.inflections]
        edges = torch.stack([lower, *inner, upper])
        return edges[:-1], edges[1:]

    def _root(self, slope: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return a point of each branch near the root of f' - slope, and |f' - slope| there.

        Where f' - slope has one sign on the branch, any point does: 0 stands for the second.
        Illinois' variant of regula falsi, with bisection in between.
        """
        at_p, at_q = self.derivative(p) - slope, self.derivative(q) - slope
        changes = (at_p > 0) != (at_q > 0)
        for step in range(_ROOT_STEPS):
            difference = at_q - at_p
            share = -at_p / difference.where(difference != 0, 1.0)
            share = share.clamp(0.0, 1.0) if step % 3 else torch.full_like(share, 0.5)
            middle = p + share * (q - p)
            found = self.derivative(middle) - slope
            left = (found > 0) == (at_p > 0)
            # The end that stays twice counts half.
            at_p, at_q = torch.where(left, found, at_p / 2), torch.where(left, at_q / 2, found)
            p, q = torch.where(left, middle, p), torch.where(left, q, middle)
        middle = (p + q) / 2
        residual = (self.derivative(middle) - slope).abs()
        return middle, residual.where(changes, 0.0)


class GELU(Curved):
    """z Phi(z), Phi the distribution function of the normal distribution (arXiv 1606.08415).

    f' = Phi(z) + z phi(z) and f'' = (2 - z^2) phi(z).
    """

    rounding_units = 32
    min_slope, max_slope = -0.12890414518515479, 1.128904145185155
    stationary_points = (-0.7517915246935645,)
    inflections = (-math.sqrt(2), math.sqrt(2))

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return F.gelu(z)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * density

    def summands(self, z: Tensor) -> Tensor:
        """Return |z|, by which 1 + erf is multiplied."""
        return z.abs()


class TanhGELU(Curved):
    """0.5 z (1 + tanh(g)), g = sqrt(2 / pi) (z + 0.044715 z^3): torch's approximation of GELU."""

    rounding_units = 32
    min_slope, max_slope = -0.1289930686587718, 1.128993068658772
    stationary_points = (-0.7524614220710163,)
    inflections = (-1.4185040087908284, 1.4185040087908284)

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return F.gelu(z, approximate="tanh")

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        # Beyond, f' differs from 0 or 1 by less than its rounding.
        inside = z.clamp(-20.0, 20.0)
        square = 0.044715 * inside.square()
        g = math.sqrt(2 / math.pi) * inside * (1 + square)
        slope_of_g = math.sqrt(2 / math.pi) * (1 + 3 * square)
        return 0.5 * (1 + torch.tanh(g)) + 0.5 * inside * slope_of_g / torch.cosh(g).square()

    def summands(self, z: Tensor) -> Tensor:
        """Return |z|, by which 1 + tanh is multiplied."""
        return z.abs()


class SiLU(Curved):
    """z sigmoid(z), which is also called swish (arXiv 1710.05941)."""

    rounding_units = 32
    min_slope, max_slope = -0.0998393201288670, 1.099839320128867
    stationary_points = (-1.2784645427610738,)
    inflections = (-2.3993572805154677, 2.3993572805154677)

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return F.silu(z)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        value = torch.sigmoid(z)
        return value * (1 + z * torch.sigmoid(-z))

    def summands(self, z: Tensor) -> Tensor:
        """Return |z|: exp may overflow, to a value of 0."""
        return z.abs()


class Hardswish(ClosedFormActivation):
    """z clamp(z + 3, 0, 6) / 6 (arXiv 1905.02244, Section 5.2): a parabola between -3 and 3."""

    min_slope, max_slope = -0.5, 1.5
    stationary_points = (-1.5,)
    secant_upper = False

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return F.hardswish(z)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        inside = (2 * z + 3) / 6
        return torch.where(z <= -3, 0.0, torch.where(z >= 3, 1.0, inside)).to(z)

    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return the kinks, and where the parabola has the slope: (2 z + 3) / 6 = slope."""
        kink = torch.full_like(slope, 3.0)
        return [kink, -kink, 3 * slope - 1.5]

    def summands(self, z: Tensor) -> Tensor:
        """Return |z|, which z + 3 multiplies."""
        return z.abs()

    def initial_slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slopes of least area."""
        return least_area_slopes(self, lower, upper)


class ELU(ClosedFormActivation):
    """scale z where z > 0, and scale alpha (exp(b z) - 1) elsewhere: ELU, CELU and SELU.

    arXiv 1511.07289, 1704.07483, 1706.02515. alpha, scale and b are above 0; f is convex where
    alpha b <= 1.
    """

    def __init__(self, alpha: float, scale: float, input_scale: float) -> None:
        self.alpha, self.scale, self.input_scale = alpha, scale, input_scale
        # The slope at the left of 0, times scale.
        self.at_zero = alpha * input_scale
        self.max_slope = scale * max(1.0, self.at_zero)
        self.secant_upper = self.at_zero <= 1

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        below = self.alpha * torch.expm1(self.input_scale * z.clamp_max(0))
        return self.scale * (z.clamp_min(0) + below)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        below = self.at_zero * torch.exp(self.input_scale * z.clamp_max(0))
        return self.scale * torch.where(z > 0, 1.0, below)

    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return the kink, and where the exponential has the slope."""
        share = (slope / (self.scale * self.at_zero)).clamp_min(1e-300)
        return [torch.zeros_like(slope), torch.log(share) / self.input_scale]

    def summands(self, z: Tensor) -> float:
        """Return scale alpha, which exp multiplies before it is subtracted."""
        return self.scale * self.alpha

    def initial_slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slopes of least area."""
        if self.secant_upper:
            return super().initial_slopes(lower, upper)
        return least_area_slopes(self, lower, upper)
