"""The contracts of certifiers and handlers: built-in ones keep them, and violations are found."""

import math
from dataclasses import dataclass

import pytest
import torch
from oracles.samples import uniform
from torch.nn import functional as F

from robustbench_dyn.certification.activations import ClosedFormActivation, LeakyReLU, Sigmoid
from robustbench_dyn.certification.base import Certifier, Proof
from robustbench_dyn.certification.catalogue import CERTIFIERS, certifier_names
from robustbench_dyn.certification.certifiers.interval import Interval
from robustbench_dyn.certification.certifiers.linear_relaxation import LinearRelaxation
from robustbench_dyn.certification.certifiers.lipschitz import Lipschitz
from robustbench_dyn.certification.certifiers.lipschitz_in_box import LipschitzInBox
from robustbench_dyn.certification.contract import check_certifier, check_operation
from robustbench_dyn.certification.contract.exact_distance import exact_distances, tiny_network
from robustbench_dyn.certification.network import lowering
from robustbench_dyn.certification.network.operations import OPERATIONS
from robustbench_dyn.certification.proofs.lipschitz import class_radii
from robustbench_dyn.certification.rounding.allowance import margins_of
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.plugins import Entry, Registry
from robustbench_dyn.threat_models import NORMS, ThreatModel, distance


def violated(findings):
    """Return the rules that are violated."""
    return [finding.rule for finding in findings if not finding.holds]


# Exact distances


@pytest.mark.parametrize("norm", NORMS)
def test_exact_distances_are_those_of_a_fine_grid(norm):
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(t, t).view(-1, 1, 1, 2)
    for seed in range(4):
        model, x = tiny_network(seed, d=2, widths=(3, 2), gain=1.5), uniform(1, 1, 1, 2, seed=seed)
        logits = model(grid).detach()
        y = model(x).argmax(dim=1)
        exact = exact_distances(model, x, y, norm)[0]
        assert exact[y] == math.inf
        apart = distance(grid, x.expand_as(grid), norm)
        for j in {0, 1, 2} - {int(y)}:
            reached = apart[logits[:, j] >= logits[:, y][:, 0]]
            nearest = float(reached.min()) if len(reached) else math.inf
            assert exact[j] <= nearest
            # The grid has a point within a few cells of the nearest one.
            assert exact[j] >= nearest - 0.02 or nearest == math.inf


def test_halfspaces_have_the_distance_of_the_closed_form():
    model = tiny_network(3, widths=())
    x = 0.4 + 0.2 * uniform(5, 1, 1, 3)
    logits, weight = model(x).detach(), model[-1].weight.detach()
    y = logits.argmax(dim=1)
    found = exact_distances(model, x, y, "L2")
    rows = weight[y][:, None] - weight
    closed = (logits.gather(1, y[:, None]) - logits) / rows.norm(dim=2)
    # Those that are reached within [0, 1].
    near = (closed < 0.3) & (closed > 0)
    assert near.any()
    torch.testing.assert_close(found[near], closed[near], rtol=1e-6, atol=1e-6)


# Certifiers


@pytest.mark.slow
@pytest.mark.parametrize("name", certifier_names())
def test_built_in_certifiers_keep_the_contract(name):
    findings = check_certifier(CERTIFIERS.create(name))
    assert violated(findings) == []
    assert len(findings) == 11


class Grown(Lipschitz):
    """Radii that are grown by half."""

    def prove(self, state, x, logits, y, threat_model):
        proof = super().prove(state, x, logits, y, threat_model)
        return proof._replace(class_radii=1.5 * proof.class_radii)


class GrownBalls(LinearRelaxation):
    """Proofs of smaller balls, whose radii are grown by half."""

    def prove(self, state, x, logits, y, threat_model):
        smaller = ThreatModel(threat_model.norm, threat_model.eps / 1.5)
        proof = super().prove(state, x, logits, y, smaller)
        return proof._replace(class_radii=1.5 * proof.class_radii)


