"""Audits refute false certificates, and let true ones stand."""

import math
import re
from pathlib import Path

import pytest
import torch
from oracles import halfspaces, points
from oracles.attacks import attack_of
from oracles.certifiers import amended
from torch import nn

from robustbench_dyn import ThreatModel
from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.evaluation.certificate_audit import (
    DEFAULT_ATTACKS,
    AdversarialExample,
    Refutation,
    audit_certificates,
    find_refutations,
    radius_shells,
)
from robustbench_dyn.evaluation.certified_radii import STEPS_PER_OCTAVE, certified_radii
from robustbench_dyn.flows import Classifier
from robustbench_dyn.models.freezing import frozen_eval

DISTANCES = (0.05, 0.11, 0.2, 0.31)
# The plane x_i = x_j is at L2 distance d, and at these in the other norms.
FACTORS = {"L2": 1.0, "Linf": 2**-0.5, "L1": 2**0.5}
RISE = 2 ** (1 / STEPS_PER_OCTAVE)

no_attack = attack_of(lambda problem: problem.x.clone(), name="no-attack")


def audit(model, x, y, norm, certifier, *, attacks="apgd-ce", **options):
    """Return the result of the only certifier."""
    (result,) = audit_certificates(
        model, x, y, norm, [certifier], attacks=attacks, **options
    ).values()
    return result


def prepare(name, model, norm):
    (prepared,) = resolve_certifiers(name, model, (1, 4, 4), norm)
    return prepared


def grown(name, model, norm, factor):
    """Return the certifier of that name, whose radii are `factor` times as long."""

    def prove(honest, x, logits, y, threat_model):
        smaller = ThreatModel(threat_model.norm, threat_model.eps / factor)
        proof = honest.prove(x, logits, y, smaller)
        # By rounding, the product could be shorter than the eps that is to be proved.
        return Proof(proof.class_radii * factor * (1 + 1e-12))

    return amended(prepare(name, model, norm), prove).certifier


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["L2", "Linf", "L1"])
def test_true_certificates_stand_however_close_attacks_come(norm):
    model = halfspaces(n_classes=4)
    x, y = points(DISTANCES[1:3], n_classes=4)
    result = audit(model, x, y, norm, "interval", attacks=None)
    # Interval bounds of a linear map are exact: only the grid makes a radius shorter.
    exact = torch.tensor(DISTANCES[1:3], dtype=torch.float64) * FACTORS[norm]
    assert bool((result.radii <= exact).all())
    assert bool((result.radii * RISE > exact * (1 - 1e-4)).all())
    assert result.refutations == ()
    assert 1 < result.nearest < RISE * 1.02


@pytest.mark.parametrize("name", ["lipschitz", "interval", "linear_relaxation"])
@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_radii_half_as_long_again_are_refuted(name, norm):
    model = halfspaces()
    x, y = points(DISTANCES)
    assert audit(model, x, y, norm, name).refutations == ()
    # From L2, an Linf radius is 16^(1/2) times too short: it takes more to make it wrong.
    factor = 1.5 if (name, norm) != ("lipschitz", "Linf") else 6.0
    result = audit(model, x, y, norm, grown(name, model, norm, factor))
    assert [refutation.row for refutation in result.refutations] == [0, 1, 2, 3]
    assert result.nearest < 1
    for row, radius, example in result.refutations:
        assert example.distance <= radius == result.radii[row]
        with torch.no_grad():
            assert model(example.x_adv[None]).argmax() != y[row]


@pytest.mark.parametrize(
    ("attacks", "minimum_norm", "by"),
    [("apgd-ce", no_attack, ["apgd-ce"] * 4), (no_attack, "fab-min", ["fab-min"] * 4)],
)
def test_either_kind_of_attack_alone_refutes(attacks, minimum_norm, by):
    model = halfspaces()
    x, y = points(DISTANCES)
    false = grown("lipschitz", model, "L2", 1.5)
    result = audit(model, x, y, "L2", false, attacks=attacks, minimum_norm=minimum_norm)
    assert [refutation.example.attack for refutation in result.refutations] == by


def test_a_nearer_example_replaces_a_farther_one():
    model = halfspaces()
    x, y = points(DISTANCES)

    def reflect(problem):
        """Return the mirror images behind the plane, twice as far away as the plane."""
        candidates = problem.x.clone()
        candidates[..., 0, :2] = problem.x[..., 0, :2].flip(-1)
        return candidates

    far = attack_of(reflect, name="reflect")
    alone = audit(model, x, y, "L2", "lipschitz", attacks="none", minimum_norm=far)
    assert alone.nearest == pytest.approx(2, rel=1e-4)
    false = grown("lipschitz", model, "L2", 1.5)
    result = audit(model, x, y, "L2", false, minimum_norm=far)
    assert [refutation.example.attack for refutation in result.refutations] == ["apgd-ce"] * 4


