"""Bounds of drift and error against what float32 and float64 make of points of the ball."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustbench_dyn.certification.rounding import error_rules
from robustbench_dyn.certification.rounding.running_error import analyse, run_exactly
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.flows import (
    ConvGradientStep,
    DenseGradientStep,
    EulerStep,
    HamiltonianStep,
    MaxMin,
    NaiveStep,
    OrthonormalGradientStep,
    PeriodicConv,
    SwitchingPair,
    UnitRowLinear,
)

IMAGES, VECTORS = (4, 6, 6), (24,)


class Function(nn.Module):
    """A function of the input, with a constant of the input's shape and a matrix at hand."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class ScaledSums(nn.Module):
    """Large terms that cancel, and a scale of each sum by itself."""

    def __init__(self):
        super().__init__()
        large = 1e3 * torch.randn(12, 24)
        self.register_buffer("weight", torch.cat([large, torch.randn(12, 24) - large], dim=1))
        self.register_buffer("scale", torch.logspace(-3, 1, 12))

    def forward(self, x):
        return F.linear(torch.cat([x, x], dim=1), self.weight) * self.scale


def batch_norm():
    layer = nn.BatchNorm2d(4)
    layer.running_mean.normal_(0, 50)
    layer.running_var.uniform_(0.1, 3)
    layer.bias.data.normal_(0, 50)
    return layer.eval()


def sorted_in_place(x):
    z = x * 3
    z[:, :2] = torch.relu(z[:, 2:])
    return z


MODULES = {
    "linear": (lambda: nn.Linear(24, 40), VECTORS),
    "unit rows": (lambda: UnitRowLinear(24, 10), VECTORS),
    "linear over a sequence": (lambda: nn.Linear(6, 5), IMAGES),
    "convolution": (lambda: nn.Conv2d(4, 8, 3, padding=1), IMAGES),
    "strides": (lambda: nn.Conv2d(4, 6, 4, stride=2, padding=1), IMAGES),
    "groups": (lambda: nn.Conv2d(4, 8, 3, groups=2, dilation=2, padding=2), IMAGES),
    "transposed": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, output_padding=1), IMAGES),
    "circular": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), IMAGES),
    "batch norm": (batch_norm, IMAGES),
    "average pool": (lambda: nn.AvgPool2d(2, divisor_override=2), IMAGES),
    "overlapping pools": (lambda: nn.AvgPool2d(3, stride=1, padding=1), IMAGES),
    "adaptive pool": (lambda: nn.AdaptiveAvgPool2d(3), IMAGES),
    "max pool": (lambda: nn.MaxPool2d(3, stride=2, padding=1), IMAGES),
    "activations": (
        lambda: nn.Sequential(
            nn.Tanh(),
            nn.SiLU(),
            nn.GELU(),
            nn.Softplus(),
            nn.ELU(),
            nn.Sigmoid(),
            nn.LeakyReLU(2.0),
        ),
        VECTORS,
    ),
    "softmax": (lambda: Function(lambda x: (5 * x).softmax(dim=1)), VECTORS),
    "log softmax": (lambda: Function(lambda x: (5 * x).log_softmax(dim=1)), VECTORS),
    "moves": (
        lambda: Function(
            lambda x: torch.cat(
                [
                    x.flip(1).roll(2, dims=3),
                    x.permute(0, 1, 3, 2)[:, :, 1:, :].repeat(1, 1, 2, 1)[:, :, :6],
                    F.pad(x, (1, -1, 2, -2)),
                ],
                dim=1,
            )
        ),
        IMAGES,
    ),
    "sums": (lambda: Function(lambda x: x.sum(dim=(2, 3)) - 3 * x.mean(dim=(2, 3))), IMAGES),
    "centred": (lambda: Function(lambda x: x - x.mean(dim=(1, 2, 3), keepdim=True)), IMAGES),
    "normalised": (lambda: Function(lambda x: x / (2 + x.norm(dim=1, keepdim=True))), VECTORS),
    "products": (lambda: Function(lambda x: x * x - x.exp() / (30 + x)), VECTORS),
    "roots": (
        lambda: Function(lambda x: (x + 4).sqrt() + (x + 5).rsqrt() + (x + 6).log()),
        VECTORS,
    ),
    "attention": (
        lambda: Function(lambda x: torch.bmm(x.view(-1, 4, 6), x.view(-1, 6, 4)).flatten(1)),
        VECTORS,
    ),
    "in place": (lambda: Function(sorted_in_place), IMAGES),
    "cast to half": (lambda: Function(lambda x: x.half().float()), VECTORS),
    "half precision": (lambda: Function(lambda x: (x.half() * 2).float()), VECTORS),
    "max-min": (MaxMin, IMAGES),
    "gradient step": (lambda: ConvGradientStep(4, 9, n_steps=3), IMAGES),
    "uneven gradient step": (lambda: uneven(DenseGradientStep(24, 12)), VECTORS),
    "uneven image step": (lambda: uneven(ConvGradientStep(4, 9)), IMAGES),
    "scaled sums": (ScaledSums, VECTORS),
    "leaky scaled sums": (lambda: nn.Sequential(ScaledSums(), nn.LeakyReLU(3.0)), VECTORS),
    "small step": (lambda: uneven(DenseGradientStep(2, 2)), (2,)),
    "orthonormal step": (lambda: OrthonormalGradientStep(24, 7), VECTORS),
    "orthonormal step in blocks": (lambda: OrthonormalGradientStep(24, 7, blocks=5), VECTORS),
    "switching pair": (lambda: SwitchingPair(4), IMAGES),
    "naive step": (lambda: NaiveStep(4), IMAGES),
    "hamiltonian": (lambda: HamiltonianStep(4, 6, symmetric=True), IMAGES),
    "periodic": (lambda: PeriodicConv(4, 4), IMAGES),
    "euler": (
        lambda: EulerStep(nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 24))),
        VECTORS,
    ),
    "swamping": (lambda: Function(lambda x: (x + 2.0**20) - 2.0**20), VECTORS),
    "denormal matrices": (
        lambda: nn.Sequential(*map(diagonal, (1e-20, 1e-24, 1e20, 1e22))),
        VECTORS,
    ),
    "denormal": (lambda: Function(lambda x: x * 1e-30 * 1e-12 * 1e22 * 1e20), VECTORS),
}