class RunnerUp(Lipschitz):
    """The radius of the class with the second largest logit, for all classes."""

    def prove(self, state, x, logits, y, threat_model):
        dimension = math.prod(x.shape[1:])
        margins = margins_of(logits, y)
        radii = class_radii(state.bounds, margins, y, norm=threat_model.norm, dimension=dimension)
        runner_up = logits.scatter(1, y[:, None], -math.inf).argmax(dim=1)
        of_runner_up = radii.gather(1, runner_up[:, None]).expand_as(radii)
        return Proof(of_runner_up.scatter(1, y[:, None], math.inf))


class Coupled(Lipschitz):
    """The radii of the example that is nearest to the boundary, for all of the batch."""

    def prove(self, state, x, logits, y, threat_model):
        radii = super().prove(state, x, logits, y, threat_model).class_radii
        return Proof(radii.amin(dim=0, keepdim=True).expand_as(radii).minimum(radii))


class Trusting(LipschitzInBox):
    """Certifies the class that is predicted, whatever the label is."""

    def prove(self, state, x, logits, y, threat_model):
        proof = super().prove(state, x, logits, logits.argmax(dim=1), threat_model)
        return proof._replace(class_radii=proof.class_radii.amin(dim=1, keepdim=True).expand(-1, 3))


class Tied(Lipschitz):
    """Excludes classes whose logits equal the label's, or are not numbers."""

    def prove(self, state, x, logits, y, threat_model):
        proof = super().prove(state, x, logits, y, threat_model)
        margins = logits.gather(1, y[:, None]) - logits
        unclear = (margins == 0) | ~margins.isfinite()
        return proof._replace(class_radii=proof.class_radii.where(~unclear, 0.1))


class Labelled(Interval):
    """Returns eps for the label itself."""

    def prove(self, state, x, logits, y, threat_model):
        proof = super().prove(state, x, logits, y, threat_model)
        return proof._replace(class_radii=proof.class_radii.clamp_max(threat_model.eps))


class Unsure(Interval):
    """Returns NaN where nothing is proved."""

    def prove(self, state, x, logits, y, threat_model):
        radii = super().prove(state, x, logits, y, threat_model).class_radii
        return Proof(radii.where(radii > 0, math.nan))


class Narrow(Interval):
    def prove(self, state, x, logits, y, threat_model):
        return Proof(super().prove(state, x, logits, y, threat_model).class_radii.float())


class Refusing(Interval):
    def prepare(self, model, input_shape, *, strict_rounding=False):
        raise CertificateError("no model is good enough")


class Faulty(Interval):
    def prepare(self, model, input_shape, *, strict_rounding=False):
        return model.no_such_thing


class Random(Lipschitz):
    def prove(self, state, x, logits, y, threat_model):
        proof = super().prove(state, x, logits, y, threat_model)
        return proof._replace(class_radii=proof.class_radii * float(torch.rand(()) / 2))


class Writing(Lipschitz):
    def prove(self, state, x, logits, y, threat_model):
        proof = super().prove(state, x, logits, y, threat_model)
        x.zero_()
        return proof