def test_without_attacks_false_radii_stand():
    model = halfspaces()
    x, y = points(DISTANCES)
    false = grown("lipschitz", model, "L2", 1.5)
    result = audit(model, x, y, "L2", false, attacks=no_attack, minimum_norm=no_attack)
    assert (result.refutations, result.nearest) == ((), math.inf)


def test_a_norm_by_a_few_power_iterations_is_refuted():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(16, 16, bias=False)
        layer.weight.data = torch.randn(16, 16)
        vector = torch.randn(16)
    left, sizes, _ = torch.linalg.svd(layer.weight.detach())
    for _ in range(2):
        vector = layer.weight.detach().T @ (layer.weight.detach() @ vector)
        vector /= vector.norm()
    estimate = float((layer.weight.detach() @ vector).norm())
    assert 0.6 * sizes[0] < estimate < 0.98 * sizes[0]

    def network(bound):
        """Return two classes; their logit difference has the layer's norm as Lipschitz constant."""
        head = nn.Linear(16, 2)
        head.weight.data = torch.stack([left[:, 0], torch.zeros(16)])
        head.bias.data = torch.zeros(2)
        return Classifier(Bounded(nn.Sequential(nn.Flatten(), layer), bound), head)

    x = 0.5 + 0.02 * torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for bound, refuted in ((float(sizes[0]) * (1 + 1e-6), False), (estimate, True)):
        model = network(bound).eval()
        with torch.no_grad():
            middle = float((model(x)[:, 0]).mean())
            model.head.bias[0] -= middle
            y = model(x).argmax(dim=1)
        result = audit(model, x, y, "L2", "lipschitz")
        assert not result.radii.isnan().any()
        assert bool(result.refutations) == refuted


class Bounded(nn.Module):
    def __init__(self, inner, bound):
        super().__init__()
        self.inner, self.bound = inner, bound

    def forward(self, x):
        return self.inner(x)

    def lipschitz_bound(self):
        return self.bound


@pytest.mark.parametrize("norm", ["L2", "Linf", "L1"])
@pytest.mark.parametrize("factor", [0.0, 1.0], ids=["constant", "falsely constant"])
def test_infinite_radii_are_attacked_in_the_whole_cube(norm, factor):
    model = halfspaces(factor=factor, claim=0.0)
    model.head.bias = nn.Parameter(torch.tensor([1e-3, 0.0]))
    x, y = points(DISTANCES[:1])
    result = audit(model, x, y, norm, "lipschitz", attacks=None, minimum_norm=no_attack)
    assert result.radii.tolist() == [math.inf]
    assert len(result.refutations) == factor


def test_shells_attack_each_example_just_inside_its_radius():
    certified = torch.tensor([0.1, 0.101, 0.5, math.nan, 1e-9, 0.0, 0.5], dtype=torch.float64)
    share = {}
    for eps, rows in radius_shells(certified, 0.01):
        for row in rows.tolist():
            share[row] = eps / float(certified[row])
    assert sorted(share) == [0, 1, 2, 6]
    assert all(0.98 / 1.1 < value <= 0.98 + 1e-12 for value in share.values())


def test_uncertified_examples_are_not_attacked():
    model = halfspaces(factor=1e9)
    x, y = points(DISTANCES)
    attacked = []

    def perturb(problem):
        attacked.append(len(problem.x))
        return problem.x.clone()

    attack = attack_of(perturb)
    result = audit(model, x, 1 - y, "L2", "lipschitz", attacks=attack, minimum_norm=attack)
    assert result.radii.isnan().all()
    assert (result.refutations, result.nearest, attacked) == ((), math.inf, [])
    audit(model, x, y, "L2", "lipschitz", attacks=attack, minimum_norm=attack)
    assert attacked


def test_an_example_refutes_every_certificate_around_it():
    examples = {row: AdversarialExample("apgd-ce", 0.5, torch.zeros(1)) for row in (0, 2)}
    shorter, longer = (
        torch.tensor([radius, 0.2, math.nan], dtype=torch.float64) for radius in (0.4, 0.6)
    )
    assert find_refutations(shorter, examples) == []
    assert find_refutations(longer, examples) == [Refutation(0, 0.6, examples[0])]


def test_certifiers_share_the_attacks_of_the_longest_radius():
    model = halfspaces()
    x, y = points(DISTANCES)
    false = grown("interval", model, "L2", 1.5)
    results = audit_certificates(
        model, x, y, "L2", ["lipschitz", false], attacks="apgd-ce", minimum_norm=no_attack
    )
    assert list(results) == ["lipschitz", "interval"]
    true, refuted = results.values()
    assert true.attack_cost == refuted.attack_cost
    assert true.refutations == ()
    assert len(refuted.refutations) == len(x)
    # Both are measured by the same examples, in radii of their own.
    assert refuted.nearest < 1 < true.nearest


