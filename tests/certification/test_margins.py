"""Lower bounds of margins, which tell how far a certifier is from a proof."""

import math
from functools import cache

import pytest
import torch
from oracles.enumeration import least_difference, tiny_network
from oracles.samples import uniform

from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.evaluation.stages import _told
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.threat_models import ThreatModel

CERTIFIERS = ["interval", "linear_relaxation", "lipschitz_in_box"]


def network():
    """Return a tiny network, points, and its predictions there."""
    model, x = tiny_network(1), uniform(6, 1, 1, 3)
    with torch.no_grad():
        return model, x, model(x).argmax(dim=1)


@cache
def exact_margins(eps):
    model, x, y = network()
    return [
        min(
            least_difference(model, point, label, other, "Linf", eps)
            for other in range(3)
            if other != label
        )
        for point, label in zip(x.flatten(1).numpy(), y.tolist(), strict=True)
    ]


def prove(name, eps, *, seconds=""):
    """Return the proof of a tiny network's predictions, and the exact least margins."""
    model, x, y = network()
    with frozen_eval(model), torch.no_grad():
        logits = model(x)
        (prepared,) = resolve_certifiers(name + seconds, model, (1, 1, 3), "Linf")
        proof = prepared.prove(x, logits, y, ThreatModel("Linf", eps))
    return proof, torch.tensor(exact_margins(eps))


@pytest.mark.parametrize("eps", [0.01, 0.3])
@pytest.mark.parametrize("name", CERTIFIERS)
def test_margins_are_lower_bounds_and_positive_where_proved(name, eps):
    proof, exact = prove(name, eps)
    # Rounding of float64, and no more, may lie between.
    assert (proof.margins <= exact + 1e-9).all()
    proved = radii(proof) >= eps
    assert torch.equal(proof.margins > 0, proved)


def test_some_of_the_examples_are_proved_and_some_are_not():
    proved = [bool(p) for eps in (0.01, 0.3) for p in radii(prove("interval", eps)[0]) >= eps]
    assert len(set(proved)) == 2
    # Negative control: the bounds say by how much, which no constant does.
    assert len(set(prove("interval", 0.3)[0].margins.tolist())) > 1


def test_a_search_that_has_no_time_tells_what_the_relaxation_bounds():
    proof, exact = prove("complete", 0.3, seconds=":seconds_per_example=0")
    left = ~(radii(proof) >= 0.3)
    assert left.any()
    assert (proof.margins[left] <= exact[left] + 1e-9).all()


@pytest.mark.parametrize("margin", [-12320.04, -0.75512345, 3.14159, 0.0])
def test_a_margin_is_told_in_four_digits_and_not_rounded_up(margin):
    assert margin - 2e-3 * abs(margin) <= _told(margin) <= margin


@pytest.mark.parametrize("margin", [math.inf, -math.inf, math.nan])
def test_what_is_no_number_is_not_told(margin):
    assert _told(margin) is None
