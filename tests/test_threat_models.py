"""Threat models: exact membership, nearest points, distances, and what is refused."""

import math
import re
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from robustbench_dyn.errors import InputError, ShapeError
from robustbench_dyn.threat_models import (
    NORMS,
    ThreatModel,
    check_norm,
    distance,
    parse_eps,
    project,
    widest_eps,
)

few = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 10_000)
norms = st.sampled_from(NORMS)
dtypes = st.sampled_from([torch.float32, torch.float64])
exponents = st.floats(-12, 0)


def points(seed, dtype=torch.float32, n=6, scale=1.0):
    """Return x in [0, 1] with a third of its entries at 0 or 1, and x_adv anywhere around it."""
    generator = torch.Generator().manual_seed(seed)
    x = (1.5 * torch.rand(n, 3, 4, generator=generator, dtype=torch.float64) - 0.25).clamp(0, 1)
    noise = torch.randn(n, 3, 4, generator=generator, dtype=torch.float64)
    return (x + scale * noise).to(dtype), x.to(dtype)


# Membership


def membership_fault(projection, x_adv, x, threat_model):
    """Say which rule the projected points break; "" if none. No rule has a tolerance."""
    result = projection(x_adv, x, threat_model)
    if result.dtype is not x.dtype or result.shape != x.shape:
        return "type"
    if not ((result >= 0) & (result <= 1)).all():
        return "range"
    return "" if (distance(result, x, threat_model.norm) <= threat_model.eps).all() else "ball"


@few
@given(seeds, norms, dtypes, exponents, st.floats(-3, 3))
@example(0, "Linf", torch.float32, 0.0, 3.0)
@example(0, "L2", torch.float32, -8.0, 0.0)
def test_projections_lie_inside_the_ball_and_the_input_range(seed, norm, dtype, exponent, width):
    x_adv, x = points(seed, dtype, scale=10**width)
    assert membership_fault(project, x_adv, x, ThreatModel(norm, 10**exponent)) == ""


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_projection_around_a_corner_is_exactly_inside(norm, corner):
    x = torch.full((2, 9), corner)
    x_adv = x + torch.tensor([[0.3], [-0.3]])
    result = project(x_adv, x, ThreatModel(norm, 0.1))
    assert membership_fault(project, x_adv, x, ThreatModel(norm, 0.1)) == ""
    outward = int(corner == 0.0)
    assert torch.equal(result[outward], x[outward])
    assert not torch.equal(result[1 - outward], x[1 - outward])


@pytest.mark.parametrize("norm", NORMS)
def test_projection_without_the_input_range_is_rejected(norm):
    def unclipped(x_adv, x, threat_model):
        delta = x_adv - x
        length = distance(x_adv, x, threat_model.norm)[:, None, None]
        return (x + delta * (0.9 * threat_model.eps / length).clamp(max=1)).to(x.dtype)

    assert membership_fault(unclipped, *points(0), ThreatModel(norm, 0.5)) == "range"


@pytest.mark.parametrize("norm", NORMS)
def test_projection_in_float32_alone_is_rejected(norm):
    def rounded(x_adv, x, threat_model):
        delta = (x_adv - x).flatten(1)
        if norm == "Linf":
            delta = delta.clamp(-threat_model.eps, threat_model.eps)
        else:
            length = delta.norm(p=int(norm[1]), dim=1, keepdim=True)
            delta = delta * (threat_model.eps / length).clamp(max=1)
        return (x + delta.view_as(x)).clamp(0, 1)

    generator = torch.Generator().manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(64, 3, 4, generator=generator)
    x_adv = x + torch.randn(x.shape, generator=generator)
    assert membership_fault(rounded, x_adv, x, ThreatModel(norm, 0.1)) == "ball"
    assert membership_fault(project, x_adv, x, ThreatModel(norm, 0.1)) == ""


# The nearest point


def nearest(delta, norm, eps):
    """Return the nearest point of the ball around 0, by closed form, or bisection for L1."""
    if norm == "Linf":
        return np.clip(delta, -eps, eps)
    if norm == "L2":
        return delta * min(1.0, eps / np.linalg.norm(delta))
    low, high = 0.0, float(np.abs(delta).max())
    if np.abs(delta).sum() <= eps:
        return delta
    for _ in range(200):
        threshold = (low + high) / 2
        if np.maximum(np.abs(delta) - threshold, 0).sum() > eps:
            low = threshold
        else:
            high = threshold
    return np.sign(delta) * np.maximum(np.abs(delta) - high, 0)


def is_nearest(projection, norm, seed, eps):
    generator = torch.Generator().manual_seed(seed)
    # x in the middle and small eps: the input range plays no part.
    x = torch.full((5, 12), 0.5, dtype=torch.float64)
    x_adv = x + torch.randn(x.shape, generator=generator, dtype=torch.float64)
    found = (projection(x_adv, x, ThreatModel(norm, eps)) - x).numpy()
    expected = np.stack([nearest(row, norm, eps) for row in (x_adv - x).numpy()])
    # Points that rounding put outside shrink by a few 1e-6.
    return np.abs(found - expected).max() <= 1e-5 * eps


