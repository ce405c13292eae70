"""A search for points that refute the certificates of a hostile module."""

import math
import warnings

import torch

from oracles.adversaries import SHAPE
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.models.forward import call_without_graph
from robustbench_dyn.threat_models import ThreatModel, distance, project, widest_eps

EPS = (0.03, 0.1, 0.3)


def points(dtype):
    """Return inputs whose sum lies at several distances from 2, where the plain margin vanishes."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.2 * torch.rand(8, *SHAPE, generator=generator) - 0.1
    middle = torch.tensor([0.42, 0.45, 0.48, 0.5313, 0.55, 0.6, 0.7, 0.88])
    return (noise - noise.mean(dim=(1, 2, 3), keepdim=True) + middle.view(-1, 1, 1, 1)).to(dtype)


def nearby(x, norm, radius):
    """Return points of one ball within [0, 1]: along the diagonals, to single pixels, at random."""
    generator = torch.Generator().manual_seed(1)
    signs = torch.tensor([1.0, -1.0])
    corners = torch.cartesian_prod(signs, signs, signs, signs)
    moves = torch.cat(
        [corners, torch.eye(4), -torch.eye(4), torch.randn(40, 4, generator=generator)]
    )
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
    # What is open after a second for all examples of one ball hardly becomes a certificate.
    limited = "complete:seconds=1" if name == "complete" else name
    (prepared,) = resolve_certifiers(limited, model, SHAPE, norm)
    logits = call_without_graph(model, x)
    for eps in EPS[:1] if prepared.certifier.radius_based else EPS:
        found = radii(prepared.prove(x, logits, y, ThreatModel(norm, eps)))
        for k in (found > 0).nonzero().flatten().tolist():
            # No further than the box reaches; beyond that there is nothing to search.
            yield k, min(float(found[k]), widest_eps(norm, SHAPE) * 0.999)


def built(adversary):
    """Return the module in eval mode, and inputs of its dtype."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = adversary.build().eval()
    parameters = list(model.parameters())
    return model, points(parameters[0].dtype if parameters else torch.float32)
