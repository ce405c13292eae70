"""Interval bounds and linear relaxations against brute force, samples and closed forms."""

import math
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.enumeration import least_difference, tiny_network
from oracles.samples import inside, normal, uniform
from torch import nn

from robustbench_dyn.certification import activations
from robustbench_dyn.certification.activations import LeakyReLU
from robustbench_dyn.certification.bounds.back_substitution import objective_bounds
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import (
    intermediate_bounds,
    interval_bounds,
    relaxation_state,
)
from robustbench_dyn.certification.certifiers.complete import Complete
from robustbench_dyn.certification.certifiers.interval import Interval
from robustbench_dyn.certification.certifiers.linear_relaxation import LinearRelaxation
from robustbench_dyn.certification.certifiers.local_lipsdp import LocalLipSDP
from robustbench_dyn.certification.objectives import Objectives, margin_objectives
from robustbench_dyn.certification.proofs import linear_relaxation
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
from robustbench_dyn.threat_models import NORMS, ThreatModel

few = settings(deadline=None, max_examples=12)
seeds = st.integers(0, 10_000)


def all_objectives(n, n_classes, labels):
    """Return the objectives of every example and competing class, whatever the model predicts."""
    example = torch.arange(n).repeat_interleave(n_classes)
    competitor = torch.arange(n_classes).repeat(n)
    keep = labels[example] != competitor
    example, competitor = example[keep], competitor[keep]
    units = torch.eye(n_classes, dtype=torch.float64)
    coefficients = units[labels[example]] - units[competitor]
    zero = torch.zeros(len(example), dtype=torch.float64)
    # Without rounding: the bounds are those of exact arithmetic.
    return Objectives(
        coefficients, example, competitor, zero + math.inf, zero, zero + math.inf, zero
    )


@torch.no_grad()
def bounds_of(model, x, y, threat_model, method):
    """Return lower bounds of F_y - F_j, (batch, competitors), by one method."""
    state = relaxation_state(model, tuple(x.shape[1:]))
    objectives = all_objectives(len(x), state.exact.n_classes, y)
    ball = Ball(x, threat_model)
    if method == "optimised":
        lower_bound = linear_relaxation.relaxed_margins(state, x, objectives, threat_model)
    elif method == "fixed":
        lower_bound = linear_relaxation.relaxed_margins(
            state, x, objectives, threat_model, n_iterations=0
        )
    else:
        bounds = interval_bounds(state, ball)
        lower_bound = objective_bounds(
            state.exact, bounds, ball, objectives.coefficients, objectives.example, linear_bounds={}
        ).value
    return lower_bound.view(len(x), -1)


def margins_at(model, points, y):
    """Return F_y - F_j at points (n, *batch), (n, batch, competitors)."""
    with torch.no_grad():
        logits = torch.stack([model(x) for x in points])
    own = logits.gather(2, y.expand(len(points), -1)[..., None])
    competitors = [[j for j in range(logits.shape[2]) if j != int(label)] for label in y]
    return own - logits.gather(2, torch.tensor(competitors).expand(len(points), -1, -1))


def stepped(model, x, y, threat_model):
    """Return F_y - F_j where the model's linear part at x is smallest, (batch, competitors)."""
    objectives = all_objectives(len(x), 4, y)
    points = x[objectives.example].clone().requires_grad_()
    (rows,) = torch.autograd.grad((model(points) * objectives.coefficients).sum(), points)
    minimisers = Ball(x, threat_model).minimiser(rows, objectives.example)
    with torch.no_grad():
        return (model(minimisers) * objectives.coefficients).sum(dim=1).view(len(x), -1)


# Brute force


