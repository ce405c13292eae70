"""Linear bounds of activations, on grids, and of the sigmoid in arithmetic of fifty digits."""

from decimal import Decimal, localcontext

import pytest
import torch
from oracles.samples import normal, uniform

from robustbench_dyn.certification.activations import (
    LeakyReLU,
    LinearBounds,
    Sigmoid,
    Softplus,
    Tanh,
)

ACTIVATIONS = [
    LeakyReLU(0.0),
    LeakyReLU(0.1),
    LeakyReLU(1.0),
    Tanh(),
    Sigmoid(),
    Softplus(1.0, 20.0),
    Softplus(3.0, 20.0),
]


def violation(lines, activation, lower, upper):
    """Return by how much a pair of lines leaves the function between the bounds, on a grid."""
    t = torch.linspace(0, 1, 401, dtype=torch.float64)[:, None]
    z = lower + t * (upper - lower)
    value = activation(z)
    below = lines.lower.slope * z + lines.lower.offset - value
    above = value - lines.upper.slope * z - lines.upper.offset
    return float(torch.maximum(below, above).max())


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_linear_bounds_of_any_slope_hold(activation):
    ends = normal(400, 2, seed=1) * torch.logspace(-3, 1, 400).double()[:, None]
    ends[:20] += 5
    lower, upper = ends.amin(dim=1), ends.amax(dim=1)
    upper[:3] = lower[:3]
    assert violation(activation.linear_bounds(lower, upper), activation, lower, upper) <= 1e-9
    for k in range(5):
        slope = 2 * uniform(400, seed=k) - 0.5
        lines = LinearBounds(
            activation.line(slope, lower, upper, above=False),
            activation.line(slope, lower, upper, above=True),
        )
        assert violation(lines, activation, lower, upper) <= 1e-9
        # They touch it: a little tighter, and they are violated.
        tighter = LinearBounds(lines.lower._replace(offset=lines.lower.offset + 1e-2), lines.upper)
        assert violation(tighter, activation, lower, upper) > 1e-3


class TangentsFromTheEnds(Tanh):
    """Takes the point of tangency even where it lies beyond the middle."""

    def initial_slopes(self, lower, upper):
        secant = self.secant_slope(lower, upper)
        below = self.derivative(self._tangency(lower, upper))
        above = self.derivative(self._tangency(upper, lower))
        return (
            secant.where(self.derivative(lower) >= secant, below),
            secant.where(self.derivative(upper) >= secant, above),
        )


def excess_area(activation, lower, upper):
    """Return the area between the initial lines, less the least of any slopes, (n,)."""
    middle = (lower + upper) / 2

    def areas(slope, above):
        line = activation.line(slope, lower, upper, above=above)
        height = line.slope * middle + line.offset - activation(middle)
        return (upper - lower) * (height if above else -height)

    slopes = torch.linspace(0, activation.max_slope, 501, dtype=torch.float64)
    excess = 0
    for above, slope in enumerate(activation.initial_slopes(lower, upper)):
        least = torch.stack([areas(s.expand_as(lower), bool(above)) for s in slopes]).amin(dim=0)
        excess = excess + areas(slope, bool(above)) - least
    return excess


@pytest.mark.parametrize("activation", [Tanh(), Sigmoid()])
def test_the_initial_lines_of_s_shaped_curves_leave_the_least_area(activation):
    ends = 8 * uniform(300, 2, seed=3) - 4
    ends[:20, 0] = 0.0
    lower, upper = ends.amin(dim=1), ends.amax(dim=1)
    lower[-5:] = upper[-5:] - 1e-6
    # Bisection stops at a small part of the interval.
    assert excess_area(activation, lower, upper).max() <= 1e-2
    across = (lower < 0) & (upper > 0)
    lines = activation.linear_bounds(lower, upper)
    assert violation(lines, activation, lower, upper) <= 1e-9
    assert across.sum() > 50


def test_a_tangent_from_the_end_leaves_more_area():
    lower, upper = torch.tensor([-3.0, -1.0]).double(), torch.tensor([0.3, 4.0]).double()
    assert (excess_area(TangentsFromTheEnds(), lower, upper) > 0.1).all()
    assert (excess_area(Tanh(), lower, upper) <= 1e-3).all()


class Cancelling(Sigmoid):
    """Computes the point of tangency by a formula that cancels where the slope is small."""

    def critical_points(self, slope):
        z = 2 * torch.atanh((1 - 4 * slope.clamp(1e-17, 0.25)).clamp_min(0).sqrt())
        return [z, -z]


def exact_extremum(slope, lower, upper, *, above):
    """Return the extremum of sigmoid(z) - slope z over [lower, upper], in fifty digits."""
    slope, lower, upper = (Decimal(number) for number in (slope, lower, upper))
    points = [lower, upper]
    root = 1 - 4 * slope
    if root >= 0 and slope > 0:
        p = 2 * slope / (1 + root.sqrt())
        z = ((1 - p) / p).ln()
        points += [point for point in (z, -z) if lower <= point <= upper]
    values = [1 / (1 + (-z).exp()) - slope * z for z in points]
    return max(values) if above else min(values)


def violations(activation):
    """Count the lines that cross the curve: offsets on the wrong side of the exact extremum."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.rand(1500, 2, generator=generator, dtype=torch.float64) * 80 - 40
    lower, upper = ends.amin(dim=1), ends.amax(dim=1)
    slopes = 0.25 * 10 ** (-18 * torch.rand(1500, generator=generator, dtype=torch.float64))
    found = 0
    with localcontext() as context:
        context.prec = 50
        for above in (False, True):
            line = activation.line(slopes, lower, upper, above=above)
            for slope, low, high, offset in zip(
                slopes.tolist(), lower.tolist(), upper.tolist(), line.offset.tolist(), strict=True
            ):
                exact = exact_extremum(slope, low, high, above=above)
                found += Decimal(offset) < exact if above else Decimal(offset) > exact
    return found


def test_linear_bounds_of_a_sigmoid_never_cross_it():
    assert violations(Sigmoid()) == 0


def test_a_point_of_tangency_that_cancels_is_caught():
    assert violations(Cancelling()) > 0


@pytest.mark.parametrize("slope", [1e-300, 1e-20, 0.1, 0.25])
def test_the_point_of_tangency_has_that_slope(slope):
    z = Sigmoid().critical_points(torch.tensor(slope, dtype=torch.float64))[0]
    with localcontext() as context:
        context.prec = 50
        e = (-Decimal(float(z))).exp()
        assert abs(e / (1 + e) ** 2 / Decimal(slope) - 1) < Decimal("1e-12")
