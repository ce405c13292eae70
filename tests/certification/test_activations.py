"""Lines around the sigmoid, against arithmetic of fifty digits: they never cross the curve."""

from decimal import Decimal, localcontext

import pytest
import torch

from robustbench_dyn.certification.activations import Sigmoid


class Cancelling(Sigmoid):
    """Finds the point of tangency by a formula that loses its digits where the slope is small."""

    def critical(self, slope):
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
    ends = torch.rand(4000, 2, generator=generator, dtype=torch.float64) * 80 - 40
    lower, upper = ends.amin(dim=1), ends.amax(dim=1)
    slopes = 0.25 * 10 ** (-18 * torch.rand(4000, generator=generator, dtype=torch.float64))
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


def test_lines_around_a_sigmoid_never_cross_it():
    assert violations(Sigmoid()) == 0


def test_a_point_of_tangency_without_its_digits_is_caught():
    assert violations(Cancelling()) > 0


@pytest.mark.parametrize("slope", [1e-300, 1e-20, 0.1, 0.25])
def test_the_point_of_tangency_has_that_slope(slope):
    z = Sigmoid().critical(torch.tensor(slope, dtype=torch.float64))[0]
    with localcontext() as context:
        context.prec = 50
        e = (-Decimal(float(z))).exp()
        assert abs(e / (1 + e) ** 2 / Decimal(slope) - 1) < Decimal("1e-12")