@few
@given(
    seeds,
    st.sampled_from(["Linf", "L1"]),
    st.floats(0.02, 0.4),
    st.sampled_from(["interval", "fixed", "optimised"]),
    st.floats(0.3, 1.5),
)
def test_bounds_never_exceed_the_exact_minimum(seed, norm, eps, method, gain):
    model = tiny_network(seed, widths=(3, 2), gain=gain)
    x = uniform(1, 1, 1, 3, seed=seed).round(decimals=1)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    threat_model = ThreatModel(norm, eps)
    found = bounds_of(model, x, y, threat_model, method)[0]
    competitors = [j for j in range(3) if j != int(y)]
    exact = [least_difference(model, x.flatten(), int(y), j, norm, eps) for j in competitors]
    sampled = margins_at(model, inside(x, threat_model, 100, seed=seed), y).amin(dim=0)[0]
    for bound, minimum, attacked in zip(found.tolist(), exact, sampled.tolist(), strict=True):
        # HiGHS's own tolerance.
        assert bound <= minimum + 1e-6
        assert minimum <= attacked + 1e-6


def max_overshoot(method, n, widths=(3, 2)):
    """Return by how much bounds exceed exact minima, at most, over a fixed set of networks."""
    largest = -math.inf
    for seed in range(n):
        model, x = tiny_network(seed, widths=widths), uniform(1, 1, 1, 3, seed=seed)
        with torch.no_grad():
            y = model(x).argmax(dim=1)
        found = bounds_of(model, x, y, ThreatModel("Linf", 0.4), method)[0]
        competitors = [j for j in range(3) if j != int(y)]
        for bound, j in zip(found.tolist(), competitors, strict=True):
            exact = least_difference(model, x.flatten(), int(y), j, "Linf", 0.4)
            largest = max(largest, bound - exact)
    return largest


