"""Nearest prototypes: their logits, their flow and its basins, k-means, radii of the training."""

import math

import pytest
import torch

from robustbench_dyn.flows import MaxAffine, Prototypes, lipschitz_bound


@pytest.fixture
def head():
    torch.manual_seed(0)
    return Prototypes(5, 3, prototypes=4).double().requires_grad_(False)


@pytest.fixture
def x():
    return torch.rand(200, 5, generator=torch.Generator().manual_seed(1)).double()


def nearest(head, x):
    """Return the class of the nearest prototype, and the squared distances to all."""
    squares = torch.cdist(x, head.prototypes.flatten(0, 1)).square()
    return squares.argmin(dim=1) // head.prototypes.shape[1], squares


def test_the_largest_logit_is_that_of_the_nearest_prototype(head, x):
    named, squares = nearest(head, x)
    assert torch.equal(head(x).argmax(dim=1), named)
    by_class = squares.view(len(x), 3, 4).amin(dim=2)
    assert torch.allclose(head(x), x.square().sum(dim=1, keepdim=True) - by_class)


def test_a_step_follows_the_gradient_of_the_energy(head, x):
    sharpness = float(head.value()[0])
    start = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(head.energy(start).sum(), start)
    first = next(head.trajectory(x))
    assert torch.allclose(first, x - 0.125 / (2 * sharpness) * gradient)


def test_the_energy_is_a_soft_minimum_of_squared_distances(head, x):
    sharpness, (_, squares) = float(head.value()[0]), nearest(head, x)
    soft, least = head.energy(x) / sharpness, squares.amin(dim=1)
    assert (soft <= least + 1e-12).all()
    assert (soft >= least - math.log(12) / sharpness - 1e-12).all()


def last_states(head, start):
    *_, last = head.trajectory(start)
    return last


def test_the_flow_ends_at_the_prototype_of_the_class_named(head, x):
    start = head.into_basin(x)
    named, squares = nearest(head, start)
    lead = squares.sort(dim=1).values
    assert (lead[:, 1] - lead[:, 0] >= head.value()[1] * (1 - 1e-9)).all()
    last = last_states(head, start)
    assert torch.equal(head(last).argmax(dim=1), named)
    # A step goes an eighth of the way to a mean within delta / 4 of the prototype.
    delta = (2 * head.value()[1]).sqrt()
    distance = nearest(head, last)[1].amin(dim=1).sqrt()
    assert (distance <= delta / 4 + 0.875**32 * squares.amin(dim=1).sqrt() + 1e-9).all()
    assert (start == x).all(dim=1).double().mean() > 0.05


def test_without_sharpness_the_flow_ends_elsewhere(head, x, monkeypatch):
    start = head.into_basin(x)
    blunt = head.value() * torch.tensor([1e-2, 1.0]).double()
    monkeypatch.setattr(head, "value", lambda: blunt)
    named, _ = nearest(head, start)
    assert (head(last_states(head, start)).argmax(dim=1) != named).any()


def test_k_means_finds_separate_clusters():
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(2, 3, 5, generator=generator)
    noise = 1e-3 * torch.randn(2, 3, 40, 5, generator=generator)
    z = (centres[:, :, None] + noise).view(-1, 5)
    y = torch.arange(2).repeat_interleave(120)
    head = Prototypes(5, 2, prototypes=8)
    head.start_from(z, y, generator)
    found = torch.cdist(centres, head.prototypes.detach()).amin(dim=2)
    assert (found < 2e-3).all()
    # Of the other class, none is near.
    assert (torch.cdist(centres, head.prototypes.detach().flip(0)).amin(dim=2) > 0.1).all()


def test_a_class_of_few_examples_still_has_distinct_prototypes():
    head = Prototypes(5, 2, prototypes=6)
    z, y = torch.rand(4, 5), torch.tensor([0, 0, 1, 1])
    head.start_from(z, y, torch.Generator().manual_seed(0))
    assert head.value().isfinite().all()


@pytest.mark.parametrize("kind", ["prototypes", "pieces"])
def test_radii_of_training_are_distances_to_bisectors(kind, head, x):
    y = head(x).argmax(dim=1)
    if kind == "pieces":
        pieces, head = head.affine_pieces(), MaxAffine(5, 3, pieces=4).double()
        head.weight.data, head.bias.data = pieces.weight.clone(), pieces.bias.clone()
        head.requires_grad_(False)
    found = head.competing_radii(x, y)
    weight, bias = head.affine_pieces()
    for k, label in enumerate(y.tolist()):
        values = (weight @ x[k]) + bias
        own = int(values[label].argmax())
        quotients = (values[label, own] - values) / (weight[label, own] - weight).norm(dim=2)
        others = [c for c in range(3) if c != label]
        assert torch.allclose(found[k], quotients[others].amin(dim=1))


def test_radii_are_differentiable_and_negative_for_a_wrong_class(head, x):
    head.requires_grad_(True)
    wrong = (head(x).argmax(dim=1) + 1) % 3
    radii = head.competing_radii(x, wrong)
    assert (radii.amin(dim=1) < 0).all()
    radii.sum().backward()
    assert head.prototypes.grad.isfinite().all()
    assert head.prototypes.grad.abs().sum() > 0


def test_the_lipschitz_bound_holds_between_points(head, x):
    slopes = (head(x[:100]) - head(x[100:])).norm(dim=1) / (x[:100] - x[100:]).norm(dim=1)
    assert (slopes <= lipschitz_bound(head)).all()
    assert (slopes > 0.1 * lipschitz_bound(head)).any()
