"""Certified <= exact <= attacked: every certifier, on networks that can be enumerated."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.certifiers import amended
from oracles.enumeration import least_distance, tiny_network

from robustbench_dyn import ThreatModel
from robustbench_dyn.attacks.catalogue import resolve_attacks
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.catalogue import certifier_names, resolve_certifiers
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.evaluation.candidates import check_candidates
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.threat_models import NORMS, widest_eps

SHAPE, CLASSES = (1, 1, 3), 3
# Programs end within this of the exact distance.
SOLVER = 1e-6
# All certifiers but those of affine pieces, which test_max_affine.py compares with exact distances;
# inputs are few, so that `complete` by itself would only split these.
OF_PIECES = {"max_affine", "max_affine_exact"}
NAMES = [*(name for name in certifier_names() if name not in OF_PIECES), "complete:split=neurons"]


def problem(seed, *, widths=(3, 2), gain=1.0):
    model = tiny_network(seed, widths=widths, n_classes=CLASSES, gain=gain).requires_grad_(False)
    x = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed)).double()
    # Some coordinates at the border of the box, as pixels are.
    x = (1.6 * x - 0.3).clamp(0, 1)
    return model, x, model(x).argmax(dim=1)


def exact_distance(model, x, y, norm):
    """Return how far x, (1, *SHAPE), is from the nearest point of [0, 1] of another class."""
    others = (j for j in range(CLASSES) if j != int(y))
    return min(least_distance(model, x.flatten(), int(y), j, norm) for j in others)


def attacked_distance(model, x, y, norm):
    """Return the distance that a minimum-norm attack reaches; inf where it finds nothing."""
    (attack,) = resolve_attacks("fab-min", norm, CLASSES)
    threat_model = ThreatModel(norm, widest_eps(norm, SHAPE))
    found = attack.search(model, x, y, threat_model, seed=0, batch_size=8, n_classes=CLASSES)
    checked = check_candidates(model, found, x, y, threat_model)
    return float(checked.distance[0]) if bool(checked.fooled[0]) else math.inf


def certified_radius(prepared, model, x, y, threat_model):
    """Return the radius that a certifier proves at one eps; 0 where there is none."""
    radius = float(radii(prepared.prove(x, model(x), y, threat_model))[0])
    return 0.0 if math.isnan(radius) else radius


def ready(name, model, norm):
    """Return the certifier, prepared; None where it does not treat such networks in the norm."""
    try:
        return resolve_certifiers(name, model, SHAPE, norm)[0]
    except (CertificateError, InputError):
        return None


def overshoots(model, x, y, norm, exact, shares, change=lambda prepared: prepared):
    """Yield (certifier, radius - exact) where eps is each of the shares of the exact distance."""
    for name in NAMES:
        prepared = ready(name, model, norm)
        for share in shares if prepared else ():
            # Where nothing fools the network, exact is infinite.
            eps = min(share * exact, widest_eps(norm, SHAPE))
            threat_model = ThreatModel(norm, eps)
            yield name, certified_radius(change(prepared), model, x, y, threat_model) - exact


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0.5, 0.98),
    st.floats(1.02, 1.5),
    st.floats(0.4, 1.5),
    st.sampled_from([(2,), (4,), (3, 2)]),
)
def test_certified_exact_attacked(norm, seed, inside, outside, gain, widths):
    model, x, y = problem(seed, widths=widths, gain=gain)
    exact = exact_distance(model, x, y, norm)
    with frozen_eval(model):
        assert exact <= attacked_distance(model, x, y, norm) + SOLVER
        shares = (inside, outside)
        for name, overshoot in overshoots(model, x, y, norm, exact, shares):
            assert overshoot <= SOLVER, name


def test_every_certifier_is_tested():
    model, _, _ = problem(0)
    assert {name for name in NAMES for norm in NORMS if ready(name, model, norm)} == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_certificates_a_tenth_too_long_are_caught(norm):
    def prove_longer(honest, x, logits, y, threat_model):
        proof = honest.prove(x, logits, y, ThreatModel(norm, threat_model.eps / 1.1))
        return proof._replace(class_radii=proof.class_radii * 1.1)

    def lengthened(prepared):
        return amended(prepared, prove_longer)

    caught = set()
    for seed in range(8):
        model, x, y = problem(seed, widths=(3,))
        exact = exact_distance(model, x, y, norm)
        if math.isinf(exact):
            continue
        with frozen_eval(model):
            honest = dict(overshoots(model, x, y, norm, exact, (1.05,)))
            longer = dict(overshoots(model, x, y, norm, exact, (1.05,), lengthened))
        assert max(honest.values()) <= SOLVER
        caught |= {name for name, overshoot in longer.items() if overshoot > SOLVER}
    # Those whose radii are within a tenth of the exact distance on such networks.
    assert {"linear_relaxation", "complete", "complete:split=neurons"} <= caught
