"""Properties: each holds where it should, and a liar is caught with a counterexample."""

import math

import pytest
import torch
from torch import nn

from robustbench_dyn.errors import InputError
from robustbench_dyn.flows import (
    ConvGradientStep,
    ConvPotential,
    Flow,
    FluxField,
    HamiltonianStep,
    Prototypes,
    ShearStep,
    SphereField,
    SphereStep,
    TransportStep,
)
from robustbench_dyn.models.loading import discover
from robustbench_dyn.properties import (
    Attracting,
    BatchIndependent,
    Convergent,
    Deterministic,
    EnergyDecreasing,
    EquilibriumPreserving,
    Invertible,
    Lipschitz,
    MassPreserving,
    Nonexpansive,
    NormPreserving,
    SimplexPreserving,
    Symplectic,
    VolumePreserving,
    check_properties,
)
from robustbench_dyn.properties.architectures import check_architecture
from robustbench_dyn.properties.jacobians import operator_norms


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def images(n=3, channels=4, size=4):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def findings(module, claim, x):
    return list(check_properties(module, [claim], x))


class Sphere(nn.Sequential):
    """Vectors in, whatever the images are."""

    def __init__(self, step):
        super().__init__(nn.Flatten(), step)


class Rising(ConvGradientStep):
    """Goes up the potential that it claims to go down."""

    def trajectory(self, x):
        for state in super().trajectory(x):
            yield 2 * x - state


class Leaky(FluxField):
    """What leaves one pixel does not all arrive in the next."""

    def forward(self, t, x):
        return super().forward(t, x) + 1e-6 * torch.tanh(x)


class Overshooting(TransportStep):
    """Keeps the sum, and goes twice as far as it may."""

    def forward(self, x):
        return 2 * super().forward(x) - x


class Forgetful(ShearStep):
    """Its inverse forgets one of the two shears."""

    def inverse(self, x):
        q, p = x.chunk(2, dim=1)
        return torch.cat([q - self.step_size * self.f(p), p], dim=1)


class Neighbourly(nn.Module):
    """Chooses its step by the whole batch, as an adaptive solver does."""

    def forward(self, x):
        return x + 1e-6 * x.std() * torch.sin(x)


class Dicing(nn.Module):
    def forward(self, x):
        return x + 1e-9 * torch.rand_like(x)


class Bent(nn.Module):
    """1-Lipschitz nearly everywhere: steeper in a small corner that only a search finds."""

    def forward(self, x):
        return x + 0.5 * torch.nn.functional.softplus(20 * (x - 1.2)) / 20

    def lipschitz_bound(self):
        return 1.0


class Kinked(nn.Module):
    """As Bent, but piecewise linear: the gradient of its Jacobian's norm is 0 nearly everywhere."""

    def forward(self, x):
        return x + 0.5 * torch.relu(x - 0.81)

    def lipschitz_bound(self):
        return 1.0


class Blunt(Prototypes):
    """A flow of far too small a sharpness, which leaves the basins for the mean of all."""

    def compute(self):
        return super().compute() * torch.tensor([1e-3, 1.0])


def prototypes(kind=Prototypes):
    return nn.Sequential(nn.Flatten(), kind(64, 3, prototypes=4))


def coupling():
    return nn.Conv2d(2, 2, 3, padding=1)


HONEST = [
    (Symplectic(), lambda: HamiltonianStep(4, 6)),
    (Symplectic(), lambda: HamiltonianStep(4, 6, symmetric=True)),
    (VolumePreserving(), lambda: ShearStep(coupling(), coupling())),
    (Invertible(), lambda: ShearStep(coupling(), coupling(), symmetric=True)),
    (MassPreserving(), lambda: Flow(FluxField(4, 6), method="rk4", n_steps=3)),
    (MassPreserving(), lambda: TransportStep(4)),
    (SimplexPreserving(), lambda: TransportStep(4)),
    (NormPreserving("1"), lambda: Sphere(SphereStep(64, 5))),
    (
        NormPreserving("1"),
        lambda: Sphere(Flow(SphereField(64, 5), method="implicit_midpoint", duration=0.2)),
    ),
    (NormPreserving("1", order=4), lambda: Sphere(Flow(SphereField(64, 5), method="rk4"))),
    (Convergent("1", order=1), lambda: Sphere(Flow(SphereField(64, 5)))),
    (Convergent("1", order=4), lambda: Sphere(Flow(SphereField(64, 5), method="rk4_38"))),
    (EnergyDecreasing(), lambda: ConvGradientStep(4, 8, n_steps=3)),
    (EnergyDecreasing(), lambda: ConvGradientStep(4, 8, activation="sin", n_steps=3)),
    (EnergyDecreasing("1"), prototypes),
    (Attracting("1"), prototypes),
    (EquilibriumPreserving("1"), lambda: Sphere(SphereStep(64, 5))),
    (Nonexpansive(), lambda: ConvGradientStep(4, 8)),
    (Lipschitz(), lambda: HamiltonianStep(4, 6)),
    (BatchIndependent(), lambda: HamiltonianStep(4, 6)),
    (Deterministic(), lambda: HamiltonianStep(4, 6)),
]

