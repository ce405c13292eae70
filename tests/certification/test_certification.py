"""Certificates against classifiers whose exact distance to the decision boundary is known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustbench_dyn.certification.base import Proof, radii
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.certification.proofs.lipschitz import class_radii
from robustbench_dyn.certification.rounding.allowance import margins_of, usual_rounding
from robustbench_dyn.flows import (
    Classifier,
    ConvGradientStep,
    DenseGradientStep,
    EulerStep,
    OrthonormalGradientStep,
    UnitRowLinear,
    ZeroPadChannels,
    pairwise_lipschitz,
)
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.threat_models import NORMS, ThreatModel

few = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 10_000)
DIMENSION = 12
DUAL = {"Linf": 1, "L2": 2, "L1": math.inf}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(weight, bias=None):
    """Return a classifier with logits W x + b, in float64."""
    weight = torch.as_tensor(weight).double()
    model = Classifier(nn.Flatten(), nn.Linear(*weight.shape[::-1])).double()
    model.head.weight.data.copy_(weight)
    model.head.bias.data.copy_(torch.as_tensor(0.0 if bias is None else bias))
    return model


def random_linear(seed, n_classes=5):
    return linear(normal(n_classes, DIMENSION, seed=seed), normal(n_classes, seed=seed + 1))


def problem(model, seed, n=8):
    """Return inputs, and labels of which about half are wrong."""
    x = normal(n, 3, 4, seed=seed)
    with torch.no_grad():
        logits = model(x)
    y = logits.argmax(dim=1)
    return x, torch.where(torch.arange(n) % 2 == 0, y, (y + 1) % logits.shape[1])


def certify(model, x, y, norm):
    with frozen_eval(model), torch.no_grad():
        (prepared,) = resolve_certifiers("lipschitz", model, x.shape[1:], norm)
        return radii(prepared.prove(x, model(x), y, ThreatModel(norm, 0.1)))


def radii_from(bounds, logits, y, norm="L2", dimension=DIMENSION):
    """Return the radii that a matrix of bounds gives."""
    margins = margins_of(logits, y) - usual_rounding(logits)
    return radii(Proof(class_radii(bounds, margins, y, norm=norm, dimension=dimension)))


def exact_distances(model, x, y, norm):
    """Return min_j (F_y - F_j) / |w_y - w_j|_dual for each example; negative if misclassified."""
    weight, rows = model.head.weight.detach(), torch.arange(len(x))
    logits = model(x).detach()
    margins = logits[rows, y][:, None] - logits
    distances = margins / (weight[y][:, None] - weight).norm(p=DUAL[norm], dim=2)
    distances[rows, y] = math.inf
    return distances.amin(dim=1)


def fault(certifying, model, x, y, norm):
    """Return the rule that a certificate of a linear classifier breaks, "" if it keeps all."""
    found, exact = certifying(model, x, y, norm), exact_distances(model, x, y, norm)
    wrong = exact <= 0
    if not found[wrong].isnan().all():
        return "misclassified"
    if not (found[~wrong] <= exact[~wrong]).all():
        return "unsound"
    expected = exact[~wrong]
    if norm != "L2":
        expected = exact_distances(model, x, y, "L2")[~wrong]
        expected = expected / {"Linf": math.sqrt(x[0].numel()), "L1": 1.0}[norm]
    return "" if (found[~wrong] >= expected * (1 - 1e-6)).all() else "loose"


# Linear classifiers


@few
@given(seeds, st.integers(2, 6), st.sampled_from(NORMS))
def test_radii_of_linear_classifiers_are_exact_in_l2(seed, n_classes, norm):
    model = random_linear(seed, n_classes)
    assert fault(certify, model, *problem(model, seed), norm) == ""


@pytest.mark.parametrize("norm", NORMS)
def test_certificate_scales_with_the_weights(norm):
    model = random_linear(0)
    x, y = problem(model, 0)
    before = certify(model, x, y, norm)
    with torch.no_grad():
        model.head.weight.mul_(4)
        model.head.bias.mul_(4)
    torch.testing.assert_close(certify(model, x, y, norm), before, equal_nan=True)
    with torch.no_grad():
        model.head.bias.div_(4)
    assert fault(certify, model, x, y, norm) == ""
    assert not torch.allclose(certify(model, x, y, norm), before, equal_nan=True)


def with_l2_radius(model, x, y, norm):
    """Return the L2 radius for every norm."""
    return certify(model, x, y, "L2")


def runner_up_only(model, x, y, norm):
    """Consider the class of the second largest logit only."""
    logits, rows = model(x).detach(), torch.arange(len(x))
    others = logits.clone()
    others[rows, y] = -math.inf
    runner_up = others.argmax(dim=1)
    found = (logits[rows, y] - logits[rows, runner_up]) / pairwise_lipschitz(model)[y, runner_up]
    return found.where(found > 0, math.nan)


def too_long(model, x, y, norm):
    return certify(model, x, y, norm) * (1 + 1e-9)


def too_short(model, x, y, norm):
    return certify(model, x, y, norm) * (1 - 1e-5)


def with_one_bound(model, x, y, norm):
    """Use sqrt(2) Lip(F) for all pairs."""
    bounds = pairwise_lipschitz(nn.Sequential(nn.Flatten(), model.head, nn.Identity()))
    return radii_from(bounds, model(x).detach(), y, norm)


def regardless_of_the_label(model, x, y, norm):
    return certify(model, x, model(x).argmax(dim=1), norm)


@pytest.mark.parametrize(
    ("certifying", "norm", "expected"),
    [
        (too_long, "L2", "unsound"),
        (with_l2_radius, "Linf", "unsound"),
        (too_short, "L2", "loose"),
        (with_one_bound, "L2", "loose"),
        (regardless_of_the_label, "L2", "misclassified"),
        (lambda *xs: torch.zeros(8), "L2", "misclassified"),
    ],
)
def test_bad_certificates_are_caught(certifying, norm, expected):
    model = random_linear(0)
    x, y = problem(model, 0)
    assert fault(certifying, model, x, y, norm) == expected


def test_an_l1_radius_beyond_the_l2_radius_is_caught():
    # Rows differ in one pixel: the L1 distance is the L2 distance.
    model = linear(torch.eye(3, DIMENSION))
    x, y = torch.zeros(1, 3, 4).double(), torch.tensor([0])
    x[0, 0, 0] = 1.0
    # |e_0 - e_1| is sqrt(2) in L2 and 1 in the dual of L1.
    assert float(certify(model, x, y, "L1")) == pytest.approx(1 / math.sqrt(2))
    assert float(exact_distances(model, x, y, "L1")) == 1.0

    def scaled(model, x, y, norm):
        return certify(model, x, y, norm) * math.sqrt(x[0].numel())

    assert fault(scaled, model, x, y, "L1") == "unsound"
    assert fault(certify, model, x, y, "L1") == ""


def test_the_linf_radius_is_the_l2_radius_over_sqrt_d():
    model = random_linear(0)
    x, y = problem(model, 0)
    l2, linf, l1 = (certify(model, x, y, norm) for norm in ("L2", "Linf", "L1"))
    torch.testing.assert_close(linf * math.sqrt(DIMENSION), l2, equal_nan=True)
    torch.testing.assert_close(l1, l2, equal_nan=True)
    # A constant difference of rows is where the derived Linf radius is exact.
    flat = linear([[1.0] * DIMENSION, [-1.0] * DIMENSION])
    x, y = torch.full((1, 3, 4), 0.3).double(), torch.tensor([0])
    assert float(certify(flat, x, y, "Linf")) == pytest.approx(0.3)


def test_the_nearest_class_need_not_be_the_runner_up():
    # Logits 0, -1, -2: class 1 is at distance 1, class 2 at 2 / 10.
    model = linear([[0.0, 0.0], [1.0, 0.0], [0.0, 10.0]], [0.0, -1.0, -2.0])
    x, y = torch.zeros(1, 2).double(), torch.tensor([0])
    assert float(runner_up_only(model, x, y, "L2")) == pytest.approx(1.0)
    assert fault(runner_up_only, model, x, y, "L2") == "unsound"
    assert float(certify(model, x, y, "L2")) == pytest.approx(0.2)
    assert fault(certify, model, x, y, "L2") == ""
    counterexample = torch.tensor([[0.0, 0.21]]).double()
    assert model(counterexample).argmax(dim=1) == 2


# Deep and nonlinear networks


def rigid(seed):
    """Return a linear network of two layers, and the single layer that it equals."""
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(DIMENSION, 6)), UnitRowLinear(6, 4))
    model = model.double()
    model.features[1].weight.data.copy_(normal(6, DIMENSION, seed=seed))
    model.head.weight.data.copy_(3 * normal(4, 6, seed=seed + 1))
    flat = torch.eye(DIMENSION).double().view(-1, 3, 4)
    with torch.no_grad():
        bias = model(torch.zeros(1, 3, 4).double())[0]
        return model, linear((model(flat) - bias).T, bias)


@few
@given(seeds, st.sampled_from(NORMS))
def test_certificate_of_a_deep_linear_network_is_sound(seed, norm):
    model, flat = rigid(seed)
    x, y = problem(flat, seed)
    found = certify(model, x, y, norm)
    assert fault(lambda *_: found, flat, x, y, norm) in ("", "loose")
    assert (found > 0).sum() == (exact_distances(flat, x, y, norm) > 0).sum()


def test_a_certificate_that_ignores_the_features_is_caught():
    model, flat = rigid(0)
    x, y = problem(flat, 0)
    with torch.no_grad():
        bounds = pairwise_lipschitz(Classifier(nn.Flatten(), model.head))
        found = radii_from(bounds, model(x), y)
    assert fault(lambda *_: found, flat, x, y, "L2") == "unsound"


def curved(seed):
    """Return a network on the plane with every kind of dense step."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [
            DenseGradientStep(2, 5),
            OrthonormalGradientStep(2, 2),
            EulerStep(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), step_size=0.3),
            nn.Tanh(),
        ]
        for part in parts[:2]:
            nn.init.normal_(part.bias, std=0.5)
        return Classifier(nn.Sequential(*parts), UnitRowLinear(2, 3)).double()


