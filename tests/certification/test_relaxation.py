"""Interval bounds and linear relaxations against brute force, samples and closed forms."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.enumeration import least_difference, tiny_network
from torch import nn
from torch.nn import functional as F

from robustbench_dyn.certification import activations
from robustbench_dyn.certification.activations import LeakyReLU, Sigmoid, Softplus, Tanh
from robustbench_dyn.certification.bounds import ball as balls
from robustbench_dyn.certification.bounds.back_substitution import difference_bounds
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import (
    interval_bounds,
    relax,
    relaxed_bounds,
)
from robustbench_dyn.certification.certifiers.interval import Interval
from robustbench_dyn.certification.certifiers.linear_relaxation import LinearRelaxation
from robustbench_dyn.certification.network.tracing import trace
from robustbench_dyn.certification.objectives import Pairs, pairs_to_prove
from robustbench_dyn.certification.proofs import linear_relaxation
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.flows import (
    Classifier,
    ConvGradientStep,
    DenseGradientStep,
    EulerStep,
    Flow,
    HamiltonianStep,
    NaiveStep,
    NonautonomousConv,
    OrthonormalGradientStep,
    ShearStep,
    UnitRowLinear,
    ZeroPadChannels,
)
from robustbench_dyn.models.loading import discover
from robustbench_dyn.threat_models import NORMS, ThreatModel, distance, project

few = settings(deadline=None, max_examples=12)
seeds = st.integers(0, 10_000)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inside(x, threat_model, n, *, seed=0):
    """Return n points of each ball within [0, 1], many of them on its border, (n, *x.shape)."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for k in range(n):
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        if k % 3 == 0:
            noise = noise * (torch.rand(x.shape, generator=generator) < 0.3)
        if k % 2:
            noise = noise.sign()
        scale = threat_model.eps * 10 ** (torch.rand(1, generator=generator).double() * 2 - 1)
        found.append(project(x + scale * noise, x, threat_model))
    return torch.stack(found)


def all_pairs(n, n_classes, labels):
    """Return every (example, rival) with no regard to what the model says."""
    example = torch.arange(n).repeat_interleave(n_classes)
    rival = torch.arange(n_classes).repeat(n)
    keep = labels[example] != rival
    example, rival = example[keep], rival[keep]
    units = torch.eye(n_classes, dtype=torch.float64)
    differences = units[labels[example]] - units[rival]
    zero = torch.zeros(len(example), dtype=torch.float64)
    # As if nothing rounded: the bounds are those of exact arithmetic.
    return Pairs(differences, example, rival, zero + math.inf, zero, zero + math.inf, zero)


@torch.no_grad()
def bounds_of(model, x, y, threat_model, method):
    """Return lower bounds of F_y - F_j, (batch, rivals), by one method."""
    relaxed = relax(model, tuple(x.shape[1:]))
    pairs = all_pairs(len(x), relaxed.exact.n_classes, y)
    ball = Ball(x, threat_model)
    if method == "optimised":
        least = linear_relaxation.relaxed_differences(relaxed, x, pairs, threat_model)
    elif method == "fixed":
        least = linear_relaxation.relaxed_differences(
            relaxed, x, pairs, threat_model, n_iterations=0
        )
    else:
        bounds = interval_bounds(relaxed, ball)
        least = difference_bounds(
            relaxed.exact, bounds, ball, pairs.differences, pairs.example, lines={}
        ).value
    return least.view(len(x), -1)


def differences_at(model, points, y):
    """Return F_y - F_j at points (n, *batch), (n, batch, rivals)."""
    with torch.no_grad():
        logits = torch.stack([model(x) for x in points])
    own = logits.gather(2, y.expand(len(points), -1)[..., None])
    rivals = [[j for j in range(logits.shape[2]) if j != int(label)] for label in y]
    return own - logits.gather(2, torch.tensor(rivals).expand(len(points), -1, -1))


