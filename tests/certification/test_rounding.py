"""Certificates at their boundary, recomputed in rational numbers: rounding never favours them.

The networks are affine around each example (no ReLU switches), so their least difference of logits
over a ball is known exactly; their terms are large and cancel, so that rounding matters.
"""

import math
from fractions import Fraction

import pytest
import torch
from oracles.samples import uniform
from torch import nn

from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.bounds.back_substitution import objective_bounds
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import (
    intermediate_bounds,
    interval_bounds,
    relaxation_state,
)
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.certification.rounding.allowance import farthest
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.threat_models import NORMS, ThreatModel

SHAPE, HIDDEN, EPS = (1, 2, 3), 8, 0.03
SEEDS = range(40)


def network(seed, dtype):
    """Return a network of two layers, the ReLU between of which are all on or off, and x."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))
    model = model.to(dtype).eval()
    on = draw(HIDDEN).sign()
    on[0] = 1.0
    model[1].weight.data = (1e3 * draw(HIDDEN, 6)).to(dtype)
    model[1].bias.data = (1e4 * on).to(dtype)
    model[3].weight.data = (1e3 * draw(2, HIDDEN)).to(dtype)
    x = (0.3 + 0.4 * torch.rand(1, *SHAPE, generator=generator, dtype=torch.float64)).to(dtype)
    return model, x


def fractions(tensor):
    return [Fraction(value) for value in tensor.detach().double().flatten().tolist()]


def difference(model):
    """Return the coefficients and the constant of F_0 - F_1, exactly."""
    first, last = model[1], model[3]
    top = [a - b for a, b in zip(*map(fractions, last.weight), strict=True)]
    constant = fractions(last.bias)[0] - fractions(last.bias)[1]
    row = [Fraction(0)] * 6
    for weight, inner, bias in zip(top, first.weight, fractions(first.bias), strict=True):
        if bias > 0:
            row = [r + weight * w for r, w in zip(row, fractions(inner), strict=True)]
            constant += weight * bias
    return row, constant


def at(row, constant, x):
    return constant + sum(r * v for r, v in zip(row, fractions(x), strict=True))


def is_below(found, row, centre_value, eps, norm):
    """Say whether found <= the least value over the ball, whose box does not matter, exactly."""
    drop, eps = centre_value - Fraction(found), Fraction(eps)
    if norm == "Linf":
        return drop >= eps * sum(map(abs, row))
    if norm == "L1":
        return drop >= eps * max(map(abs, row))
    return drop >= 0 and drop**2 >= eps**2 * sum(r * r for r in row)


def least_in_box(row, constant, x, eps):
    """Return the least value within eps in Linf and within [0, 1]."""
    ends = [
        max(value - eps, Fraction(0)) if coefficient > 0 else min(value + eps, Fraction(1))
        for coefficient, value in zip(row, fractions(x), strict=True)
    ]
    return constant + sum(r * v for r, v in zip(row, ends, strict=True))


def least_by_floats(row, centre_value, norm):
    """Return the same minimum, computed in floating point without regard to rounding."""
    values = torch.tensor([float(r) for r in row], dtype=torch.float64)
    order = {"Linf": 1, "L2": 2, "L1": torch.inf}[norm]
    return float(centre_value) - EPS * float(values.norm(p=order))


def lower_bounds(model, x, norm):
    """Return the bound of F_0 - F_1 by intervals and by lines, in both precisions."""
    relaxed = relaxation_state(model, SHAPE)
    ball = Ball(x, ThreatModel(norm, EPS))
    rows, owner = torch.tensor([[1.0, -1.0]]).double(), torch.tensor([0])
    intervals = interval_bounds(relaxed, ball)
    in_fast_dtype = interval_bounds(relaxed, ball, fast=True)
    tight, lines = intermediate_bounds(relaxed, ball)
    with torch.no_grad():
        yield objective_bounds(relaxed.exact, intervals, ball, rows, owner, linear_bounds={}).value
        yield objective_bounds(relaxed.exact, tight, ball, rows, owner, linear_bounds=lines).value
        yield objective_bounds(relaxed.fast, tight, ball, rows, owner, linear_bounds=lines).value
        yield objective_bounds(
            relaxed.fast, in_fast_dtype, ball, rows, owner, linear_bounds={}
        ).value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
def test_bounds_are_never_above_the_exact_minimum(norm, dtype):
    unsafe = 0
    for seed in SEEDS:
        model, x = network(seed, dtype)
        row, constant = difference(model)
        # The bias of the logits brings the least value to 0, where its sign is in doubt.
        model[3].bias.data[1] += least_by_floats(row, at(row, constant, x), norm)
        row, constant = difference(model)
        centre_value = at(row, constant, x)
        unsafe += not is_below(
            least_by_floats(row, centre_value, norm), row, centre_value, EPS, norm
        )
        found = list(lower_bounds(model, x, norm))
        assert all(is_below(float(bound), row, centre_value, EPS, norm) for bound in found)
        lines = float(found[1])
        assert lines > least_by_floats(row, centre_value, norm) - 1e-3
    # The negative control: plain double precision errs upwards about every other time.
    assert unsafe > 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lipschitz_radii_are_never_above_the_exact_distance(dtype):
    plain, n = 0, 0
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).to(dtype).eval()
        model[1].weight.data = torch.randn(2, 6, generator=generator).to(dtype)
        x = torch.rand(16, *SHAPE, generator=generator).to(dtype)
        top = [a - b for a, b in zip(*map(fractions, model[1].weight), strict=True)]
        constant = fractions(model[1].bias)[0] - fractions(model[1].bias)[1]
        squared = sum(value * value for value in top)
        with frozen_eval(model), torch.no_grad():
            logits = model(x)
            y = logits.argmax(dim=1)
            (prepared,) = resolve_certifiers("lipschitz", model, SHAPE, "L2")
            found = radii(prepared.prove(x, logits, y, ThreatModel("L2", 0.1)))
        slope = float(squared) ** 0.5
        margins = (logits[:, 0] - logits[:, 1]).abs().double()
        for k, radius in enumerate(found.tolist()):
            exact = at(top, constant, x[k]) ** 2
            if not math.isnan(radius):
                n += 1
                assert Fraction(radius) ** 2 * squared <= exact
            plain += Fraction(float(margins[k]) / slope) ** 2 * squared > exact
    assert n > 100
    assert plain > 20


def test_the_largest_eps_that_is_certified_in_the_box_is_sound():
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).double().eval()
        # Along the diagonal the certificate is all but exact.
        slope = 1e6 * float(torch.randn(1, generator=generator))
        model[1].weight.data = torch.tensor([[slope] * 6, [0.0] * 6]).double()
        x = torch.rand(1, *SHAPE, generator=generator).double()
        x[0, 0, 0, 0] = 0.0
        row, y = [Fraction(slope)] * 6, torch.tensor([0])
        model[1].bias.data = torch.tensor([0.3 * abs(slope) - float(at(row, 0, x)), 0.0]).double()
        constant = fractions(model[1].bias)[0]
        low, high = 0.0, 0.2
        with frozen_eval(model), torch.no_grad():
            (prepared,) = resolve_certifiers("lipschitz_in_box", model, SHAPE, "Linf")
            for _ in range(60):
                eps = (low + high) / 2
                proof = prepared.prove(x, model(x), y, ThreatModel("Linf", eps))
                holds = bool(proof.class_radii[0, 1] >= eps)
                low, high = (eps, high) if holds else (low, eps)
        assert low > 0.04
        assert least_in_box(row, constant, x, Fraction(low)) > 0
        assert least_in_box(row, constant, x, Fraction(low) * Fraction(11, 10)) < 0


def test_no_corner_is_farther_than_the_farthest():
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6).double()
    x = uniform(5, *SHAPE).float()
    apart = (corners[None] - x.double().flatten(1)[:, None]).norm(dim=2).amax(dim=1)
    found = farthest(x)
    assert (found >= apart).all()
    torch.testing.assert_close(found, apart, rtol=1e-8, atol=0.0)