def diagonal(scale):
    layer = nn.Linear(24, 24, bias=False)
    layer.weight.data = scale * torch.eye(24)
    return layer


def uneven(step):
    scales = torch.logspace(-3, 1, len(step.weight))
    step.weight.data *= scales.view(-1, *[1] * (step.weight.dim() - 1))
    return step


def excess(name, *, seed=0, n_points=30):
    """Return the largest error and the largest drift in the ball, each over its bound."""
    torch.manual_seed(seed)
    build, shape = MODULES[name]
    module = build().eval().requires_grad_(False)
    x = torch.randn(3, *shape)
    drift = torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64)
    found = analyse(module, x, x.double(), drift)
    assert found.unbounded == ""
    worst_error, worst_drift = 0.0, 0.0
    at_x = run_exactly(module, x.double())
    for k in range(n_points):
        move = torch.randn(3, *shape, dtype=torch.float64)
        move *= (drift / move.flatten(1).norm(dim=1)).view(-1, *[1] * len(shape)) * (k % 3) / 2
        z = (x.double() + move).float()
        # Rounding the point may have moved it out of its ball.
        inside = (z.double() - x.double()).flatten(1).norm(dim=1) <= drift
        exact = run_exactly(module, z.double())
        error = (module(z.clone()).double() - exact).flatten(1).norm(dim=1)
        moved = (exact - at_x).flatten(1).norm(dim=1)
        worst_error = max(worst_error, ratio(error, found.error_bounds.error, inside))
        worst_drift = max(worst_drift, ratio(moved, found.error_bounds.drift, inside))
    return worst_error, worst_drift


def ratio(value, bound, inside):
    assert bound.isfinite().all()
    # A value of 0 keeps every bound.
    return float(torch.where(inside & (value > 0), value / bound, 0.0).max())


@pytest.mark.parametrize("name", MODULES)
def test_drift_and_error_bounds_hold_in_the_ball(name):
    error, drift = excess(name)
    assert error <= 1
    assert drift <= 1 + 1e-9


@pytest.mark.parametrize(
    ("name", "rule"), [("swamping", "add"), ("linear", "addmm"), ("half precision", "_to_copy")]
)
def test_an_error_rule_without_rounding_is_caught(name, rule, monkeypatch):
    honest = error_rules.ERROR_RULES[rule]

    def forgetting(call):
        found = honest(call)
        return found._replace(error=torch.zeros_like(found.error), entry_error=None)

    monkeypatch.setitem(error_rules.ERROR_RULES, rule, forgetting)
    assert excess(name)[0] > 1