@few
@given(seeds, norms, st.floats(-6, -0.4))
def test_projection_is_the_nearest_point(seed, norm, exponent):
    assert is_nearest(project, norm, seed, 10**exponent)


@pytest.mark.parametrize("norm", NORMS)
def test_a_point_that_is_inside_but_not_nearest_is_rejected(norm):
    def scaled(x_adv, x, threat_model):
        return x + (x_adv - x) * (threat_model.eps / distance(x_adv, x, norm))[:, None]

    def cube(x_adv, x, threat_model):
        return x + (x_adv - x).clamp(-threat_model.eps / 4, threat_model.eps / 4)

    assert not is_nearest(cube if norm == "L2" else scaled, norm, 0, 0.3)


def is_idempotent(projection, x_adv, x, threat_model):
    once = projection(x_adv, x, threat_model)
    twice = projection(once, x, threat_model)
    # x + (x_adv - x) can differ from x_adv by one rounding of a float64 below 1.
    return torch.allclose(twice, once, rtol=0, atol=2**-52)


@few
@given(seeds, norms, dtypes, exponents)
def test_projection_is_idempotent(seed, norm, dtype, exponent):
    assert is_idempotent(project, *points(seed, dtype), ThreatModel(norm, 10**exponent))


@pytest.mark.parametrize("norm", NORMS)
def test_a_projection_that_always_shrinks_is_not_idempotent(norm):
    def shrinking(x_adv, x, threat_model):
        return x + (1 - 1e-6) * (project(x_adv, x, threat_model) - x)

    assert not is_idempotent(shrinking, *points(0), ThreatModel(norm, 0.3))


@few
@given(seeds, norms, dtypes)
def test_a_point_inside_stays_where_it_is_beside_points_outside(seed, norm, dtype):
    x_adv, x = points(seed, dtype)
    eps = {"Linf": 0.1, "L2": 0.3, "L1": 0.9}[norm]
    x_adv[0] = (x[0] + 0.02 * (x_adv[0] - x[0]).sign()).clamp(0, 1)
    result = project(x_adv, x, ThreatModel(norm, eps))
    torch.testing.assert_close(result[0], x_adv[0], rtol=0, atol=2**-52)
    assert not torch.equal(result[1:], x_adv[1:])


@few
@given(seeds, norms, exponents)
@example(0, "Linf", -7.0)
def test_projection_of_a_point_does_not_depend_on_its_neighbours(seed, norm, exponent):
    x_adv, x = points(seed)
    threat_model = ThreatModel(norm, 10**exponent)
    alone = [project(a[None], b[None], threat_model) for a, b in zip(x_adv, x, strict=True)]
    assert torch.equal(project(x_adv, x, threat_model), torch.cat(alone))


@pytest.mark.parametrize("norm", NORMS)
def test_projection_changes_no_argument_and_takes_empty_batches(norm):
    x_adv, x = points(0)
    kept = x_adv.clone(), x.clone()
    result = project(x_adv, x, ThreatModel(norm, 0.1))
    result.zero_()
    assert torch.equal(x_adv, kept[0])
    assert torch.equal(x, kept[1])
    assert project(x_adv[:0], x[:0], ThreatModel(norm, 0.1)).shape == (0, 3, 4)


# Distances


def distance_fault(measure, seed, norm, dtype):
    x_adv, x = points(seed, dtype, scale=1e-9 if dtype is torch.float64 else 1.0)
    delta = np.abs(x_adv.double().numpy() - x.double().numpy()).reshape(len(x), -1)
    order = {"Linf": np.inf, "L2": 2, "L1": 1}[norm]
    expected = np.linalg.norm(delta, ord=order, axis=1)
    found = measure(x_adv, x, norm)
    if found.dtype is not torch.float64:
        return "dtype"
    # Two orders of summing 12 float64 terms.
    return "" if np.allclose(found.numpy(), expected, rtol=1e-14, atol=0) else "value"


@few
@given(seeds, norms, dtypes)
def test_distance_is_numpys(seed, norm, dtype):
    assert distance_fault(distance, seed, norm, dtype) == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
def test_distance_in_float32_or_in_another_norm_is_rejected(norm, dtype):
    other = NORMS[(NORMS.index(norm) + 1) % len(NORMS)]
    assert distance_fault(lambda a, b, _: distance(a, b, other), 0, norm, dtype) == "value"
    assert distance_fault(lambda *xs: distance(*xs).float(), 0, norm, dtype) == "dtype"

    def narrow(x_adv, x, norm):
        delta = x_adv.float() - x.float()
        return distance(delta, torch.zeros_like(delta), norm)

    assert distance_fault(narrow, 0, norm, dtype) == "value"


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_distance_is_nan_for_exactly_the_examples_not_finite(norm, bad):
    x_adv, x = points(0)
    x_adv[2, 1, 1] = bad
    finite = distance(x_adv, x, norm).isfinite()
    assert finite.tolist() == [True, True, False, True, True, True]
    assert not distance(x_adv, x, norm)[2] <= math.inf