@dataclass(frozen=True, kw_only=True)
class Listed(Interval):
    budgets: tuple[int, ...] = (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("certifier", "rule"),
    [
        (Grown(), "no class is excluded beyond its exact distance"),
        (GrownBalls(), "no class is excluded beyond its exact distance"),
        (RunnerUp(), "no class is excluded beyond its exact distance"),
        (Coupled(), "an example's radii do not depend on the batch"),
        (Trusting(), "ties, mistakes and logits that are not finite are not certified"),
        (Tied(), "ties, mistakes and logits that are not finite are not certified"),
        (Labelled(), "the label's own entry is inf"),
        (Unsure(), "class_radii are numbers of at least 0"),
        (Narrow(), "class_radii are (batch, classes), float64, and candidates have the shape of x"),
        (Refusing(), "something is proved of a small network"),
        (Faulty(), "a model that cannot be treated is refused with CertificateError"),
        (Random(), "the same call gives the same radii"),
        (Writing(), "model and inputs are left unchanged"),
        (Listed(), "settings are fields of a frozen dataclass"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Certifier) else "",
)
def test_a_certifier_that_breaks_a_rule_is_caught(certifier, rule):
    findings = {finding.rule: finding for finding in check_certifier(certifier)}
    assert not findings[rule].holds
    assert findings[rule].detail


# Operations: an example of a plugin's handler, in the documentation too


class HardTanh(ClosedFormActivation):
    """z clamped to [-1, 1]."""

    rounding_units = 0
    secant_upper = False
    piecewise_linear = True

    def __call__(self, z):
        return z.clamp(-1, 1)

    def derivative(self, z):
        return ((z > -1) & (z < 1)).to(z)

    def critical_points(self, slope):
        return [-torch.ones_like(slope), torch.ones_like(slope)]


def hardtanh(context):
    if tuple(context.args[1:]) not in ((), (-1, 1), (-1.0, 1.0)):
        raise context.refuse(" with other limits than -1 and 1")
    return context.pointwise(HardTanh())


PLUGIN_OPERATIONS = {"hardtanh": hardtanh}

# End of the example


@pytest.fixture
def handled(monkeypatch):
    """A function that gives an operation a handler, as a plugin does."""

    def use(name, handler):
        built_in = [entry for entry in OPERATIONS.entries().values() if entry.name != name]
        entry = Entry(name, handler, origin="the folder x")
        registry = Registry("operation", built_in, from_plugins=lambda: [entry])
        monkeypatch.setattr(lowering, "OPERATIONS", registry)

    return use


def test_a_plugins_handler_keeps_the_contract(handled):
    handled("hardtanh", PLUGIN_OPERATIONS["hardtanh"])
    assert violated(check_operation("hardtanh")) == []
    # An operation without a handler is refused.
    (finding, *_) = check_operation("atan")
    assert not finding.holds
    assert "do not support the operation 'atan'" in finding.detail


def test_a_network_with_a_plugins_operation_is_certified(handled):
    handled("hardtanh", hardtanh)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3, 4), torch.nn.Hardtanh(), torch.nn.Linear(4, 3)
    )
    x = torch.rand(20, 1, 1, 3)
    with torch.no_grad():
        logits = model(x)
        prepared = LinearRelaxation().prepared(model, (1, 1, 3))
        proof = prepared.prove(x, logits, logits.argmax(dim=1), ThreatModel("Linf", 1e-3))
    assert (proof.class_radii.amin(dim=1) > 0).sum() > 10


def test_an_operation_of_a_library_is_named_with_it(handled):
    torch.library.define("contract_test::third", "(Tensor z) -> Tensor")
    torch.library.impl("contract_test::third", "CompositeExplicitAutograd", lambda z: z / 3)

    def third(context):
        return context.scaled(context.args[0], context.constant(1 / 3))

    handled("contract_test::third", third)
    assert violated(check_operation("contract_test::third")) == []


@pytest.mark.parametrize(
    ("name", "function", "input_shape"),
    [
        ("relu", None, (2, 4, 4)),
        ("leaky_relu", lambda z: F.leaky_relu(z, 0.3), (5,)),
        ("sigmoid", None, (5,)),
        ("softplus", None, (5,)),
        ("tanh", None, (5,)),
        ("convolution", lambda z: F.conv2d(z, CONV.to(z), stride=2), (2, 4, 5)),
        ("mm", lambda z: z.flatten(1) @ CONV.to(z).flatten(1).T, (2, 3, 3)),
        ("add", lambda z: z + 0.3 * z, (5,)),
        ("rsub", lambda z: torch.rsub(z, 2, alpha=3), (5,)),
        ("mul", lambda z: -1.5 * z, (5,)),
        ("div", lambda z: z / -0.5, (5,)),
        ("neg", None, (5,)),
        ("mean", lambda z: z.mean(dim=(2, 3)), (2, 4, 4)),
        ("avg_pool2d", lambda z: F.avg_pool2d(z, 3, 1, 1), (2, 4, 4)),
        ("permute", lambda z: z.permute(0, 2, 3, 1), (2, 4, 4)),
        ("cat", lambda z: torch.cat([z, 2 * z], dim=1), (2, 3)),
        ("split", lambda z: z.split(2, dim=1)[1], (4, 3)),
        ("roll", lambda z: z.roll(1, dims=2), (2, 4, 4)),
    ],
)
def test_built_in_handlers_keep_the_contract(name, function, input_shape):
    assert violated(check_operation(name, function, input_shape=input_shape)) == []