def reachable_distances(model, x, y):
    """Return the distance of the nearest other decision on a fine polar grid around x[i]."""
    angles = torch.linspace(0, 2 * math.pi, 181).double()[:-1]
    directions = torch.stack([angles.cos(), angles.sin()], dim=1)
    lengths = torch.logspace(-4, 1, 120).double()
    grid = (lengths[:, None, None] * directions).flatten(0, 1)
    nearest = []
    for point, label in zip(x, y, strict=True):
        fooled = model(point + grid).argmax(dim=1) != label
        nearest.append(float(grid[fooled].norm(dim=1).min()) if fooled.any() else math.inf)
    return torch.tensor(nearest)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_decision_is_found_inside_a_certified_disc(seed):
    model = curved(seed)
    x = normal(12, 2, seed=seed)
    with frozen_eval(model), torch.no_grad():
        # Centred, so that all classes occur.
        model.head.bias.sub_(model(x).mean(dim=0))
        y = model(x).argmax(dim=1)
        reached = reachable_distances(model, x, y)
        found = certify(model, x, y, "L2")
    assert (found > 0).all()
    assert (reached > found).all()
    assert (reached < math.inf).any()
    # The same check catches a radius that is too large.
    assert not (reached > 100 * found).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_convolutional_network_is_certified(norm):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier(
            nn.Sequential(
                nn.PixelUnshuffle(2),
                ZeroPadChannels(6),
                ConvGradientStep(6, 8),
                nn.AvgPool2d(2),
                nn.Conv2d(6, 4, 3, padding=1),
                nn.LeakyReLU(),
                nn.Flatten(),
            ),
            UnitRowLinear(16, 3),
        )
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    found = certify(model, x, y, norm)
    assert found.dtype is torch.float64
    assert (found > 0).sum() > 35
    # Every correct decision survives random points on the sphere, and some do not far outside.
    for factor, stays in ((1.0, True), (300.0, False)):
        same = []
        for k in range(20):
            noise = normal(*x.shape, seed=k)
            if norm == "Linf":
                noise = noise.sign()
            length = noise.flatten(1).norm(p={"Linf": math.inf, "L2": 2, "L1": 1}[norm], dim=1)
            moved = x + (factor * found / length)[:, None, None, None].nan_to_num() * noise
            with torch.no_grad():
                same.append((model(moved.float()).argmax(dim=1) == y).all())
        assert all(same) == stays