def test_tensors_of_different_shapes_are_refused():
    x_adv, x = points(0)
    for call in (lambda a: distance(a, x, "L2"), lambda a: project(a, x, ThreatModel("L2", 0.1))):
        with pytest.raises(ShapeError, match=r"\(6, 12\).*\(6, 3, 4\)"):
            call(x_adv.flatten(1))
        call(x_adv)


# What is refused


@pytest.mark.parametrize("norm", ["L3", "linf", "l2", "", "inf"])
def test_an_unknown_norm_is_refused_with_the_known_ones(norm):
    with pytest.raises(InputError, match=f"norm='{norm}'.*Linf, L2, L1"):
        ThreatModel(norm, 0.1)
    with pytest.raises(InputError, match="choose one of"):
        check_norm(norm)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0, 0.0, -0.1, math.nan, math.inf, -math.inf])
def test_an_eps_that_is_no_positive_number_is_refused(norm, eps):
    with pytest.raises(InputError, match=f"eps={eps} is not a positive number.*raw input units"):
        ThreatModel(norm, eps)


@pytest.mark.parametrize(
    ("norm", "eps", "shape"),
    [
        ("Linf", 8, (3, 32, 32)),
        ("Linf", 1.01, (1,)),
        ("L2", 128, (3, 32, 32)),
        ("L2", 1e9, (784,)),
        ("L2", 0.6, (4,)),
        ("L1", 1000, (3, 32, 32)),
        ("L1", 1.1, (4,)),
    ],
)
def test_an_eps_as_wide_as_the_input_range_is_refused(norm, eps, shape):
    with pytest.raises(InputError, match=f"{re.escape(f'eps={eps:g}')}.*8/255, not 8"):
        ThreatModel(norm, eps).check_input_shape(shape)


@pytest.mark.parametrize("norm", NORMS)
@given(eps=st.floats(1e-300, 1.0))
@few
def test_an_ordinary_eps_is_accepted(norm, eps):
    threat_model = ThreatModel(norm, eps)
    threat_model.check_input_shape((3, 32, 32))
    assert (threat_model.norm, threat_model.eps) == (norm, eps)
    assert eps <= widest_eps(norm, (3, 32, 32))


@pytest.mark.parametrize(
    ("norm", "shape", "widest"),
    [("Linf", (1,), 1.0), ("L2", (4,), 0.5), ("L2", (1, 28, 28), 7.0), ("L1", (3, 32, 32), 768.0)],
)
def test_the_widest_eps_is_accepted_and_no_wider_one(norm, shape, widest):
    assert widest_eps(norm, shape) == widest
    ThreatModel(norm, widest).check_input_shape(shape)
    with pytest.raises(InputError, match="8/255, not 8"):
        ThreatModel(norm, math.nextafter(widest, math.inf)).check_input_shape(shape)


@few
@given(
    st.one_of(
        st.floats(1e-300, 1e300).map(repr),
        st.decimals(1, 10**6, places=6).map(str),
        st.tuples(st.integers(0, 10**30), st.integers(1, 10**30)).map(
            lambda pair: f"{pair[0]}/{pair[1]}"
        ),
    )
)
def test_eps_is_the_nearest_float(text):
    assert parse_eps(text) == parse_eps(f" {text} ") == float(Fraction(text))


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "x", "nan", "inf", "-inf", "infinity", "1e400", "-1e400", "1e1000000000", "1/0",
        "8/1e-400", "8/-255", "8 / 255", "8/255/2", "1_0", "\u0663", "\uff11", "0x10", "1e", "e5",
        "9" * 5000, "9" * 5000 + "/1", "1/" + "9" * 5000, "1\x00", "[/b]", "--1", "1,5", ".",
    ],
)  # fmt: off
def test_a_text_that_is_no_eps_is_refused_at_once(text):
    start = time.process_time()
    with pytest.raises(InputError, match=r"is not a number; give it as 0\.5 or as 8/255") as caught:
        parse_eps(text)
    assert time.process_time() - start < 1
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "eps"),
    [("0.5", 0.5), ("8/255", 8 / 255), ("1e-3", 1e-3), (".5", 0.5), ("2.", 2.0), ("-1", -1.0)],
)
def test_an_eps_is_read(text, eps):
    assert parse_eps(text) == eps


def test_an_exponent_of_many_digits_is_quick():
    assert parse_eps("1e-1000000000") == 0
    with pytest.raises(InputError, match="is not a positive number"):
        ThreatModel("L2", parse_eps("1e-1000000000"))
