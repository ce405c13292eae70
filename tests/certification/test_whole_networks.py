"""Networks with max pooling, normalisation and attention: bounds of every value, and of margins."""

import pytest
import torch
from oracles.samples import uniform
from torch import nn
from torch.nn import functional as F

from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import interval_bounds, relaxation_state
from robustbench_dyn.certification.certifiers.interval import Interval
from robustbench_dyn.certification.certifiers.linear_relaxation import LinearRelaxation
from robustbench_dyn.certification.network.operations import choices
from robustbench_dyn.certification.proofs import portions
from robustbench_dyn.threat_models import ThreatModel, project


class Block(nn.Module):
    """The basic block of arXiv 1512.03385."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(after), nn.BatchNorm2d(after)])
        self.short = (
            nn.Conv2d(before, after, 1, stride, bias=False) if stride > 1 else nn.Identity()
        )

    def forward(self, x):
        z = F.relu(self.norms[0](self.first(x)), inplace=True)
        return F.relu(self.norms[1](self.second(z)) + self.short(x))


def residual():
    """A network like torchvision's ResNet, of two blocks."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        Block(4, 4, 1),
        Block(4, 6, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


class Transformer(nn.Module):
    """Patches, a token for the class, and one of torch's layers of a transformer."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 6, 6)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(
            8, 2, 12, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1)
        return self.head(self.layer(tokens)[:, 0])


def grouped():
    """Convolutions with circular padding, GroupNorm, SiLU and average pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, padding=1, padding_mode="circular"),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Conv2d(4, 4, 3, 2, padding=1, padding_mode="reflect", groups=2),
        nn.Hardswish(),
        nn.AvgPool2d(3),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


NETWORKS = {"residual": residual, "transformer": Transformer, "grouped": grouped}


@pytest.fixture(params=NETWORKS)
def network(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return built(NETWORKS[request.param])


def built(build):
    """Return a network in eval mode, with statistics of batches that are not those at the start."""
    model = build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(len(module.weight)))
            module.running_var.uniform_(0.5, 2)
    return model.eval().requires_grad_(False)


SHAPE = (1, 12, 12)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_every_value_lies_within_its_bounds(network, norm):
    threat_model = ThreatModel(norm, 0.02 if norm == "Linf" else 0.1)
    assert outside(relaxation_state(network, SHAPE), threat_model) == 0


def outside(state, threat_model):
    """Count the values at points of some balls that leave their bounds."""
    x = uniform(2, *SHAPE)
    bounds = interval_bounds(state, Ball(x, threat_model))
    assert bounds.lower[-1].isfinite().all()
    found = 0
    for seed in range(20):
        moved = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).sign()
        outputs = state.exact.outputs(project(moved, x, threat_model))
        for k, value in enumerate(outputs):
            found += int(((value < bounds.lower[k]) | (value > bounds.upper[k])).sum())
    return found


def test_bounds_of_a_maximum_that_are_too_narrow_are_caught(monkeypatch):
    state, threat_model = relaxation_state(built(residual), SHAPE), ThreatModel("Linf", 0.02)
    assert outside(state, threat_model) == 0
    monkeypatch.setattr(
        choices, "_larger_ends", lambda lower, upper: (torch.maximum(*lower), torch.minimum(*upper))
    )
    assert outside(relaxation_state(built(residual), SHAPE), threat_model) > 0


@pytest.mark.parametrize("certifier", [Interval(), LinearRelaxation()], ids=lambda c: c.name)
def test_certificates_are_not_refuted_and_tell_margins(network, certifier):
    x = uniform(3, *SHAPE, seed=1).float()
    logits = 8 * network(x)

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x):
            return 8 * self.inner(x)

    model, y = Scaled().eval(), logits.argmax(dim=1)
    prepared, proved = certifier.prepared(model, SHAPE), 0
    for eps in (1e-5, 1e-3):
        proof = prepared.prove(x, logits, y, ThreatModel("Linf", eps))
        radii = proof.class_radii.amin(dim=1)
        certified = radii > 0
        proved += int(certified.sum())
        assert not proof.margins.isnan().any()
        points = x[None] + eps * torch.randn(200, *x.shape).sign()
        margins = torch.stack([lead(model(z.clamp(0, 1)), y) for z in points]).amin(dim=0)
        assert (margins[certified] > 0).all()
        assert (proof.margins <= margins + 1e-3).all()
    assert proved > 0


def lead(logits, y):
    """Return by how much each label's logit is ahead of the others."""
    own = logits.gather(1, y[:, None])
    return (own - logits.scatter(1, y[:, None], -torch.inf)).amin(dim=1).double()


def test_a_batch_in_portions_has_the_same_proof(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.ReLU(), nn.Linear(20, 3))
    x = uniform(7, *SHAPE).float()
    logits = model(x).detach()
    y, threat_model = logits.argmax(dim=1), ThreatModel("L2", 0.02)
    for certifier in (Interval(), LinearRelaxation()):
        prepared = certifier.prepared(model, SHAPE)
        whole = prepared.prove(x, logits, y, threat_model)
        numbers = sum(k * len(x) for k in (144, 144, 20, 20, 3))
        monkeypatch.setattr(portions, "_NUMBERS", numbers // 3)
        assert portions.portion_size(prepared.state.exact) == 2
        parts = prepared.prove(x, logits, y, threat_model)
        assert torch.equal(whole.class_radii, parts.class_radii)
        assert torch.equal(whole.within_rounding, parts.within_rounding)
        torch.testing.assert_close(whole.margins, parts.margins, rtol=1e-5, atol=1e-6)
        assert len({float(margin) for margin in whole.margins}) == 7
        monkeypatch.undo()