def stepped(model, x, y, threat_model):
    """Return F_y - F_j where the model's linear part at x makes it least, (batch, rivals)."""
    pairs = all_pairs(len(x), 4, y)
    points = x[pairs.example].clone().requires_grad_()
    (rows,) = torch.autograd.grad((model(points) * pairs.differences).sum(), points)
    there = Ball(x, threat_model).minimiser(rows, pairs.example)
    with torch.no_grad():
        return (model(there) * pairs.differences).sum(dim=1).view(len(x), -1)


# Balls


@few
@given(seeds, st.sampled_from(NORMS), st.floats(0.01, 2.0))
def test_the_least_value_over_a_ball_is_a_bound_and_is_reached(seed, norm, eps):
    threat_model = ThreatModel(norm, min(eps, 1.0) if norm == "Linf" else eps)
    x, rows = uniform(4, 6, seed=seed), normal(4, 6, seed=seed + 1)
    rows[0, 2], rows[1] = 0.0, 0.0
    ball, owner = Ball(x, threat_model), torch.arange(4)
    least = ball.minimum(rows, owner)
    sampled = (inside(x, threat_model, 60, seed=seed) * rows).sum(dim=-1).amin(dim=0)
    assert (least <= sampled + 1e-9).all()
    reached = ball.minimiser(rows, owner)
    assert (distance(reached, x, norm) <= threat_model.eps * (1 + 1e-9)).all()
    assert reached.min() >= -1e-12
    assert reached.max() <= 1 + 1e-12
    torch.testing.assert_close((reached * rows).sum(dim=1), least, rtol=1e-9, atol=1e-9)


@few
@given(seeds, st.sampled_from(NORMS), st.floats(0.01, 0.29))
def test_a_budget_that_one_coordinate_uses_up_is_neither_lost_nor_exceeded(seed, norm, eps):
    x, rows = 0.3 + 0.4 * uniform(50, 6, seed=seed), torch.zeros(50, 6).double()
    rows[:, 2] = 1.3
    least = Ball(x, ThreatModel(norm, eps)).minimum(rows, torch.arange(50))
    torch.testing.assert_close(least, 1.3 * (x[:, 2].double() - eps), rtol=1e-9, atol=1e-9)


def test_a_ball_that_forgets_the_box_is_caught():
    # The negative control: at the border of [0, 1] half of the way is barred.
    x, rows = torch.zeros(1, 4).double(), torch.ones(1, 4).double()
    for norm in NORMS:
        ball = Ball(x, ThreatModel(norm, 0.5))
        assert float(ball.minimum(rows, torch.tensor([0]))) == pytest.approx(0, abs=1e-12)
        unboxed = Ball(x, ThreatModel(norm, 0.5))
        unboxed.lower, unboxed.upper = ball.centre - 0.5, ball.centre + 0.5
        assert float(unboxed.minimum(rows, torch.tensor([0]))) <= -0.5


# Lines


ACTIVATIONS = [LeakyReLU(0.0), LeakyReLU(0.1), LeakyReLU(1.0), Tanh(), Sigmoid(),
               Softplus(1.0, 20.0), Softplus(3.0, 20.0)]  # fmt: skip


def violation(lines, activation, lower, upper):
    """Return by how much a pair of lines leaves the function between the bounds, on a grid."""
    t = torch.linspace(0, 1, 401, dtype=torch.float64)[:, None]
    z = lower + t * (upper - lower)
    value = activation(z)
    below = lines.lower.slope * z + lines.lower.offset - value
    above = value - lines.upper.slope * z - lines.upper.offset
    return float(torch.maximum(below, above).max())


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_lines_of_any_slope_lie_on_their_sides(activation):
    ends = normal(400, 2, seed=1) * torch.logspace(-3, 1, 400).double()[:, None]
    ends[:20] += 5
    lower, upper = ends.amin(dim=1), ends.amax(dim=1)
    upper[:3] = lower[:3]
    assert violation(activation.lines(lower, upper), activation, lower, upper) <= 1e-9
    for k in range(5):
        slope = 2 * uniform(400, seed=k) - 0.5
        lines = activations.Lines(
            activation.line(slope, lower, upper, above=False),
            activation.line(slope, lower, upper, above=True),
        )
        assert violation(lines, activation, lower, upper) <= 1e-9
        # They touch it: a little tighter, and they are wrong.
        tighter = activations.Lines(
            lines.lower._replace(offset=lines.lower.offset + 1e-2), lines.upper
        )
        assert violation(tighter, activation, lower, upper) > 1e-3