# What is never certified


def certified(logits, y, bounds=None, norm="L2"):
    bounds = torch.ones(1, 1).double() if bounds is None else bounds
    return radii_from(bounds, torch.as_tensor(logits), torch.as_tensor(y), norm, 4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_mistakes_and_infinite_logits_have_no_radius(dtype, norm):
    nan, inf = math.nan, math.inf
    ties = [[2.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1e30, 1e30, 0.0]]
    mistakes = [[-1.0, 2.0, 0.0]]
    infinite = [[inf, 0.0, 0.0], [2.0, 0.0, -inf], [2.0, inf, 0.0], [inf] * 3, [-inf] * 3]
    not_numbers = [[2.0, 0.0, nan], [nan, 0.0, 0.0], [nan] * 3]
    bad = torch.tensor([*ties, *mistakes, *infinite, *not_numbers], dtype=dtype)
    # A good neighbour in the batch neither helps nor suffers; that is the control, too.
    logits = torch.cat([bad, torch.tensor([[2.0, 0.0, 1.0]], dtype=dtype)])
    for bounds in (torch.ones(1, 1).double(), torch.zeros(1, 1).double()):
        found = certified(logits, [0] * len(logits), bounds, norm)
        assert found.dtype is torch.float64
        assert found.isnan().tolist() == [True] * len(bad) + [False]
        assert found[-1] > 0


def test_a_plain_quotient_would_certify_ties_and_infinities():
    logits = torch.tensor([[math.inf, 0.0, 0.0], [2.0, 2.0, 0.0]]).double()
    margins = logits[:, 0] - logits[:, 1:].amax(dim=1)
    assert (margins / 1.0 >= 0).all()
    assert certified(logits, [0, 0]).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_margin_within_rounding_has_no_radius(dtype, scale):
    rounding = torch.finfo(dtype).eps * max(scale, 1.0)
    for n_ulps, safe in ((0, False), (40, False), (2000, True)):
        logits = torch.tensor([[scale + n_ulps * rounding, scale, -scale]], dtype=dtype)
        assert bool(certified(logits, [0])[0] > 0) == safe
    # The allowance for rounding is subtracted.
    logits = torch.tensor([[scale + 2000 * rounding, scale, -scale]], dtype=dtype)
    margin = float(logits[0, 0].double() - logits[0, 1].double())
    assert float(certified(logits, [0])) <= margin - 40 * rounding


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bound_that_is_not_finite_certifies_nothing(bad):
    bounds = torch.ones(3, 3).double()
    bounds[0, 2] = bad
    found = certified([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]], [0, 1], bounds)
    assert not found[0] > 0
    assert found[1] > 0


