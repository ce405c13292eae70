"""Hostile modules against every certifier and norm: refused, or certified truly."""

import math
import warnings

import pytest
import torch
from adversaries.collection import ADVERSARIES, SHAPE

from robustbench_dyn.certification import certifier_names, radii, resolve_certifiers
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.flows import frozen
from robustbench_dyn.forward import call_without_graph
from robustbench_dyn.threat_models import NORMS, ThreatModel, distance, project

EPS = (0.03, 0.1, 0.3)
BY_NAME = {adversary.name: adversary for adversary in ADVERSARIES}


def points(dtype):
    """Return inputs whose sum lies at several distances from 2, where the plain margin vanishes."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.2 * torch.rand(8, *SHAPE, generator=generator) - 0.1
    middle = torch.tensor([0.42, 0.45, 0.48, 0.52, 0.55, 0.6, 0.7, 0.88])
    return (noise - noise.mean(dim=(1, 2, 3), keepdim=True) + middle.view(-1, 1, 1, 1)).to(dtype)


def nearby(x, norm, radius):
    """Return points of one ball within [0, 1]: along the diagonals, to single pixels, at random."""
    generator = torch.Generator().manual_seed(1)
    signs = torch.tensor([1.0, -1.0])
    corners = torch.cartesian_prod(signs, signs, signs, signs)
    moves = torch.cat([corners, torch.eye(4), -torch.eye(4),
                       torch.randn(40, 4, generator=generator)])  # fmt: skip
    power = {"Linf": math.inf, "L2": 2, "L1": 1}[norm]
    moves = moves / moves.norm(p=power, dim=1, keepdim=True)
    scales = torch.tensor([1.0, 0.95, 0.8, 0.5, 0.2]) * radius
    moves = (scales[:, None, None] * moves).reshape(-1, *SHAPE).to(x)
    model = ThreatModel(norm, radius)
    candidates = project((x + moves).clamp(0, 1), x.expand_as(moves), model)
    inside = distance(candidates, x.expand_as(candidates), norm) <= radius
    return candidates[inside]


def predictions(model, x):
    """Return the model's answers in batches of four, as a user might ask for them."""
    return torch.cat([call_without_graph(model, part).argmax(dim=1) for part in x.split(4)])


def refuted(model, x, y, norm, radius):
    """Return a point of the ball with another answer than y, None where the search finds none."""
    near = nearby(x[None], norm, radius)
    wrong = predictions(model, near) != y
    return near[wrong][0] if wrong.any() else None


def certificates(model, x, y, name, norm):
    """Yield (example, radius) that one certifier certifies, at its own radii or at several eps."""
    (prepared,) = resolve_certifiers(name, model, SHAPE, norm)
    logits = call_without_graph(model, x)
    for eps in EPS[:1] if prepared.certifier.at_any_eps else EPS:
        found = radii(prepared.prove(x, logits, y, ThreatModel(norm, eps)))
        for k in (found > 0).nonzero().flatten().tolist():
            # No further than the box reaches; beyond that there is nothing to search.
            yield k, min(float(found[k]), 2.0)


@pytest.mark.parametrize("adversary", ADVERSARIES, ids=lambda adversary: adversary.name)
def test_no_certifier_believes_an_adversary(adversary):
    n_certified = 0
    for norm in NORMS:
        for name in certifier_names():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = adversary.build().eval()
            parameters = list(model.parameters())
            x = points(parameters[0].dtype if parameters else torch.float32)
            with frozen(model):
                y = predictions(model, x)
                try:
                    for k, radius in certificates(model, x, y, name, norm):
                        n_certified += 1
                        there = refuted(model, x[k], y[k], norm, radius)
                        assert there is None, (name, norm, radius, x[k].flatten(), there)
                except CertificateError as error:
                    assert len(str(error)) > 20
                except InputError as error:
                    assert "knows" in str(error)
    if adversary.family == "honest":
        assert n_certified > 100
