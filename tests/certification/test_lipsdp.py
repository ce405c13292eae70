"""Semidefinite Lipschitz bounds against exact constants and distances of tiny networks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.enumeration import least_distance, lipschitz_constant, tiny_network
from oracles.samples import normal, uniform
from torch import nn

from robustbench_dyn.certification.activations import LeakyReLU, Sigmoid, Tanh
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.bounds.traced_network import traced_network
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.certification.certifiers.local_lipsdp import LocalLipSDP
from robustbench_dyn.certification.proofs import local_lipsdp
from robustbench_dyn.certification.proofs.lipsdp import pairwise_lipsdp
from robustbench_dyn.certification.sdp.incremental_system import (
    Sector,
    global_sectors,
    incremental_system,
)
from robustbench_dyn.certification.sdp.solver import _is_positive, certified_bound, optimise_dual
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.flows import (
    Classifier,
    DenseGradientStep,
    EulerStep,
    ShearStep,
    lipschitz_bound,
    pairwise_lipschitz,
)
from robustbench_dyn.threat_models import ThreatModel

few = settings(deadline=None, max_examples=15)
seeds = st.integers(0, 10_000)
SHAPE = (1, 1, 3)
WIDTHS = (3, 2)


def network_of(model, shape=SHAPE):
    return traced_network(model, shape).exact


def lipsdp(model):
    return pairwise_lipsdp(network_of(model))


def nearest(model, x, y):
    """Return the exact distance from each x[i] to another decision."""
    return [
        min(least_distance(model, point.flatten(), int(label), j) for j in range(3) if j != label)
        for point, label in zip(x, y, strict=True)
    ]


def certifies(name, model, x, y, eps):
    """Say whether a certifier proves each x[i] within eps."""
    with torch.no_grad():
        (prepared,) = resolve_certifiers(name, model, tuple(x.shape[1:]), "L2")
        return radii(prepared.prove(x, model(x), y, ThreatModel("L2", eps))) >= eps


def problem(seed, n=1):
    model, x = tiny_network(seed, widths=WIDTHS), uniform(n, *SHAPE, seed=seed)
    with torch.no_grad():
        return model, x, model(x).argmax(dim=1)


# Global bounds


@pytest.mark.slow
@few
@given(seeds, st.floats(0.2, 2.0))
def test_bounds_lie_between_exact_and_product_of_norms(seed, gain):
    model = tiny_network(seed, widths=WIDTHS, gain=gain)
    found, product = lipsdp(model), pairwise_lipschitz(model)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert found[i, j] >= lipschitz_constant(model, i, j) * (1 - 1e-9)
        assert found[i, j] == found[j, i]
    # All pairs share their dual_variables, and the sum of squares is what these make small.
    assert found.square().sum() <= product.square().sum() * 1.02


def test_bounds_are_much_less_than_the_product_of_norms():
    ratios = []
    for seed in range(10):
        model = tiny_network(seed, widths=(6, 6, 6))
        bounds, product = lipsdp(model), pairwise_lipschitz(model)
        ratios.append(float(bounds[0, 1] / product[0, 1]))
    assert sum(ratios) / len(ratios) < 0.7


def power_iterated(model, n_iterations=2):
    """Take the norm that a few power iterations give: the classical mistake."""
    weight = model[1].weight.detach()
    v = torch.ones(weight.shape[1]).double()
    for _ in range(n_iterations):
        u = weight @ v
        v = weight.T @ (u / u.norm())
    return float(v.norm() * (model[3].weight[0] - model[3].weight[1]).detach().norm())


def test_a_norm_by_a_few_power_iterations_is_caught():
    def shortfall(bound_of):
        worst = 0.0
        for seed in range(5):
            model = tiny_network(seed, widths=(8,), n_classes=2, d=6)
            # Where all neurons are active, the Lipschitz constant is the norm of the matrix.
            u, s, _ = torch.linalg.svd(model[1].weight.detach())
            model[1].bias.data.fill_(1e3)
            model[3].weight.data = torch.stack([u[:, 0], 0 * u[:, 0]])
            worst = max(worst, float(s[0]) - bound_of(model))
        return worst

    assert shortfall(power_iterated) > 0.05
    assert shortfall(lambda model: float(pairwise_lipsdp(network_of(model, (1, 1, 6)))[0, 1])) <= 0
    assert shortfall(lambda model: float(pairwise_lipschitz(model)[0, 1])) <= 0


@few
@given(seeds, seeds, st.floats(0.1, 3.0))
def test_a_bound_holds_for_any_dual_variables(seed, other, factor):
    model = tiny_network(seed, widths=WIDTHS)
    network = network_of(model)
    system = incremental_system(network, global_sectors(network))
    objective = torch.tensor([1.0, -1.0, 0.0]).double()
    found = optimise_dual(system, objective[None])
    exact = lipschitz_constant(model, 0, 1)
    for dual_variables in (uniform(5, seed=other) * factor, found.dual_variables * factor):
        for square in (float(found.squares[0]) * factor, exact**2 * factor):
            assert certified_bound(system, objective, dual_variables, square) >= exact * (1 - 1e-9)


def test_a_suggested_bound_that_is_too_small_is_not_proved():
    network = network_of(tiny_network(1, widths=WIDTHS))
    system = incremental_system(network, global_sectors(network))
    objective = torch.tensor([1.0, -1.0, 0.0]).double()
    dual_variables, squares = optimise_dual(system, objective[None])
    suggested = float(squares[0])
    assert (
        certified_bound(system, objective, dual_variables, suggested) < math.sqrt(suggested) * 1.001
    )
    assert certified_bound(system, objective, dual_variables, suggested * 0.95) == math.inf
    assert certified_bound(system, objective, -dual_variables, suggested) == math.inf
    assert certified_bound(system, objective, dual_variables, math.nan) == math.inf


def test_one_neuron_has_its_exact_constant_up_to_rounding():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 2)).double()
    network = network_of(model)
    rows, heads = (model[k].weight.detach() for k in (1, 3))
    exact = float(rows.norm() * (heads[0] - heads[1]).norm())
    found = float(pairwise_lipsdp(network)[0, 1])
    assert exact <= found <= exact * 1.01
    # At the exact constant the matrix is singular: rounding alone would decide.
    system = incremental_system(network, global_sectors(network))
    objective = torch.tensor([1.0, -1.0]).double()
    best = (objective @ system.logits)[3:].square()
    assert not _is_positive(system, objective, best, exact**2)
    assert _is_positive(system, objective, best, exact**2 * (1 + 1e-9))


def test_networks_without_activations_get_the_norm_of_their_rows():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.Linear(4, 3)).double()
    weight = (model[2].weight @ model[1].weight).detach()
    found = lipsdp(model)
    assert float(found[0, 2]) == pytest.approx(float((weight[0] - weight[2]).norm()), rel=1e-6)
    assert found[0, 2] >= (weight[0] - weight[2]).norm()


# The incremental system


def networks():
    with torch.random.fork_rng():
        torch.manual_seed(4)
        field = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.2), nn.Linear(6, 4))
        half = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Tanh(), nn.Conv2d(3, 2, 1))
        parts = {
            "residual": [nn.Flatten(), nn.Linear(4, 4), EulerStep(field), nn.ReLU()],
            "gradient": [nn.Flatten(), DenseGradientStep(4, 5, n_steps=2)],
            "smooth": [nn.Flatten(), nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 4), nn.Tanh()],
            "shear": [ShearStep(half, nn.Tanh()), nn.Flatten()],
        }
        return {
            name: Classifier(nn.Sequential(*layers), nn.Linear(4, 3)).double().eval()
            for name, layers in parts.items()
        }


@pytest.mark.parametrize("name", ["residual", "gradient", "smooth", "shear"])
def test_the_incremental_system_is_that_of_the_network(name):
    model, shape = networks()[name], (4, 1, 1)
    x, eps = uniform(1, *shape, seed=1), 0.2
    with torch.no_grad():
        network = traced_network(model, shape).exact
        relaxed = local_lipsdp.relaxation_state(model, shape)
        ball = local_lipsdp.Ball(x, ThreatModel("L2", eps))
        bounds, _ = local_lipsdp.intermediate_bounds(relaxed, ball)
        centre = local_lipsdp.interval_bounds(
            relaxed, local_lipsdp.Ball(x, ThreatModel("L2", 1e-200))
        )
        local = local_lipsdp.local_sectors(network, centre, bounds, 0)
        for sectors in (global_sectors(network), local):
            system = incremental_system(network, sectors)
            at_x = network.outputs(x)
            for seed in range(20):
                direction = normal(*x.shape, seed=seed)
                moved = (x + eps * (seed + 1) / 20 * direction / direction.norm()).clamp(0, 1)
                change = [b - a for a, b in zip(at_x, network.outputs(moved), strict=True)]
                psi = []
                for k, sector in sectors.items():
                    dz = change[network.nodes[k - 1].inputs[0]].flatten()
                    rest = change[k].flatten() - sector.low * dz
                    unstable = sector.high > sector.low
                    assert (rest * ((sector.high - sector.low) * dz - rest) >= -1e-12).all()
                    assert (rest[~unstable].abs() < 1e-12).all()
                    psi.append(rest[unstable])
                vector = torch.cat([change[0].flatten(), *psi])
                torch.testing.assert_close(system.logits @ vector, change[-1].flatten())
                widths = torch.cat([(s.high - s.low)[s.high > s.low] for s in sectors.values()])
                dz = torch.cat(
                    [
                        change[network.nodes[k - 1].inputs[0]].flatten()[s.high > s.low]
                        for k, s in sectors.items()
                    ]
                )
                torch.testing.assert_close(system.rows @ vector, widths * dz)


@pytest.mark.parametrize(
    "activation",
    [LeakyReLU(0.0), LeakyReLU(0.1), Tanh(), Sigmoid()],
    ids=lambda a: type(a).__name__,
)
def test_secants_lie_in_their_sectors(activation):
    ends = normal(500, 2, seed=3) * torch.logspace(-2, 1, 500).double()[:, None]
    lower, upper = ends.amin(dim=1), ends.amax(dim=1)
    z = lower + uniform(500, seed=4) * (upper - lower)
    low, high = activation.sector(z - 1e-13, z + 1e-13, lower, upper)
    for t in torch.linspace(0, 1, 101).double():
        w = lower + t * (upper - lower)
        secant = (activation(w) - activation(z)) / (w - z)
        wide = (w - z).abs() > 1e-3
        assert (secant >= low - 1e-12)[wide].all()
        assert (secant <= high + 1e-12)[wide].all()
    assert (low >= activation.min_slope).all()
    assert (high <= activation.max_slope).all()
    if isinstance(activation, LeakyReLU):
        same_side = (lower > 0) | (upper < 0)
        assert (low == high)[same_side].all()
        # The negative control: the slope at the centre is not a bound.
        assert (activation.derivative(z) > low + 0.1)[~same_side & (z > 0)].any()


# Within a ball


@few
@given(seeds, st.floats(0.3, 1.3))
def test_certified_balls_are_smaller_than_the_exact_distance(seed, share):
    model, x, y = problem(seed)
    (exact,) = nearest(model, x, y)
    eps = min(share * exact, 1.0)
    if certifies("local_lipsdp", model, x, y, eps):
        assert eps <= exact * (1 + 1e-9)
    # Within a ball no bound is worse than on the whole space.
    globally = certifies("lipsdp", model, x, y, eps * 1.02)
    assert not globally or certifies("local_lipsdp", model, x, y, eps)


def hits(share, n=25):
    """Count the certified among tiny networks at `share` times the exact distance."""
    found = 0
    for seed in range(n):
        model, x, y = problem(seed)
        (exact,) = nearest(model, x, y)
        found += exact < 1.2 and bool(certifies("local_lipsdp", model, x, y, share * exact))
    return found


def test_local_bounds_prove_more_than_global_ones():
    assert hits(1.001) == 0
    near, far = hits(0.9), hits(0.5)
    assert near >= 5
    assert far > near
    globally = 0
    for seed in range(25):
        model, x, y = problem(seed)
        (exact,) = nearest(model, x, y)
        globally += exact < 1.2 and bool(certifies("lipsdp", model, x, y, 0.9 * exact))
    assert globally < near


def test_a_bound_that_ignores_unstable_neurons_is_caught(monkeypatch):
    def at_the_centre(network, centre, bounds, example):
        return {
            k: Sector(low, low)
            for k, (low, _) in local_sectors(network, centre, centre, example).items()
        }

    local_sectors = local_lipsdp.local_sectors
    monkeypatch.setattr(local_lipsdp, "local_sectors", at_the_centre)
    assert hits(1.001) > 0


def test_mistakes_and_infinite_logits_are_not_certified():
    model, x, _ = problem(3, n=4)
    state = LocalLipSDP().prepare(model, SHAPE)
    with torch.no_grad():
        logits = model(x)
        y = logits.argmax(dim=1)
        y[1] = (y[1] + 1) % 3
        logits[2:] = torch.tensor([[math.nan, 0, 0], [math.inf, 0, 0]]).double()
        proof = LocalLipSDP().prove(state, x, logits, y, ThreatModel("L2", 1e-6))
        assert (proof.class_radii.amin(dim=1) > 0).tolist() == [True, False, False, False]
        empty = LocalLipSDP().prove(
            state, x[:0], logits[:0], torch.zeros(0).long(), ThreatModel("L2", 0.1)
        )
    assert empty.class_radii.shape == (0, 3)


def test_a_margin_within_rounding_is_not_certified():
    model, x, _ = problem(0)
    logits = torch.tensor([[1.0, 1.0 - 1e-14, 0.0]]).double()
    state = LocalLipSDP().prepare(model, SHAPE)
    proof = LocalLipSDP().prove(state, x, logits, torch.tensor([0]), ThreatModel("L2", 1e-18))
    assert proof.class_radii.amin() == 0


def test_each_example_is_certified_by_itself():
    model, x, y = problem(5, n=12)
    together = certifies("local_lipsdp", model, x, y, 0.2)
    alone = [
        bool(certifies("local_lipsdp", model, x[k : k + 1], y[k : k + 1], 0.2)) for k in range(12)
    ]
    assert together.tolist() == alone
    assert 0 < together.sum() < 12


# Choice


def names(spec, model, norm="L2"):
    return [ready.certifier.name for ready in resolve_certifiers(spec, model, SHAPE, norm)]


def test_auto_runs_semidefinite_bounds_on_small_networks():
    vacuous = tiny_network(0, gain=30.0)
    assert names("auto", vacuous) == [
        "lipschitz",
        "lipsdp",
        "interval",
        "linear_relaxation",
        "local_lipsdp",
        "complete",
    ]
    assert "local_lipsdp" not in names("auto", vacuous, "Linf")
    # Beside a useful Lipschitz bound, too: relaxing so few neurons costs little.
    assert names("auto", tiny_network(0, gain=0.1)) == names("auto", vacuous)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(3, 3000), nn.ReLU(), nn.Linear(3000, 3))
    assert "lipsdp" not in names("auto", wide)
    assert "local_lipsdp" not in names("auto", wide)
    with pytest.raises(InputError, match="'local_lipsdp' supports L2, not Linf"):
        names("local_lipsdp", vacuous, "Linf")


@pytest.mark.parametrize("name", ["lipsdp", "local_lipsdp"])
def test_networks_without_semidefinite_bounds_are_refused(name):
    wide = nn.Sequential(nn.Flatten(), nn.Linear(3, 3000), nn.ReLU(), nn.Linear(3000, 3))
    with pytest.raises(CertificateError, match="this one has 3000 and 3"):
        names(name, wide)
    jump = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 3))
    with pytest.raises(CertificateError, match="Softplus"):
        names(name, jump)
    with pytest.raises(CertificateError, match="has 0 and 3"):
        names(name, nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))


def test_a_bound_by_design_is_never_made_worse():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        steps = nn.Sequential(nn.Flatten(), *(DenseGradientStep(3, 6) for _ in range(4)))
        model = Classifier(steps, nn.Linear(3, 3)).double()
    assert lipschitz_bound(steps) == pytest.approx(1.0)
    (ready,) = resolve_certifiers("lipsdp", model, SHAPE, "L2")
    assert (ready.state.bounds <= pairwise_lipschitz(model)).all()