# Brute force


@few
@given(
    seeds, st.sampled_from(["Linf", "L1"]), st.floats(0.02, 0.4),
    st.sampled_from(["interval", "fixed", "optimised"]), st.floats(0.3, 1.5),
)  # fmt: skip
def test_bounds_never_exceed_the_exact_minimum(seed, norm, eps, method, gain):
    model = tiny_network(seed, widths=(3, 2), gain=gain)
    x = uniform(1, 1, 1, 3, seed=seed).round(decimals=1)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    threat_model = ThreatModel(norm, eps)
    found = bounds_of(model, x, y, threat_model, method)[0]
    rivals = [j for j in range(3) if j != int(y)]
    exact = [least_difference(model, x.flatten(), int(y), j, norm, eps) for j in rivals]
    sampled = differences_at(model, inside(x, threat_model, 100, seed=seed), y).amin(dim=0)[0]
    for bound, least, attacked in zip(found.tolist(), exact, sampled.tolist(), strict=True):
        # HiGHS's own tolerance.
        assert bound <= least + 1e-6
        assert least <= attacked + 1e-6


def worst_overshoot(method, n, widths=(3, 2)):
    """Return by how much bounds exceed exact minima, at most, over a fixed set of networks."""
    worst = -math.inf
    for seed in range(n):
        model, x = tiny_network(seed, widths=widths), uniform(1, 1, 1, 3, seed=seed)
        with torch.no_grad():
            y = model(x).argmax(dim=1)
        found = bounds_of(model, x, y, ThreatModel("Linf", 0.4), method)[0]
        rivals = [j for j in range(3) if j != int(y)]
        for bound, j in zip(found.tolist(), rivals, strict=True):
            exact = least_difference(model, x.flatten(), int(y), j, "Linf", 0.4)
            worst = max(worst, bound - exact)
    return worst


@contextmanager
def replaced(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def test_a_relaxation_with_one_wrong_slope_is_caught():
    assert worst_overshoot("fixed", n=5) <= 1e-6

    def steep_chord(self, lower, upper):
        return honest_chord(self, lower, upper) * 0.8

    def without_offset(self, slope, lower, upper, *, above):
        # The textbook's offset of a chord, which is right for that slope alone.
        if not above:
            return activations.Line(slope, torch.zeros_like(slope))
        return activations.Line(slope, -slope * lower.clamp_max(0))

    honest_chord = activations.Activation.chord
    with (
        replaced(activations.Activation, "chord", steep_chord),
        replaced(activations.Activation, "line", without_offset),
    ):
        assert worst_overshoot("fixed", n=5) > 1e-2


def test_a_relaxation_that_ignores_signs_is_caught():
    with replaced(
        LeakyReLU, "lines",
        lambda self, lower, upper: activations.Lines(
            self.line(self.slopes(lower, upper)[1], lower, upper, above=True),
            self.line(self.slopes(lower, upper)[1], lower, upper, above=True),
        ),
    ):  # fmt: skip
        assert worst_overshoot("fixed", n=5) > 1e-2


def test_a_certifier_that_looks_at_the_runner_up_alone_is_caught():
    # Class 1 is the runner-up and never wins; class 2 does, along the second coordinate.
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3)).double()
    model[1].weight.data = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 10.0]]).double()
    model[1].bias.data = torch.tensor([0.0, -0.5, -1.0]).double()
    x, y = torch.zeros(1, 1, 1, 2).double(), torch.tensor([0])
    with torch.no_grad():
        logits = model(x)
        assert logits[0].argsort(descending=True).tolist() == [0, 1, 2]
        assert model(x + torch.tensor([0.0, 0.2]).double()).argmax() == 2
        prepared = LinearRelaxation().prepared(model, (1, 1, 2))
        proof = prepared.prove(x, logits, y, ThreatModel("Linf", 0.2))
    runner_up_only = proof.class_radii[0, 1]
    assert runner_up_only == 0.2
    assert proof.class_radii.amin() == 0