def test_settings_of_certifiers_are_in_the_label():
    model = halfspaces()
    x, y = points(DISTANCES)
    names = ["complete:seconds_per_example=1", "lipschitz"]
    results = audit_certificates(
        model, x, y, "Linf", names, attacks="none", minimum_norm=no_attack, exhaustive_examples=3
    )
    assert list(results) == ["lipschitz-from-L2", "complete(seconds_per_example=1)"]
    lipschitz, complete = results.values()
    assert (lipschitz.n_examples, complete.n_examples) == (4, 3)
    assert complete.radii.isnan().tolist() == [False, False, False, True]


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_an_inapplicable_certifier_keeps_its_reason(norm):
    x, y = points(DISTANCES)
    # It supports L2 alone, and no network without activations.
    result = audit(halfspaces(), x, y, norm, "local_lipsdp", attacks="none")
    assert result.not_applicable.startswith(
        "certifier 'local_lipsdp' supports L2" if norm == "L1" else "semidefinite bounds are for"
    )
    assert result.radii.isnan().all()
    assert result.attack_cost is None
    applied = audit(halfspaces(), x, y, norm, "lipschitz", attacks="none")
    assert applied.not_applicable == ""
    assert applied.attack_cost is not None


def test_a_proof_that_fails_is_recorded_beside_the_others():
    model = halfspaces()
    x, y = points(DISTANCES)

    def prove(*_):
        raise CertificateError("no proof")

    failing = amended(prepare("interval", model, "L2"), prove).certifier
    results = audit_certificates(model, x, y, "L2", ["lipschitz", failing], attacks="apgd-ce")
    assert results["interval"].not_applicable == "no proof"
    assert results["interval"].attack_cost is None
    assert results["lipschitz"].nearest > 1


@pytest.mark.parametrize("certifiers", ["auto", "none", [], ["lipschitz", "auto"]])
def test_an_audit_needs_named_certifiers(certifiers):
    x, y = points(DISTANCES)
    with pytest.raises(InputError, match="names no certifier to audit"):
        audit_certificates(halfspaces(), x, y, "L2", certifiers)


def test_the_model_is_frozen_only_during_the_audit():
    model = halfspaces().train()
    x, y = points(DISTANCES)
    weight, during = model.head.weight, []

    def prove(honest, *query):
        during.append((model.training, weight.requires_grad))
        return honest.prove(*query)

    certifier = amended(prepare("lipschitz", model, "L2"), prove).certifier
    audit(model, x, y, "L2", certifier)
    assert during == [(False, False)]
    assert (model.training, weight.requires_grad) == (True, True)


def test_seed_and_batch_size_reach_the_attacks():
    model = halfspaces()
    x, y = points(DISTANCES)
    problems = []

    def perturb(problem):
        problems.append((problem.seed, len(problem.x)))
        return problem.x.clone()

    attack = attack_of(perturb)
    audit(model, x, y, "L2", "lipschitz", attacks="none", minimum_norm=attack, seed=7, batch_size=3)
    assert problems == [(7, 3), (7, 1)]


def test_bisection_finds_the_largest_eps_of_the_grid():
    model = halfspaces()
    x, y = points(DISTANCES)
    prepared = prepare("interval", model, "L2")
    with frozen_eval(model):
        together = certified_radii(model, prepared, x, y, "L2")
        alone = certified_radii(model, prepared, x, y, "L2", batch_size=1)
    assert torch.equal(together, alone)
    with torch.no_grad():
        logits = model(x)
    for row, radius in enumerate(together.tolist()):
        for eps, holds in ((radius, True), (radius * RISE, False)):
            proof = prepared.prove(x, logits, y, ThreatModel("L2", eps))
            assert bool(proof.class_radii[row].amin() >= eps) == holds


def test_default_attacks_exist_for_every_norm():
    assert set(DEFAULT_ATTACKS) == set(FACTORS)


def test_a_proof_of_less_than_the_ball_certifies_nothing():
    model = halfspaces()
    x, y = points(DISTANCES)

    def prove(honest, *query):
        return Proof(honest.prove(*query).class_radii * 0.9)

    prepared = amended(prepare("interval", model, "L2"), prove)
    assert certified_radii(model, prepared, x, y, "L2").isnan().all()


def test_the_example_in_the_docs_runs():
    page = (Path(__file__).parents[2] / "docs" / "certification.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^```python\n(.*?audit_certificates.*?)^```", page, re.DOTALL | re.M)
    names = {}
    exec(source, names)
    assert all(result.attack_cost for result in names["results"].values())
