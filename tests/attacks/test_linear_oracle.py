"""Attacks against linear classifiers, whose distances are known: not nearer, and soon beyond."""

import numpy as np
import pytest
import torch
from oracles.attacks import attack_of
from torch import nn

from robustbench_dyn.attacks import ATTACKS, Attack, resolve_attacks
from robustbench_dyn.errors import InputError
from robustbench_dyn.threat_models import NORMS, ThreatModel, distance, project

DUAL = {"Linf": 1, "L2": 2, "L1": torch.inf}
PAIRS = [
    (name, norm)
    for name in ATTACKS
    for norm in NORMS
    if norm in ATTACKS.get(name).norms and not ATTACKS.get(name).needs_surrogates
]
# One step in one direction, or a random search in a ball whose volume is mostly on its axes.
SCALES = {"fgsm": 2.0, "square": 3.0, "aa-square": 3.0, "square-long": 3.0}
SQUARES = [("square", "Linf"), ("square", "L2"), ("aa-square", "L1")]


class Linear(nn.Module):
    """Logits W x + b, in x's dtype, with distances small enough that [0, 1] does not matter."""

    def __init__(self, n_classes, shape=(1, 4, 4), offset=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(n_classes)
        d = int(np.prod(shape))
        self.weight = nn.Parameter(torch.randn(n_classes, d, generator=generator).double())
        # Class 1 alone is near: cross-entropy follows a mixture of the other classes.
        lead = torch.tensor([1.0, 0.0] + [-8.0] * (n_classes - 2))
        self.bias = nn.Parameter(offset + lead - self.weight.detach().sum(dim=1) / 2)

    def forward(self, x):
        return x.flatten(1) @ self.weight.to(x.dtype).T + self.bias.to(x.dtype)


def examples(model, n=2, shape=(1, 4, 4)):
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.06 * (torch.rand(n, *shape, generator=generator).double() - 0.5)
    with torch.no_grad():
        return x, model(x).argmax(dim=1)


def exact_distance(model, x, y, norm):
    """Return the distance to the nearest decision boundary, |margin| / dual norm of the weight."""
    with torch.no_grad():
        logits, rows = model(x), torch.arange(len(x))
        margins = logits[rows, y].unsqueeze(1) - logits
        weights = model.weight[y].unsqueeze(1) - model.weight
        distances = margins / weights.norm(p=DUAL[norm], dim=2)
        distances[rows, y] = torch.inf
        return distances.amin(dim=1)


def rejection(attack, norm, n_classes, *, scale=None, shape=(1, 4, 4), offset=0.0):
    """Say what is wrong with an attack on a linear classifier; "" if nothing."""
    if not isinstance(attack, Attack):
        scale = scale or SCALES.get(attack)
        (attack,) = resolve_attacks(attack, norm, n_classes)
    scale = scale or 1.3
    model = Linear(n_classes, shape, offset)
    x, y = examples(model, shape=shape)
    exact = exact_distance(model, x, y, norm)
    for i in range(len(x)):
        eps = scale * float(exact[i])
        threat_model = ThreatModel(norm, eps)
        candidates = attack.search(
            model,
            x[i : i + 1],
            y[i : i + 1],
            threat_model,
            seed=0,
            batch_size=8,
            n_classes=n_classes,
        )
        x_adv = project(candidates, x[i : i + 1], threat_model)
        with torch.no_grad():
            raw_fools = bool(model(candidates).argmax(dim=1) != y[i])
            fools = bool(model(x_adv).argmax(dim=1) != y[i])
        # Float64 rounds the margin of a point beyond the boundary by a few 1e-16 of its terms.
        closest = float(exact[i]) * (1 - 1e-9)
        if raw_fools and float(distance(candidates, x[i : i + 1], norm)) < closest:
            return f"example {i} is fooled nearer than its exact distance"
        if not fools:
            return f"example {i} is not fooled at {scale} times its exact distance"
    return ""


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_attacks_fool_soon_after_the_exact_distance(name, norm):
    assert rejection(name, norm, 4) == ""


@pytest.mark.parametrize("norm", NORMS)
def test_an_attack_that_does_nothing_is_rejected(norm):
    assert "not fooled" in rejection(attack_of(lambda problem: problem.x), norm, 3)


def test_a_fooling_point_nearer_than_the_exact_distance_is_rejected():
    def cheat(problem):
        model = problem.model.model.model
        model.weight.data, model.bias.data = model.weight.data.roll(1, 0), model.bias.data.roll(1)
        return problem.x + 1e-6

    assert "nearer" in rejection(attack_of(cheat), "L2", 3)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd_breaks_everything_just_outside_the_exact_distance(norm):
    assert rejection("pgd", norm, 10, scale=1.1) == ""


@pytest.mark.parametrize(("name", "norm"), [("pgd", "L2"), ("apgd-t", "Linf"), *SQUARES])
@pytest.mark.parametrize("shape", [(16,), (4, 4), (3, 4, 6)])
def test_inputs_of_any_shape_can_be_attacked(name, norm, shape):
    scale = 4.0 if "square" in name else 1.5
    assert rejection(name, norm, 4, scale=scale, shape=shape) == ""


def test_minimum_norm_attacks_come_near_the_optimum():
    model = Linear(3)
    x, y = examples(model, n=4)
    exact = exact_distance(model, x, y, "L2")
    # DeepFool overshoots by 2 %; CW stops at 100 steps of one of four constants.
    for name, slack in (("deepfool", 1.03), ("cw", 1.3)):
        x_adv = ATTACKS.create(name).search(
            model, x, y, ThreatModel("L2", 0.01), seed=0, batch_size=8, n_classes=3
        )
        assert (model(x_adv).argmax(dim=1) != y).all()
        assert (distance(x_adv, x, "L2") <= slack * exact).all()


def test_cw_is_not_blinded_by_negative_logits_or_by_pixels_at_the_ends():
    # torchattacks alone takes max(0 * logit, ...), and its arctanh is infinite at 0 and 1.
    assert rejection("cw", "L2", 3, offset=-100.0) == ""
    model = Linear(2)
    model.bias.data.zero_()
    model.weight.data = torch.stack([-torch.ones(16), torch.ones(16)]).double()
    model.bias.data[0] = 0.3
    x, y = torch.zeros(1, 1, 4, 4).double(), torch.tensor([0])
    x_adv = ATTACKS.create("cw").search(
        model, x, y, ThreatModel("L2", 1.0), seed=0, batch_size=8, n_classes=2
    )
    assert model(x_adv).argmax(dim=1) == 1


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("suite", ["standard", "autoattack", "plus"])
def test_suites_fool_classifiers_of_few_classes(suite, n_classes):
    model = Linear(n_classes)
    x, y = examples(model)
    for attack in resolve_attacks(suite, "Linf", n_classes):
        x_adv = attack.search(
            model, x, y, ThreatModel("Linf", 0.5), seed=0, batch_size=8, n_classes=n_classes
        )
        assert (model(x_adv).argmax(dim=1) != y).all(), attack.name


@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS.get(name).min_classes > 2])
def test_losses_that_need_more_classes_are_refused(name):
    fewest = ATTACKS.get(name).min_classes
    norm = next(iter(ATTACKS.get(name).norms))
    with pytest.raises(InputError, match=f"needs {fewest} classes"):
        resolve_attacks(name, norm, fewest - 1)