# Every operation that the plugins use


def rectangles(kind):
    """Return a small network of float64 with this part in it, and its input shape."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        conv = [nn.PixelUnshuffle(2), ZeroPadChannels(4)]
        relu_field = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1))
        parts = {
            "linear": [nn.Flatten(), nn.Linear(36, 4)],
            "dense": [nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 6),
                      nn.LeakyReLU(0.1)],
            "smooth": [nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 6), nn.Sigmoid(),
                       nn.Linear(6, 6), nn.Softplus()],
            "strides": [nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(inplace=True),
                        nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1), nn.ReLU(),
                        nn.AvgPool2d(2), nn.Flatten()],
            "batch_norm": [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()],
            "residual": [*conv, EulerStep(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(4, 4, 3, padding=1)), step_size=0.5), nn.ReLU(), nn.Flatten()],
            "gradient": [*conv, ConvGradientStep(4, 6, activation="tanh", n_steps=2),
                         nn.Flatten(), DenseGradientStep(36, 5)],
            "orthonormal": [nn.Flatten(), OrthonormalGradientStep(36, 4),
                            OrthonormalGradientStep(36, 4)],
            "hamiltonian": [*conv, HamiltonianStep(4, 3, symmetric=True), HamiltonianStep(4, 3),
                            nn.Flatten()],
            "shear": [*conv, ShearStep(relu_field, nn.Tanh()), nn.PixelShuffle(2), nn.Flatten()],
            "nonautonomous": [*conv, Flow(NonautonomousConv(4), method="heun", n_steps=2),
                              nn.Flatten()],
            "naive": [*conv, NaiveStep(4), NaiveStep(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        }[kind]  # fmt: skip
        features = nn.Sequential(*parts).double().eval()
        with torch.no_grad():
            n = features(torch.zeros(1, 1, 6, 6).double()).shape[1]
        model = Classifier(features, UnitRowLinear(n, 4)).double().eval()
        for parameter in model.parameters():
            parameter.data += 0.2 * normal(*parameter.shape, seed=parameter.numel())
    return model, (1, 6, 6)


KINDS = ("linear", "dense", "smooth", "strides", "batch_norm", "residual", "gradient",
         "orthonormal", "hamiltonian", "shear", "nonautonomous", "naive")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", NORMS)
def test_bounds_lie_below_samples_and_better_means_are_tighter(kind, norm):
    model, shape = rectangles(kind)
    x = uniform(3, *shape, seed=5)
    x[0] = x[0].round()
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    threat_model = ThreatModel(norm, {"Linf": 0.02, "L2": 0.1, "L1": 0.2}[norm])
    found = {m: bounds_of(model, x, y, threat_model, m) for m in ("interval", "fixed", "optimised")}
    sampled = differences_at(model, inside(x, threat_model, 40), y).amin(dim=0)
    for bound in found.values():
        assert (bound <= sampled + 1e-9).all()
    assert (found["optimised"] >= found["fixed"] - 1e-12).all()
    if kind != "linear":
        assert found["optimised"].mean() > found["interval"].mean()
    # They are worth something: a step along the gradient comes half as near.
    at_x, attacked = differences_at(model, x[None], y)[0], stepped(model, x, y, threat_model)
    assert (found["optimised"] <= attacked + 1e-9).all()
    assert (at_x - found["optimised"]).mean() < 2 * (at_x - attacked).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_lies_within_its_bounds(kind):
    model, shape = rectangles(kind)
    x, threat_model = uniform(2, *shape, seed=7), ThreatModel("Linf", 0.05)
    with torch.no_grad():
        relaxed = relax(model, shape)
        ball = Ball(x, threat_model)
        wide, (tight, _) = interval_bounds(relaxed, ball), relaxed_bounds(relaxed, ball)
        tightest, _ = relaxed_bounds(relaxed, ball, n_iterations=5)
        means = (wide, tight, tightest)
        for points in inside(x, threat_model, 20):
            for k, value in enumerate(relaxed.exact.values(points)):
                for bounds in means:
                    assert (bounds.lower[k] <= value).all()
                    assert (value <= bounds.upper[k]).all()
    widths = [sum(float((high - low).sum()) for low, high in zip(b.lower, b.upper, strict=True))
              for b in means]  # fmt: skip
    assert widths[0] >= widths[1] >= widths[2]
    if kind not in ("linear", "strides", "batch_norm"):  # where at most one layer bends
        assert widths[2] < widths[1]


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("norm", NORMS)
def test_linear_networks_get_the_closed_form(dtype, rtol, norm):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Linear(7, 4)).to(dtype)
    for parameter in model.parameters():
        parameter.data = normal(*parameter.shape, seed=parameter.numel()).to(dtype)
    # Far enough from the border of [0, 1] that the dual norm is exact.
    x, eps = (0.4 + 0.2 * uniform(5, 1, 3, 4)).to(dtype), 0.05
    with torch.no_grad():
        y = model(x).argmax(dim=1)
        weight = model[2].weight.double() @ model[1].weight.double()
    at_x = differences_at(model.double(), x[None].double(), y)[0]
    model.to(dtype)
    rivals = torch.tensor([[j for j in range(4) if j != int(label)] for label in y])
    rows = weight[y][:, None] - weight[rivals]
    dual = {"Linf": 1, "L2": 2, "L1": math.inf}[norm]
    closed = at_x - eps * rows.norm(p=dual, dim=2)
    for method in ("interval", "fixed", "optimised"):
        found = bounds_of(model, x, y, ThreatModel(norm, eps), method)
        torch.testing.assert_close(found, closed, rtol=rtol, atol=rtol)
        assert (found <= closed + 1e-12).all()


def test_single_precision_is_searched_in_and_never_proved_in():
    model = rectangles("residual")[0].float()
    exact, fast = trace(model, (1, 6, 6))
    assert exact.dtype is torch.float64
    assert fast.dtype is torch.float32
    assert trace(model.double(), (1, 6, 6))[1].dtype is torch.float64


def test_bounds_in_single_precision_allow_for_their_rounding():
    model, shape = rectangles("residual")
    model = model.float()
    x = uniform(4, *shape).float()
    ball = Ball(x, ThreatModel("Linf", 0.02))
    with torch.no_grad():
        y = model(x).argmax(dim=1)
        relaxed = relax(model, shape)
        bounds, lines = relaxed_bounds(relaxed, ball)
        pairs = all_pairs(4, 4, y)
        exact, fast = (
            difference_bounds(network, bounds, ball, pairs.differences, pairs.example,
                              lines=lines).value
            for network in (relaxed.exact, relaxed.fast)
        )  # fmt: skip
    # Without the slack about half of them would lie above.
    assert (fast < exact).all()
    assert (exact - fast).max() < 1e-2


# What is never certified


class Near(nn.Module):
    """Logits whose difference is `gap` at every input, far from 0."""

    def __init__(self, gap):
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.head.weight.data.zero_()
        self.head.bias.data = torch.tensor([1000.0 + gap, 1000.0])

    def forward(self, x):
        return self.head(x.flatten(1))


@pytest.mark.parametrize("certifier", [Interval(), LinearRelaxation()])
def test_a_difference_within_the_rounding_of_a_forward_pass_is_not_certified(certifier):
    x, y = torch.rand(3, 1, 2, 2), torch.zeros(3).long()
    ulp = 1000 * torch.finfo(torch.float32).eps
    # Four products and a bias: the worst that may happen to a logit is 3.5 ulp.
    for gap, safe in ((2 * ulp, False), (6 * ulp, False), (100 * ulp, True)):
        model = Near(gap)
        with torch.no_grad():
            logits = model(x)
            assert (logits[:, 0] > logits[:, 1]).all()
            state = certifier.prepare(model, (1, 2, 2))
            proof = certifier.prove(state, x, logits, y, ThreatModel("Linf", 0.1))
        assert bool((proof.class_radii[:, 1] == 0.1).all()) == safe
        assert (proof.class_radii[:, 0] == math.inf).all()


@pytest.mark.parametrize("certifier", [Interval(), LinearRelaxation()])
def test_mistakes_and_logits_that_are_not_finite_are_not_certified(certifier):
    x, y = torch.rand(4, 1, 2, 2), torch.zeros(4).long()
    model = Near(5.0)
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0], [math.nan, 0.0], [math.inf, 0.0]])
    state = certifier.prepare(model, (1, 2, 2))
    proof = certifier.prove(state, x, logits, y, ThreatModel("L2", 0.1))
    assert proof.class_radii[:, 1].tolist() == [0.1, 0.0, 0.0, 0.0]
    assert not len(pairs_to_prove(x[1:], logits[1:], y[1:]).example)


# What is refused, by name


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.scale = function, nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.function(x.flatten(1) * self.scale)


@pytest.mark.parametrize(
    ("function", "message"),
    [(lambda x: x.softmax(dim=1), "'_softmax'"), (lambda x: x * x, "'mul' of two values"),
     (lambda x: x.exp(), "'exp'"), (lambda x: x / x, "'div' by a value"),
     (lambda x: F.leaky_relu(x, 2.0), "'leaky_relu' with slope 2"),
     (lambda x: x if x.sum() > 0 else -x, "depends on the values"),
     (lambda x: x + torch.rand(4), "does not compute"),
     (lambda x: x - x.roll(1, dims=0), "does not compute"),
     (lambda x: x.mean(dim=0, keepdim=True).expand(len(x), 4), "'mean' over the batch"),
     (lambda x: x[:, 0], "traced back"), (lambda x: torch.zeros(len(x), 2), "traced back"),
     (lambda x: x.no_such_thing(), "cannot be recorded.*no_such_thing")],
)  # fmt: skip
def test_what_is_not_known_is_named_and_never_skipped(function, message):
    with pytest.raises(CertificateError, match=message):
        relax(Function(function), (1, 2, 2))


def test_a_network_of_half_precision_is_refused():
    with pytest.raises(CertificateError, match="bfloat16"):
        relax(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).bfloat16(), (1, 2, 2))


def test_recording_leaves_the_model_as_it_was():
    model = rectangles("batch_norm")[0].train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    relax(model, (1, 6, 6))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["feedforward", "euler_resnet", "hamiltonian", "gradient_flow"])
def test_the_plugins_are_known(name):
    model = discover(()).get(name).build((1, 28, 28), 10)
    for parameter in model.parameters():
        parameter.data *= 0.5
    x, threat_model = torch.rand(2, 1, 28, 28), ThreatModel("Linf", 1 / 255)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    certifier = LinearRelaxation()
    state = certifier.prepare(model, (1, 28, 28))
    with torch.no_grad():
        proof = certifier.prove(state, x, model(x), y, threat_model)
    assert proof.class_radii.shape == (2, 10)


def test_a_batch_gives_what_single_examples_give():
    model, shape = rectangles("residual")
    x = uniform(3, *shape)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    together = bounds_of(model, x, y, ThreatModel("L2", 0.1), "optimised")
    with replaced(balls, "_UNIT", balls._UNIT):
        alone = [bounds_of(model, x[k : k + 1], y[k : k + 1], ThreatModel("L2", 0.1), "optimised")
                 for k in range(3)]  # fmt: skip
    np.testing.assert_allclose(together, torch.cat(alone), rtol=1e-6, atol=1e-6)
