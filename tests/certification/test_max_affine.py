"""Certificates of affine pieces: below exact distances, exact in a ball, sound in float32."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_dyn import ThreatModel, evaluate
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.catalogue import resolve_certifiers, select_certifiers
from robustbench_dyn.certification.contract import exact_distance
from robustbench_dyn.certification.proofs import affine_pieces, max_affine_exact
from robustbench_dyn.certification.proofs.affine_pieces import PiecesState
from robustbench_dyn.certification.rounding.allowance import LayerRounding, farthest
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.flows import (
    Classifier,
    DenseGradientStep,
    MaxAffine,
    Prototypes,
    UnitRowLinear,
)
from robustbench_dyn.threat_models import NORMS, distance

SHAPE = (1, 1, 3)


def pieces_model(seed, *, n_classes=3, pieces=3, scale=3.0):
    """Return random affine pieces of three inputs that are all near the middle of the box."""
    generator = torch.Generator().manual_seed(seed)
    head = MaxAffine(3, n_classes, pieces=pieces)
    weight = torch.randn(n_classes, pieces, 3, generator=generator)
    offsets = 0.2 * torch.randn(n_classes, pieces, generator=generator)
    head.weight.data = scale * weight
    head.bias.data = scale * (offsets - weight.sum(dim=2) / 2)
    return Classifier(nn.Flatten(), head).eval().requires_grad_(False)


def inputs(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, *SHAPE, generator=generator)


def exact(model, x, y, norm):
    """Return the distance from each x to where class j reaches the label, (batch, classes)."""
    weight = model.head.affine_pieces().weight.double().numpy()
    bias = model.head.affine_pieces().bias.double().numpy()
    one = np.eye(3)
    found = np.full((len(x), len(weight)), np.inf)
    for k, (point, label) in enumerate(zip(x.flatten(1).double().numpy(), y.tolist(), strict=True)):
        for j, competing in itertools.product(range(len(weight)), range(weight.shape[1])):
            if j == label:
                continue
            rows = np.vstack([weight[label] - weight[j, competing], one, -one])
            sides = np.r_[bias[j, competing] - bias[label], np.ones(3), np.zeros(3)]
            if norm == "L2":
                near = exact_distance._distance_to_polytope(point, rows, sides)
            else:
                near = exact_distance._linear_distance_to_polytope(point, rows, sides, norm)
            found[k, j] = min(found[k, j], near)
    return torch.tensor(found)


def proof(model, x, name, norm, eps):
    y = model(x).argmax(dim=1)
    (prepared,) = resolve_certifiers(name, model, x.shape[1:], norm)
    return prepared.prove(x, model(x), y, ThreatModel(norm, eps)), y


def too_long(norm):
    """Return how many pairwise radii exceed the exact distances, and their sum."""
    excess, total = 0, 0.0
    for seed in range(4):
        model, x = pieces_model(seed), inputs(8, seed)
        found, y = proof(model, x, "max_affine", norm, 0.1)
        others = torch.ones_like(found.class_radii).scatter(1, y[:, None], 0.0).bool()
        excess += int((found.class_radii > exact(model, x, y, norm))[others].sum())
        total += float(found.class_radii[others].clamp_max(1).sum())
    return excess, total


@pytest.mark.parametrize("norm", NORMS)
def test_pairwise_radii_stay_below_exact_distances(norm, monkeypatch):
    excess, total = too_long(norm)
    assert excess == 0
    assert total > 2
    distances = PiecesState.distances
    monkeypatch.setattr(PiecesState, "distances", lambda *args: 0.6 * distances(*args))
    assert too_long(norm)[0] > 0


@pytest.mark.parametrize("norm", NORMS)
def test_one_piece_a_class_has_the_margin_over_the_dual_norm(norm):
    model, x = pieces_model(0, pieces=1), inputs(20)
    found, y = proof(model, x, "max_affine", norm, 0.1)
    weight = model.head.weight[:, 0].double()
    logits = model(x).double()
    dual = {"L2": 2, "Linf": 1, "L1": math.inf}[norm]
    norms = (weight[y][:, None] - weight).norm(p=dual, dim=2)
    expected = (logits.gather(1, y[:, None]) - logits) / norms
    others = torch.ones_like(expected).scatter(1, y[:, None], 0.0).bool()
    assert torch.allclose(found.class_radii[others], expected[others], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("factor", [0.995, 1.005])
def test_the_exact_certificate_decides_each_ball(norm, factor):
    decided = 0
    for seed in range(3):
        model, x = pieces_model(seed), inputs(6, seed)
        y = model(x).argmax(dim=1)
        for k, nearest in enumerate(exact(model, x, y, norm).amin(dim=1).tolist()):
            # Beyond a ball as wide as the box there is nothing to decide.
            if not 0.02 < nearest < 0.5:
                continue
            eps = factor * nearest
            found, _ = proof(model, x[k : k + 1], "max_affine_exact", norm, eps)
            proved = float(radii(found)) >= eps
            assert proved == (factor < 1)
            if not proved:
                assert float(distance(found.candidates, x[k : k + 1], norm)) <= eps * (1 + 1e-5)
                assert int(model(found.candidates).argmax()) != int(y[k])
            decided += 1
    assert decided > 4


def test_shares_that_prove_nothing_are_not_believed(monkeypatch):
    def boast(cells, shares, ball, n_steps):
        return max_affine_exact.Found(shares, 1.0, ball.centre[0])

    model, x = pieces_model(1), inputs(20)
    y = model(x).argmax(dim=1)
    eps = float(exact(model, x, y, "L2").amin(dim=1).max())
    monkeypatch.setattr(max_affine_exact, "ascend", boast)
    assert not (radii(proof(model, x, "max_affine_exact", "L2", eps)[0]) >= eps).any()
    monkeypatch.setattr(
        max_affine_exact.Cells, "proved", lambda *_: torch.ones(1, dtype=torch.bool)
    )
    monkeypatch.setattr(max_affine_exact, "_left", lambda cells, shares, _ball: (cells, shares))
    assert (radii(proof(model, x, "max_affine_exact", "L2", eps)[0]) >= eps).any()


def swamped(bias):
    """Return logits of s - 2 and 2 - s for the sum s of three inputs, with a bias on both."""
    head = MaxAffine(3, 2, pieces=2)
    head.weight.data = torch.tensor([[[1.0] * 3] * 2, [[-1.0] * 3] * 2])
    head.bias.data = torch.tensor([[-1.5] * 2, [1.5] * 2]) + bias
    return Classifier(nn.Flatten(), head).eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["max_affine", "max_affine_exact"])
def test_rounding_of_pieces_is_subtracted(name, monkeypatch):
    def refuted():
        """Return how many certificates a search along the diagonal refutes."""
        model, x, eps = swamped(2.0**22), torch.linspace(0.44, 0.56, 7), 0.05
        x = x.view(-1, 1, 1, 1).expand(-1, *SHAPE).contiguous()
        y = model(x).argmax(dim=1)
        found, _ = proof(model, x, name, "L2", eps)
        held = radii(found) >= eps
        wrong = torch.zeros_like(held)
        for step in torch.linspace(-eps, eps, 81) / math.sqrt(3) * 0.999:
            wrong |= model(x + step).argmax(dim=1) != y
        return int((held & wrong).sum())

    assert refuted() == 0
    monkeypatch.setattr(
        affine_pieces, "head_rounding", lambda w, _b, z, _r: z.new_zeros(len(z), len(w)).double()
    )
    monkeypatch.setattr(
        PiecesState,
        "rounded",
        lambda *args, whole=PiecesState.rounded: whole(*args)._replace(
            consistent=torch.ones(len(args[1]), dtype=torch.bool)
        ),
    )
    assert refuted() > 0


def with_trunk(head):
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Flatten(), DenseGradientStep(3, 6), nn.Linear(3, 5))
    trunk[2].weight.data *= 2
    return Classifier(trunk, head).eval().requires_grad_(False)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("strict", [False, True])
def test_one_piece_behind_a_trunk_is_the_lipschitz_certificate(norm, strict):
    linear = nn.Linear(5, 4)
    head = MaxAffine(5, 4, pieces=1)
    head.weight.data, head.bias.data = linear.weight.data[:, None], linear.bias.data[:, None]
    x = inputs(30)
    found = [
        resolve_certifiers(name, model, SHAPE, norm, strict_rounding=strict)[0]
        .prove(x, model(x), model(x).argmax(dim=1), ThreatModel(norm, 0.1))
        .class_radii
        for name, model in (("max_affine", with_trunk(head)), ("lipschitz", with_trunk(linear)))
    ]
    # The Lipschitz certificate says nothing beyond the nearest class, or eps.
    limit = found[1].amin(dim=1).clamp_min(0.1)[:, None].expand_as(found[0])
    pieces, lipschitz = (each.minimum(limit) for each in found)
    assert torch.allclose(pieces, lipschitz, rtol=1e-3, atol=1e-6)
    assert (found[0] > 0.01).double().mean() > 0.3


def test_no_point_refutes_radii_behind_a_trunk():
    torch.manual_seed(1)
    model, x = with_trunk(MaxAffine(5, 3, pieces=4)), inputs(40)
    y = model(x).argmax(dim=1)
    radius = radii(proof(model, x, "max_affine", "L2", 0.1)[0]).clamp_max(2)
    assert (radius > 0.01).sum() > 20
    moves = torch.randn(4000, 3)
    moves = moves / moves.norm(dim=1, keepdim=True)
    for k in (radius > 0).nonzero().flatten().tolist():
        near = (x[k].flatten() + 0.999 * float(radius[k]) * moves).clamp(0, 1).view(-1, *SHAPE)
        assert (model(near).argmax(dim=1) == y[k]).all()


ROUNDED, ALLOWANCE = (PiecesState, "rounded"), (LayerRounding, "allowance")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("name", "trunk", "bounding"),
    [
        ("max_affine", False, ROUNDED),
        ("max_affine", True, ROUNDED),
        ("max_affine_exact", False, ROUNDED),
        ("lipschitz", True, ALLOWANCE),
    ],
    ids=["max_affine", "max_affine behind a trunk", "max_affine_exact", "lipschitz"],
)
def test_rounding_is_bounded_as_far_as_classes_are_excluded(
    norm, name, trunk, bounding, monkeypatch
):
    head = nn.Linear(5, 3) if name == "lipschitz" else MaxAffine(5, 3, pieces=4)
    model = with_trunk(head) if trunk else pieces_model(2)
    x, eps, reaches = inputs(30), 0.1, {}
    original = getattr(*bounding)

    def recorded(state, x, logits, *rest):
        reaches.update(zip(map(row_of, x), rest[-1].tolist(), strict=True))
        return original(state, x, logits, *rest)

    monkeypatch.setattr(*bounding, recorded)
    found, _ = proof(model, x, name, norm, eps)
    excluded = found.class_radii.where(found.class_radii.isfinite(), 0.0).amax(dim=1)
    assert (excluded > 0).double().mean() > 0.5
    # An Linf ball lies in an L2 ball of sqrt(d) times its radius.
    excluded = (excluded * math.sqrt(3 if norm == "Linf" else 1)).minimum(farthest(x))
    assert all(far <= reaches[row_of(row)] for row, far in zip(x, excluded, strict=True) if far)


def row_of(x):
    return tuple(x.flatten().tolist())


def test_radii_do_not_depend_on_the_batch():
    model, x = pieces_model(3), inputs(25)
    for name, eps in (("max_affine", 0.1), ("max_affine_exact", 0.05)):
        whole, _ = proof(model, x, name, "L2", eps)
        alone = [proof(model, one, name, "L2", eps)[0].class_radii for one in x.split(1)]
        assert torch.allclose(whole.class_radii, torch.cat(alone), rtol=1e-9, atol=0)


class Louder(MaxAffine):
    def forward(self, z):
        return 12 * super().forward(z).sin()


class Doubled(MaxAffine):
    def affine_pieces(self):
        weight, bias = super().affine_pieces()
        return type(super().affine_pieces())(2 * weight, 2 * bias)


class Alternating(MaxAffine):
    """Pieces that are scaled the first time, by a factor for all classes or for each."""

    calls, first = 0, (0.1,)

    def affine_pieces(self):
        self.calls += 1
        weight, bias = super().affine_pieces()
        scale = torch.tensor(self.first if self.calls == 1 else (1.0,))[:, None]
        return type(super().affine_pieces())(scale[:, None] * weight, scale * bias)


def hooked():
    model = pieces_model(0)
    model.head.register_forward_hook(lambda _module, _inputs, out: -out)
    return model


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: Classifier(nn.Flatten(), Louder(3, 2, pieces=2)), id="forward"),
        pytest.param(lambda: Classifier(nn.Flatten(), UnitRowLinear(3, 2)), id="linear head"),
        pytest.param(lambda: Classifier(nn.GELU(), MaxAffine(3, 2, pieces=2)), id="trunk"),
        pytest.param(hooked, id="hook"),
    ],
)
def test_heads_that_are_no_maxima_are_refused(model):
    with pytest.raises(CertificateError):
        resolve_certifiers("max_affine", model(), SHAPE, "L2")


def test_pieces_of_a_subclass_are_those_of_its_forward():
    torch.manual_seed(0)
    model = Classifier(nn.Flatten(), Doubled(3, 3, pieces=2)).eval().requires_grad_(False)
    found, y = proof(model, inputs(20), "max_affine", "L2", 0.1)
    distances = exact(model, inputs(20), y, "L2")
    assert (found.class_radii <= distances).all()
    assert (found.class_radii > 0).any()


@pytest.mark.parametrize("first", [(0.1,), (1.0, 1.0, 0.1)], ids=["all classes", "one class"])
def test_pieces_that_change_prove_nothing(first):
    torch.manual_seed(0)
    model = Classifier(nn.Flatten(), Alternating(3, 3, pieces=2)).eval().requires_grad_(False)
    model.head.first = first
    x = inputs(20)
    (prepared,) = resolve_certifiers("max_affine", model, SHAPE, "L2")
    y = model(x).argmax(dim=1)
    assert (y != 2).any()
    found = prepared.prove(x, model(x), y, ThreatModel("L2", 0.1))
    assert radii(found).isnan().all()


def test_the_exact_certificate_refuses_pieces_of_features():
    with pytest.raises(CertificateError, match="features"):
        resolve_certifiers("max_affine_exact", with_trunk(MaxAffine(5, 3, pieces=2)), SHAPE, "L2")


def test_auto_leaves_pieces_of_the_input_to_their_own_certifiers():
    chosen = select_certifiers("auto", pieces_model(0), SHAPE, "L2")
    assert [c.certifier.name for c in chosen.ready] == ["max_affine", "max_affine_exact"]
    assert "complete" in chosen.not_applicable
    behind = select_certifiers("auto", with_trunk(MaxAffine(5, 3, pieces=2)), SHAPE, "L2")
    names = [c.certifier.name for c in behind.ready]
    assert names[:2] == ["max_affine", "lipschitz"]
    assert "features" in behind.not_applicable["max_affine_exact"]
    plain = Classifier(nn.Flatten(), nn.Linear(3, 3)).eval().requires_grad_(False)
    ordinary = select_certifiers("auto", plain, SHAPE, "L2")
    assert "max_affine" not in {
        *ordinary.not_applicable,
        *(c.certifier.name for c in ordinary.ready),
    }


def test_an_evaluation_closes_the_bracket():
    torch.manual_seed(0)
    head = Prototypes(3, 3, prototypes=4)
    model = Classifier(nn.Flatten(), head).eval().requires_grad_(False)
    x = inputs(60)
    y = model(x).argmax(dim=1)
    evaluation = evaluate(model, (x, y), ThreatModel("L2", 0.1), attacks="apgd-ce")
    row = evaluation.summary
    assert row["certified_accuracy"] == row["empirical_accuracy"]
    assert 0.1 < row["certified_accuracy"] < 0.9