@contextmanager
def replaced(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def test_a_relaxation_with_a_wrong_slope_is_caught():
    assert max_overshoot("fixed", n=5) <= 1e-6

    def too_flat(self, lower, upper):
        return secant_slope(self, lower, upper) * 0.8

    def without_offset(self, slope, lower, upper, *, above):
        # The textbook's offset of a secant, which holds for that slope only.
        if not above:
            return activations.Line(slope, torch.zeros_like(slope))
        return activations.Line(slope, -slope * lower.clamp_max(0))

    secant_slope = activations.Activation.secant_slope
    with (
        replaced(activations.Activation, "secant_slope", too_flat),
        replaced(activations.ClosedFormActivation, "line", without_offset),
    ):
        assert max_overshoot("fixed", n=5) > 1e-2


def test_a_relaxation_that_ignores_signs_is_caught():
    with replaced(
        LeakyReLU,
        "linear_bounds",
        lambda self, lower, upper: activations.LinearBounds(
            self.line(self.initial_slopes(lower, upper)[1], lower, upper, above=True),
            self.line(self.initial_slopes(lower, upper)[1], lower, upper, above=True),
        ),
    ):
        assert max_overshoot("fixed", n=5) > 1e-2


def test_the_class_that_wins_need_not_be_the_runner_up():
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


# Every operation of the architectures


def example_network(kind):
    """Return a small network of float64 with this part in it, and its input shape."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        conv = [nn.PixelUnshuffle(2), ZeroPadChannels(4)]
        relu_field = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1))
        parts = {
            "linear": [nn.Flatten(), nn.Linear(36, 4)],
            "dense": [
                nn.Flatten(),
                nn.Linear(36, 8),
                nn.ReLU(),
                nn.Linear(8, 6),
                nn.LeakyReLU(0.1),
            ],
            "smooth": [
                nn.Flatten(),
                nn.Linear(36, 8),
                nn.Tanh(),
                nn.Linear(8, 6),
                nn.Sigmoid(),
                nn.Linear(6, 6),
                nn.Softplus(),
            ],
            "strides": [
                nn.Conv2d(1, 4, 3, stride=2),
                nn.ReLU(inplace=True),
                nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1),
                nn.ReLU(),
                nn.AvgPool2d(2),
                nn.Flatten(),
            ],
            "batch_norm": [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()],
            "residual": [
                *conv,
                EulerStep(
                    nn.Sequential(
                        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
                    ),
                    step_size=0.5,
                ),
                nn.ReLU(),
                nn.Flatten(),
            ],
            "gradient": [
                *conv,
                ConvGradientStep(4, 6, activation="tanh", n_steps=2),
                nn.Flatten(),
                DenseGradientStep(36, 5),
            ],
            "orthonormal": [
                nn.Flatten(),
                OrthonormalGradientStep(36, 4),
                OrthonormalGradientStep(36, 4),
            ],
            "hamiltonian": [
                *conv,
                HamiltonianStep(4, 3, symmetric=True),
                HamiltonianStep(4, 3),
                nn.Flatten(),
            ],
            "shear": [*conv, ShearStep(relu_field, nn.Tanh()), nn.PixelShuffle(2), nn.Flatten()],
            "nonautonomous": [
                *conv,
                Flow(NonautonomousConv(4), method="heun", n_steps=2),
                nn.Flatten(),
            ],
            "naive": [*conv, NaiveStep(4), NaiveStep(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        }[kind]
        features = nn.Sequential(*parts).double().eval()
        with torch.no_grad():
            n = features(torch.zeros(1, 1, 6, 6).double()).shape[1]
        model = Classifier(features, UnitRowLinear(n, 4)).double().eval()
        for parameter in model.parameters():
            parameter.data += 0.2 * normal(*parameter.shape, seed=parameter.numel())
    return model, (1, 6, 6)


KINDS = (
    "linear",
    "dense",
    "smooth",
    "strides",
    "batch_norm",
    "residual",
    "gradient",
    "orthonormal",
    "hamiltonian",
    "shear",
    "nonautonomous",
    "naive",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", NORMS)
def test_bounds_lie_below_samples_and_methods_get_tighter(kind, norm):
    model, shape = example_network(kind)
    x = uniform(3, *shape, seed=5)
    x[0] = x[0].round()
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    threat_model = ThreatModel(norm, {"Linf": 0.02, "L2": 0.1, "L1": 0.2}[norm])
    found = {m: bounds_of(model, x, y, threat_model, m) for m in ("interval", "fixed", "optimised")}
    sampled = margins_at(model, inside(x, threat_model, 40), y).amin(dim=0)
    for bound in found.values():
        assert (bound <= sampled + 1e-9).all()
    assert (found["optimised"] >= found["fixed"] - 1e-12).all()
    if kind != "linear":
        assert found["optimised"].mean() > found["interval"].mean()
    # They are not vacuous: a step along the gradient comes half as near.
    at_x, attacked = margins_at(model, x[None], y)[0], stepped(model, x, y, threat_model)
    assert (found["optimised"] <= attacked + 1e-9).all()
    assert (at_x - found["optimised"]).mean() < 2 * (at_x - attacked).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_lies_within_its_bounds(kind):
    model, shape = example_network(kind)
    x, threat_model = uniform(2, *shape, seed=7), ThreatModel("Linf", 0.05)
    with torch.no_grad():
        state = relaxation_state(model, shape)
        ball = Ball(x, threat_model)
        wide, (tight, _) = interval_bounds(state, ball), intermediate_bounds(state, ball)
        tightest, _ = intermediate_bounds(state, ball, n_iterations=5)
        means = (wide, tight, tightest)
        for points in inside(x, threat_model, 20):
            for k, value in enumerate(state.exact.outputs(points)):
                for bounds in means:
                    assert (bounds.lower[k] <= value).all()
                    assert (value <= bounds.upper[k]).all()
    widths = [
        sum(float((high - low).sum()) for low, high in zip(b.lower, b.upper, strict=True))
        for b in means
    ]
    assert widths[0] >= widths[1] >= widths[2]
    if kind not in ("linear", "strides", "batch_norm"):  # where at most one layer is unstable
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
    at_x = margins_at(model.double(), x[None].double(), y)[0]
    model.to(dtype)
    competitors = torch.tensor([[j for j in range(4) if j != int(label)] for label in y])
    rows = weight[y][:, None] - weight[competitors]
    dual = {"Linf": 1, "L2": 2, "L1": math.inf}[norm]
    closed = at_x - eps * rows.norm(p=dual, dim=2)
    for method in ("interval", "fixed", "optimised"):
        found = bounds_of(model, x, y, ThreatModel(norm, eps), method)
        torch.testing.assert_close(found, closed, rtol=rtol, atol=rtol)
        assert (found <= closed + 1e-12).all()


def test_bounds_in_float32_subtract_their_rounding():
    model, shape = example_network("residual")
    model = model.float()
    x = uniform(4, *shape).float()
    ball = Ball(x, ThreatModel("Linf", 0.02))
    with torch.no_grad():
        y = model(x).argmax(dim=1)
        state = relaxation_state(model, shape)
        bounds, lines = intermediate_bounds(state, ball)
        objectives = all_objectives(4, 4, y)
        exact, fast = (
            objective_bounds(
                network,
                bounds,
                ball,
                objectives.coefficients,
                objectives.example,
                linear_bounds=lines,
            ).value
            for network in (state.exact, state.fast)
        )
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
def test_a_margin_within_rounding_is_not_certified(certifier):
    x, y = torch.rand(3, 1, 2, 2), torch.zeros(3).long()
    ulp = 1000 * torch.finfo(torch.float32).eps
    # Four products and a bias: the worst case of a logit is 3.5 ulp.
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
def test_mistakes_and_infinite_logits_are_not_certified(certifier):
    x, y = torch.rand(4, 1, 2, 2), torch.zeros(4).long()
    model = Near(5.0)
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0], [math.nan, 0.0], [math.inf, 0.0]])
    state = certifier.prepare(model, (1, 2, 2))
    proof = certifier.prove(state, x, logits, y, ThreatModel("L2", 0.1))
    assert proof.class_radii[:, 1].tolist() == [0.1, 0.0, 0.0, 0.0]
    assert not len(margin_objectives(x[1:], logits[1:], y[1:]).example)


def test_bounds_do_not_depend_on_the_batch():
    model, shape = example_network("residual")
    x, threat_model = uniform(3, *shape), ThreatModel("L2", 0.1)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    alone = torch.cat(
        [bounds_of(model, x[k : k + 1], y[k : k + 1], threat_model, "optimised") for k in range(3)]
    )
    together = bounds_of(model, x, y, threat_model, "optimised")
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)
    # The negative control: a minimum that depends on how many examples there are.
    minima = Ball.minima

    def coupled(self, rows, pick):
        return minima(self, rows, pick) - 1e-3 * len(self.centre)

    with replaced(Ball, "minima", coupled):
        assert (bounds_of(model, x, y, threat_model, "optimised") - alone).abs().max() > 1e-4


class Halves(nn.Module):
    """A network that takes its input apart: PixelUnshuffle of no example has a wrong shape."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        first, second = nn.functional.pixel_unshuffle(x, 2).split(2, dim=1)
        return self.head((first.relu() + second).flatten(1))


def test_nothing_is_relaxed_where_intervals_prove_all():
    torch.manual_seed(0)
    model = Halves().eval().requires_grad_(False)
    x, threat_model = torch.rand(3, 1, 4, 4), ThreatModel("L2", 1e-6)
    logits = model(x)
    state = LinearRelaxation().prepare(model, (1, 4, 4))
    proof = LinearRelaxation().prove(state, x, logits, logits.argmax(dim=1), threat_model)
    assert bool((proof.class_radii > 0).all())


class WithNothing(nn.Module):
    """A network with an output of no numbers on the way, as steps over few inputs have."""

    def __init__(self, *, nothing):
        super().__init__()
        self.nothing, self.hidden, self.head = nothing, nn.Linear(2, 8), nn.Linear(8, 2)

    def forward(self, x):
        hidden = self.hidden(x.flatten(1)).relu()
        if self.nothing:
            hidden = torch.cat([hidden[:, :0].tanh(), hidden], dim=1)
        return self.head(hidden)


@pytest.mark.parametrize("certifier", [Interval, LinearRelaxation, Complete, LocalLipSDP])
def test_outputs_without_numbers_change_nothing(certifier):
    found = []
    for nothing in (False, True):
        torch.manual_seed(0)
        model = WithNothing(nothing=nothing).eval().requires_grad_(False)
        x, threat_model = torch.rand(4, 2, 1, 1), ThreatModel("L2", 0.02)
        logits = model(x)
        state = certifier().prepare(model, (2, 1, 1))
        proof = certifier().prove(state, x, logits, logits.argmax(dim=1), threat_model)
        found.append(proof.class_radii)
    assert bool((found[0] > 0).all(dim=1).any())
    assert torch.allclose(*found)
