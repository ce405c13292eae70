"""Linear bounds of activations, on grids, and of the sigmoid in arithmetic of fifty digits."""

from decimal import Decimal, localcontext

import pytest
import torch
from oracles.samples import normal, uniform

from robustbench_dyn.certification import activations, curved_activations
from robustbench_dyn.certification.activations import (
    LeakyReLU,
    LinearBounds,
    Sigmoid,
    Softplus,
    Tanh,
)
from robustbench_dyn.certification.convex_activations import Exp, Reciprocal, Rsqrt, Square
from robustbench_dyn.certification.curved_activations import (
    ELU,
    GELU,
    Hardswish,
    SiLU,
    TanhGELU,
)

ACTIVATIONS = [
    LeakyReLU(0.0),
    LeakyReLU(0.1),
    LeakyReLU(1.0),
    Tanh(),
    Sigmoid(),
    Softplus(1.0, 20.0),
    Softplus(3.0, 20.0),
    GELU(),
    TanhGELU(),
    SiLU(),
    Hardswish(),
    ELU(1.0, 1.0, 1.0),
    ELU(1.6732632423543772, 1.0507009873554805, 1.0),
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


def exactly(name, z):
    """Return a function of a float in decimal arithmetic of the current precision."""
    z = Decimal(z)
    return {
        "gelu": lambda: z * (1 + erf(z / Decimal(2).sqrt())) / 2,
        "silu": lambda: z / (1 + (-z).exp()),
        "hardswish": lambda: z * min(max(z + 3, Decimal(0)), Decimal(6)) / 6,
        "elu": lambda: z if z > 0 else Decimal("1.5") * ((z * Decimal("0.5")).exp() - 1),
        "selu": lambda: Decimal("1.25") * (z if z > 0 else Decimal("1.75") * (z.exp() - 1)),
        "exp": z.exp,
        "square": lambda: z * z,
        "reciprocal": lambda: 1 / z,
        "rsqrt": lambda: 1 / z.sqrt(),
    }[name]()


def erf(z):
    """Return the error function by its Taylor series, of which few terms are needed up to 9."""
    term, total, n = z, z, 0
    while abs(term) > Decimal(10) ** -40 or n < abs(z) ** 2:
        n += 1
        term *= -z * z / n
        total += term / (2 * n + 1)
    pi = Decimal(
        "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899"
    )
    return total * 2 / pi.sqrt()


NEW = {
    "gelu": (GELU(), -9.0, 9.0),
    "silu": (SiLU(), -30.0, 30.0),
    "hardswish": (Hardswish(), -9.0, 9.0),
    "elu": (ELU(1.5, 1.0, 0.5), -20.0, 20.0),
    "selu": (ELU(1.75, 1.25, 1.0), -20.0, 20.0),
    "exp": (Exp(), -30.0, 30.0),
    "square": (Square(), -30.0, 30.0),
    "reciprocal": (Reciprocal(), 0.01, 30.0),
    "rsqrt": (Rsqrt(), 0.01, 30.0),
}


def crossings(name, activation, n=60):
    """Count how often lines of some slopes and interval bounds cross the exact function."""
    _, least, most = NEW[name]
    ends = least + (most - least) * uniform(n, 2, seed=2)
    lower, upper = ends.amin(dim=1), ends.amax(dim=1)
    low, high = activation.interval(lower, upper)
    flat, steep = activation.slope_range(lower, upper)
    shares = uniform(n, seed=3)
    slope = flat + shares * (steep - flat)
    found = 0
    grid = lower + torch.linspace(0, 1, 400, dtype=torch.float64)[:, None] * (upper - lower)
    slack = 16 * 2.0**-53 * (activation(grid).abs().amax(dim=0) + activation.summands(grid[-1]))
    with localcontext() as context:
        context.prec = 80
        for above in (False, True):
            line = activation.line(slope, lower, upper, above=above)
            gap = activation(grid) - slope * grid
            nearest = grid.gather(0, (gap.argmax(0) if above else gap.argmin(0))[None])[0]
            for z in (lower, upper, nearest, grid[137]):
                rows = zip(
                    *(part.tolist() for part in (z, slope, line.offset, low, high, slack)),
                    strict=True,
                )
                for point, a, b, bottom, top, width in rows:
                    value = exactly(name, point)
                    on_line = Decimal(a) * Decimal(point) + Decimal(b)
                    found += on_line < value if above else on_line > value
                    found += not Decimal(bottom - width) <= value <= Decimal(top + width)
    return found


@pytest.mark.parametrize("name", NEW)
def test_lines_never_cross_in_exact_arithmetic(name, monkeypatch):
    activation = NEW[name][0]
    assert crossings(name, activation) == 0
    # Without the slack for the rounding of their offsets they do.
    for module in (activations, curved_activations):
        monkeypatch.setattr(module, "ULPS", 0.0)
    monkeypatch.setattr(curved_activations, "_DERIVATIVE_ERROR", 0.0)
    assert crossings(name, activation) > 0


@pytest.mark.parametrize("name", NEW)
def test_functions_of_float32_err_by_their_units(name):
    activation, least, most = NEW[name]
    z = torch.linspace(least, most, 100_001)
    exact = activation(z.double())
    error = (activation(z).double() - exact).abs() / 2.0**-24
    size = exact.abs() + activation.summands(z.double()) + 2.0**-100
    worst = float((error / size).max())
    assert 0 < worst <= activation.rounding_units


@pytest.mark.parametrize("activation", [Reciprocal(), Rsqrt()], ids=lambda a: type(a).__name__)
def test_nothing_is_known_across_a_pole(activation):
    lower, upper = torch.tensor([-1.0, 0.0, 1.0]).double(), torch.tensor([1.0, 2.0, 2.0]).double()
    low, high = activation.interval(lower, upper)
    lines = activation.linear_bounds(lower, upper)
    for values in (-low, high, -lines.lower.offset, lines.upper.offset):
        assert values.isposinf().tolist() == [True, True, False]
    # What the argument is known to be at least is not a pole.
    low, _ = type(activation)(0.5).interval(lower, upper)
    assert low.isfinite().all()


def test_slopes_of_least_area_leave_less_space_than_others():
    ends = 4 * normal(200, 2, seed=5)
    lower, upper = ends.amin(dim=1), ends.amax(dim=1)
    middle = (lower + upper) / 2
    for activation in (GELU(), SiLU(), Hardswish()):
        chosen = activation.initial_slopes(lower, upper)
        for above in (False, True):
            sign = 1 if above else -1
            line = activation.line(chosen[above], lower, upper, above=above)
            best = sign * (line.slope * middle + line.offset)
            for share in torch.linspace(0, 1, 30).double():
                slope = activation.min_slope + share * (activation.max_slope - activation.min_slope)
                other = activation.line(slope.expand_as(lower), lower, upper, above=above)
                assert (best <= sign * (other.slope * middle + other.offset) + 0.02).all()
            # A slope that is not chosen leaves more.
            half = torch.full_like(lower, 0.5)
            other = activation.line(half, lower, upper, above=above)
            assert (best < sign * (other.slope * middle + other.offset) - 0.1).any()
