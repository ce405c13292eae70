"""The Lipschitz certificate from the middle of a box, where linear classifiers tell the truth."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustbench_dyn import ThreatModel, evaluate
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.certification.proofs import lipschitz_in_box
from robustbench_dyn.errors import InputError
from robustbench_dyn.models.freezing import frozen_eval

D = 9


def linear(weights, biases):
    """A classifier with logits W x + b."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, len(weights))).double().eval()
    model[1].weight.data.copy_(torch.as_tensor(weights, dtype=torch.float64))
    model[1].bias.data.copy_(torch.as_tensor(biases, dtype=torch.float64))
    return model


def excluded(model, x, y, eps):
    """Say which classes the certifier rules out, (n, classes)."""
    with frozen_eval(model), torch.no_grad():
        (prepared,) = resolve_certifiers("lipschitz_in_box", model, x.shape[1:], "Linf")
        proof = prepared.prove(x, model(x), y, ThreatModel("Linf", eps))
    assert proof.forward_passes == len(x)
    assert set(proof.class_radii.flatten().tolist()) <= {0.0, eps, math.inf}
    return proof.class_radii >= eps


def least_margins(model, x, y, eps):
    """Return the least F_y - F_j over each box, exactly, (n, classes)."""
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    rows = weight[y][:, None] - weight
    low, high = (x.flatten(1) - eps).clamp_min(0), (x.flatten(1) + eps).clamp_max(1)
    ends = torch.where(rows > 0, low[:, None], high[:, None])
    return (rows * ends).sum(dim=2) + bias[y][:, None] - bias


def problem(seed, n_classes):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(n_classes, D, generator=generator)
    biases = torch.randn(n_classes, generator=generator)
    # About half of the pixels are 0 or 1, as in pictures.
    x = (2 * torch.rand(6, 1, 3, 3, generator=generator) - 0.5).clamp(0, 1).double()
    model = linear(weights, biases)
    return model, x, model(x).argmax(dim=1)


def is_unsound(model, x, y, eps):
    least = least_margins(model, x, y, eps)
    competitors = torch.arange(least.shape[1]) != y[:, None]
    return bool((excluded(model, x, y, eps) & competitors & (least <= 0)).any())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.sampled_from((0.01, 0.05, 0.2)))
def test_no_class_of_a_point_in_the_box_is_excluded(seed, n_classes, eps):
    assert not is_unsound(*problem(seed, n_classes), eps)


class Halved(Ball):
    """A ball whose box has half its width."""

    def __init__(self, x, threat_model):
        super().__init__(x, threat_model)
        middle, half = (self.lower + self.upper) / 2, (self.upper - self.lower) / 4
        self.lower, self.upper = middle - half, middle + half


def test_a_box_that_is_too_small_is_caught(monkeypatch):
    monkeypatch.setattr(lipschitz_in_box, "Ball", Halved)
    assert any(is_unsound(*problem(seed, 3), 0.2) for seed in range(20))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_at_a_corner_the_bound_is_exact_along_the_diagonal(sign):
    # F_0 - F_1 = bias + sign * (x_1 + ... + x_d) / sqrt(d), at x = 0.
    model = linear([[sign / math.sqrt(D)] * D, [0.0] * D], [0.0, 0.0])
    x, y, eps = torch.zeros(1, 1, 3, 3).double(), torch.tensor([0]), 0.1
    needed = 0.0 if sign > 0 else eps * math.sqrt(D)
    for slack, holds in ((1e-9, True), (-1e-9, False)):
        model[1].bias.data[0] = needed + slack
        assert bool(excluded(model, x, y, eps)[0, 1]) == holds


def test_it_certifies_more_than_the_bound_around_the_example():
    model, x, y = problem(0, 4)
    threat_model = ThreatModel("Linf", 0.2)
    plain = evaluate(model, (x, y), threat_model, attacks="none", certifiers="lipschitz")
    names = "lipschitz,lipschitz_in_box"
    both = evaluate(model, (x, y), threat_model, attacks="none", certifiers=names)
    assert both.summary["certifiers"] == "lipschitz-from-L2+lipschitz_in_box"
    assert plain.summary["certified_accuracy"] < both.summary["certified_accuracy"]
    row = both.costs[-1]
    assert (row.stage, row.forward_passes) == ("lipschitz_in_box", 2 * row.examples)


def test_logits_that_are_not_finite_exclude_nothing():
    model, x, y = problem(0, 3)
    model[1].bias.data[1] = math.nan
    competitors = torch.arange(3) != y[:, None]
    assert not (excluded(model, x, y, 0.1) & competitors).any()


def test_other_norms_are_refused():
    model, _, _ = problem(0, 3)
    with pytest.raises(InputError, match="'lipschitz_in_box' supports Linf, not L2"):
        resolve_certifiers("lipschitz_in_box", model, (1, 3, 3), "L2")