CONV = uniform(3, 2, 3, 3, seed=5) - 0.5


class ShiftedTanh(HardTanh):
    """Computes another function."""

    def __call__(self, z):
        return (z + 0.1).clamp(-1, 1)


class WithoutKinks(HardTanh):
    """Leaves out where the function has kinks."""

    def critical_points(self, slope):
        return []


class TooFlat(HardTanh):
    """Claims smaller slopes than there are."""

    max_slope = 0.5


class LikeSigmoid(HardTanh):
    """Claims a sector that does not contain its secants."""

    sector = Sigmoid.sector

    def derivative(self, z):
        return torch.zeros_like(z)


def affine(**parts):
    """Return a handler that scales by -0.3, with some parts of the node wrong."""

    def handler(context):
        node = context.scaled(context.args[0], context.constant(-0.3))
        return type(node)(**{**vars(node), **parts})

    return handler


@pytest.mark.parametrize(
    ("function", "handler", "rule"),
    [
        (F.hardtanh, lambda c: c.pointwise(ShiftedTanh()), "the node computes what the operation"),
        (F.hardtanh, lambda c: c.pointwise(LeakyReLU(0.0)), "the node computes what the operation"),
        (F.hardtanh, lambda c: c.pointwise(WithoutKinks()), "linear bounds contain samples"),
        (F.hardtanh, lambda c: c.pointwise(TooFlat()), "the slopes of an activation"),
        (F.hardtanh, lambda c: c.pointwise(LikeSigmoid()), "the slopes of an activation"),
        (F.hardtanh, lambda c: 1 / 0, "a network that uses the operation can be traced"),
    ],
)
def test_a_wrong_handler_is_caught(function, handler, rule, handled):
    handled("hardtanh", handler)
    assert any(found.startswith(rule) for found in violated(check_operation("hardtanh", function)))


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        ({"adjoint": lambda a: (a,)}, "adjoint is the transpose of linear"),
        ({"adjoint": lambda a: (a,)}, "bounds by back-substitution lie below samples"),
        ({"abs_linear": lambda z: 0.1 * z}, "abs_linear bounds the absolute values of linear"),
        ({"abs_linear": lambda z: 0.1 * z}, "interval bounds contain samples"),
        ({"bias": torch.ones(1).double()}, "the node computes what the operation computes"),
        ({"n_summands": 0}, "the error bound contains the rounding of float32"),
    ],
)
def test_a_wrong_affine_node_is_caught(parts, rule, handled):
    torch_name = "contract_test::scaled"
    if not hasattr(torch.ops.contract_test, "scaled"):
        torch.library.define(torch_name, "(Tensor z) -> Tensor")
        torch.library.impl(torch_name, "CompositeExplicitAutograd", lambda z: -0.3 * z)
    handled(torch_name, affine(**parts))
    assert rule in violated(check_operation(torch_name))
    handled(torch_name, affine())
    assert violated(check_operation(torch_name)) == []


def test_a_function_without_the_operation_is_told():
    (finding, *_) = check_operation("tanh", lambda z: z.relu())
    assert not finding.holds
    assert "does not use 'tanh'" in finding.detail