@pytest.mark.parametrize("norm", NORMS)
def test_a_constant_network_keeps_its_decision_everywhere(norm):
    model = linear(torch.zeros(3, DIMENSION), [0.0, 1.0, 0.5])
    x, y = normal(3, 3, 4), torch.tensor([1, 0, 2])
    found = certify(model, x, y, norm)
    assert found[0] == math.inf
    assert found[1:].isnan().all()
    # Constant features, and rows that do not differ.
    for other in (
        Classifier(nn.Sequential(nn.Flatten(), nn.Linear(DIMENSION, 2)), nn.Linear(2, 3)).double(),
        linear(torch.ones(3, DIMENSION), [0.0, 1.0, 0.5]),
    ):
        if isinstance(other.features, nn.Sequential):
            other.features[1].weight.data.zero_()
            other.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
            other.features[1].bias.data.zero_()
            other.head.bias.data.copy_(torch.tensor([0.0, 1.0, 0.5]))
        found = certify(other, x, y, norm)
        assert found[0] == math.inf
        assert found[1:].isnan().all()
    # A network of constant 0 has ties everywhere.
    silent = linear(torch.zeros(3, DIMENSION))
    assert certify(silent, x, y, norm).isnan().all()


def test_a_class_with_an_identical_row_is_no_obstacle():
    model = linear([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]], [1.0, 0.0, 0.5])
    x, y = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([0])
    assert float(certify(model, x, y, "L2")) == pytest.approx(1.5)


def test_empty_batches_and_a_single_class_are_handled():
    model = random_linear(0)
    x, y = problem(model, 0)
    assert certify(model, x[:0], y[:0], "L2").shape == (0,)
    assert certified([[3.0]], [0]).tolist() == [math.inf]
    assert certified([[math.nan]], [0]).isnan().all()


def test_each_example_is_certified_by_itself():
    model = random_linear(0)
    x, y = problem(model, 0)
    alone = torch.cat([certify(model, x[k : k + 1], y[k : k + 1], "L2") for k in range(len(x))])
    torch.testing.assert_close(certify(model, x, y, "L2"), alone, equal_nan=True)
    assert not torch.equal(alone[0], alone[2])