LIARS = [
    (Symplectic(), lambda: Flow(_vector_field(), n_steps=2)),
    (VolumePreserving(), lambda: ConvGradientStep(4, 8)),
    (Invertible(), lambda: Forgetful(coupling(), coupling())),
    (MassPreserving(), lambda: Flow(Leaky(4, 6), n_steps=2)),
    (SimplexPreserving(), lambda: Overshooting(4)),
    (NormPreserving("1"), lambda: Sphere(Flow(SphereField(64, 5)))),
    (NormPreserving("1", order=4), lambda: Sphere(Flow(SphereField(64, 5), method="heun"))),
    (Convergent("1", order=2), lambda: Sphere(Flow(SphereField(64, 5)))),
    (Convergent("1", order=4), lambda: Sphere(Flow(SphereField(64, 5), method="heun"))),
    (EnergyDecreasing(), lambda: Rising(4, 8)),
    (Attracting("1"), lambda: prototypes(Blunt)),
    (EquilibriumPreserving(), lambda: ShearStep(coupling(), coupling())),
    (Nonexpansive(), lambda: ShearStep(coupling(), coupling())),
    (Lipschitz(), Bent),
    (BatchIndependent(), Neighbourly),
    (Deterministic(), Dicing),
]


def _vector_field():
    """Return the Hamiltonian field itself: explicit Euler on it is not symplectic."""
    potential = ConvPotential(2, 6)

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.potential = potential

        def forward(self, _t, x):
            q, p = x.chunk(2, dim=1)
            return torch.cat([self.potential(p), -self.potential(q)], dim=1)

    return Field()


def ids(cases):
    return [f"{claim.name}-{k}" for k, (claim, _) in enumerate(cases)]


@pytest.mark.parametrize(("claim", "build"), HONEST, ids=ids(HONEST))
def test_sound_parts_keep_their_property(claim, build):
    for finding in findings(build(), claim, images()):
        assert finding.holds, finding


@pytest.mark.parametrize(("claim", "build"), LIARS, ids=ids(LIARS))
def test_broken_parts_are_caught_with_a_counterexample(claim, build):
    found = findings(build(), claim, images())
    broken = [finding for finding in found if not finding.holds]
    assert broken, found
    witness = broken[-1].witness
    assert witness is not None
    # The counterexample alone shows it again.
    again = findings(build_again(build), claim, witness.reshape(1, 4, 4, 4).float())
    assert any(not finding.holds for finding in again)


def build_again(build):
    torch.manual_seed(0)
    return build()


def test_every_property_has_a_negative_control():
    assert {type(claim) for claim, _ in LIARS} == {type(claim) for claim, _ in HONEST}


def test_the_search_finds_what_data_and_noise_do_not_show():
    kinds = {finding.points: finding.holds for finding in findings(Bent(), Lipschitz(), images())}
    assert not kinds["searched"]


def test_the_search_crosses_kinks():
    kinds = {f.points: f.holds for f in findings(Kinked(), Lipschitz(), 0.8 * images())}
    assert kinds["data"]
    assert not kinds["searched"]


def test_operator_norms_of_a_linear_map_come_from_below():
    weight = torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    norms = operator_norms(lambda x: x @ weight.T, torch.randn(2, 5, dtype=torch.float64))
    exact = torch.linalg.matrix_norm(weight, ord=2)
    assert bool((norms <= exact * (1 + 1e-12)).all())
    # Twenty iterations on a gap of a few percent.
    assert bool((norms >= 0.99 * exact).all())


def test_nan_does_not_hold():
    class Broken(nn.Module):
        def forward(self, x):
            return x * math.nan

    assert not any(f.holds for f in findings(Broken(), MassPreserving(), images()))


def test_a_claim_about_a_missing_part_is_refused():
    with pytest.raises(InputError, match="no part of the model"):
        findings(nn.Flatten(), MassPreserving("features.7"), images())


def test_an_exception_of_a_part_names_the_claim():
    with pytest.raises(InputError, match="invertible of 'the network' cannot be tested"):
        findings(nn.Tanh(), Invertible(), images())


def test_the_model_is_not_changed():
    model = ConvGradientStep(4, 8).train()
    before = model.weight.detach().clone()
    findings(model, Nonexpansive(), images())
    assert model.training
    assert model.weight.dtype == torch.float32
    assert model.weight.requires_grad
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("name", sorted(discover()))
def test_every_shipped_plugin_keeps_what_it_claims(name):
    architecture = discover().get(name)
    trained_for = {weights.dataset for weights in architecture.card.weights}
    # In the plane where it may be: there a determinant costs nothing.
    dataset = "moons" if "moons" in trained_for or not trained_for else None
    for finding in check_architecture(architecture, dataset=dataset, n_examples=2, search=False):
        assert finding.holds, finding