def test_a_product_that_forgets_the_errors_of_entries_is_caught(monkeypatch):
    honest = error_rules.ERROR_RULES["mul"]
    monkeypatch.setitem(
        error_rules.ERROR_RULES, "mul", lambda call: honest(call)._replace(entry_error=None)
    )
    assert excess("scaled sums")[0] > 1


@pytest.mark.parametrize("name", ["scaled sums", "small step", "uneven gradient step", "linear"])
def test_a_thousandth_of_an_error_bound_is_exceeded(name):
    assert 1000 * excess(name)[0] > 1


def test_uneven_scales_cost_no_more_than_even_ones():
    x, bounds = torch.randn(3, 24), []
    for scales in (torch.ones(12), torch.logspace(-3, 1, 12)):
        torch.manual_seed(0)
        step = DenseGradientStep(24, 12).eval().requires_grad_(False)
        step.weight.data *= scales[:, None]
        found = analyse(step, x, x.double(), torch.full((3,), 0.1).double()).error_bounds
        bounds.append(found.error)
    assert float(step.value().max() / step.value().min()) > 1e7
    assert (bounds[1] < 10 * bounds[0]).all()


def test_operations_without_an_error_rule_are_named():
    x = torch.randn(2, 24)
    for function, name in (
        (lambda x: torch.linalg.solve(torch.eye(24) + x[:, :, None] * 0.01, x), "solve"),
        (lambda x: x.round(), "round"),
        (lambda x: x.cumsum(1), "cumsum"),
        (lambda x: x.to(torch.uint8).float(), "_to_copy"),
        (lambda x: torch.from_numpy(x.numpy() * 2), "numpy"),
        (lambda x: x * float(x.max()), "depends on the values"),
        (lambda x: x[x > 0].sum() + x, "shape"),
        (lambda x: torch.arange(3.0).repeat(2, 1), "traced back"),
    ):
        found = analyse(Function(function), x, x.double(), torch.ones(2).double())
        assert found.error_bounds.error.isinf().all(), name
        assert name in found.unbounded


def test_operations_that_mix_examples_have_no_bound():
    x = torch.randn(4, 24)
    mixing = (
        lambda x: x - x.mean(dim=0),
        lambda x: x.sum(1)[None] - x.sum(1)[:, None],
        lambda x: x[:, :4] - x.sum(1),
        lambda x: x.flip(0),
        lambda x: x.t() @ x @ torch.ones(24, 2),
    )
    for function in mixing:
        found = analyse(Function(function), x, x.double(), torch.ones(4).double())
        assert found.error_bounds.error.isinf().all()


def test_error_bounds_hold_away_from_the_centre():
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=False).requires_grad_(False)
    x, z = torch.zeros(20, 24), F.normalize(torch.randn(20, 24), dim=1) * 0.99
    found = analyse(layer, x, x.double(), torch.ones(20).double())
    error = (layer(z).double() - run_exactly(layer, z.double())).norm(dim=1)
    assert (error > 0).all()
    assert (error <= found.error_bounds.error).all()


def test_a_value_that_may_overflow_has_no_bound():
    x = torch.tensor([[1e19], [1e30]])
    found = analyse(Function(lambda x: x * 1e10), x, x.double(), torch.ones(2).double())
    assert found.error_bounds.error.isfinite().tolist() == [True, False]
    # Here the products overflow, and their sum does not.
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1e38, -1e38]])
    x = torch.tensor([[1.0, 1], [1, 1], [3, 3]])
    found = analyse(layer, x, x.double(), torch.tensor([0.1, 2.0, 0.0]).double())
    assert found.error_bounds.error.isfinite().tolist() == [True, False, False]


def test_error_bounds_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    step = ConvGradientStep(4, 9).eval().requires_grad_(False)
    x, drift = torch.randn(5, *IMAGES), torch.linspace(0, 1, 5, dtype=torch.float64)
    together = analyse(step, x, x.double(), drift).error_bounds
    for k in range(5):
        alone = analyse(step, x[k : k + 1], x[k : k + 1].double(), drift[k : k + 1]).error_bounds
        torch.testing.assert_close(alone.error[0], together.error[k], rtol=1e-5, atol=0)
        torch.testing.assert_close(alone.drift[0], together.drift[k], rtol=1e-5, atol=0)


def test_a_module_that_does_not_run_in_float64_is_refused():
    class Single(nn.Module):
        def forward(self, x):
            if x.dtype is not torch.float32:
                raise RuntimeError("single precision alone")
            return x

    with pytest.raises(CertificateError, match=r"float64.*single precision alone"):
        run_exactly(Single(), torch.randn(2, 3).double())
