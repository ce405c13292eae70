"""The rounding of affine pieces: each part of it is subtracted from each margin.

The formula is computed anew by loops over the pieces, with errors that are large enough to matter.
"""

import math
from fractions import Fraction

import pytest
import torch
from oracles.samples import normal, uniform
from torch import nn

from robustbench_dyn import ThreatModel
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.certification.proofs import affine_pieces
from robustbench_dyn.certification.proofs.affine_pieces import PiecesState, Rounded
from robustbench_dyn.certification.proofs.max_affine import pairwise_radii
from robustbench_dyn.certification.proofs.piece_programs import Cells
from robustbench_dyn.certification.rounding.allowance import FACTOR, usual_rounding
from robustbench_dyn.flows import Classifier, DenseGradientStep, MaxAffine
from robustbench_dyn.threat_models import NORMS

SHAPE, CLASSES, PIECES = (1, 1, 3), 3, 3


def network(*, trunk, seed=0):
    """Return a classifier of affine pieces of three inputs, or of five features of a trunk."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    step, wide = DenseGradientStep(3, 6), nn.Linear(3, 5)
    features = nn.Sequential(nn.Flatten(), step, wide) if trunk else nn.Flatten()
    length = 5 if trunk else 3
    head = MaxAffine(length, CLASSES, pieces=PIECES)
    head.weight.data = torch.randn(CLASSES, PIECES, length, generator=generator)
    head.bias.data = 0.3 * torch.randn(CLASSES, PIECES, generator=generator)
    return Classifier(features, head).eval().requires_grad_(False)


def rounded(n):
    """Return random values of pieces, and errors of all kinds a few times smaller."""
    return Rounded(
        values=normal(n, CLASSES, PIECES),
        errors=0.1 * uniform(n, CLASSES, PIECES, seed=1),
        feature_error=0.05 * uniform(n, seed=2),
        consistent=torch.ones(n, dtype=torch.bool),
        observed=0.01 * uniform(n, CLASSES, seed=3),
    )


def by_loops(state, found, usual, y, *, strict):
    """Return max over own pieces of min over competing ones of (margin - rounding) / (L |w|)."""
    weight = state.split.pieces.weight
    radius = torch.zeros(len(y), CLASSES, dtype=torch.float64)
    for k, label in enumerate(y.tolist()):
        for j in {0, 1, 2} - {label}:
            seen = float(found.observed[k, j] + found.observed[k, label])
            best = -math.inf
            for i in range(PIECES):
                worst = math.inf
                for m in range(PIECES):
                    apart = float((weight[label, i] - weight[j, m]).norm())
                    margin = float(found.values[k, label, i] - found.values[k, j, m])
                    error = float(found.errors[k, label, i] + found.errors[k, j, m])
                    if not state.split.on_inputs:
                        error += float(found.feature_error[k]) * apart
                    left = margin - error
                    if not strict:
                        measured = max(FACTOR * seen, float(usual[k]))
                        left = max(margin - measured, left) - seen if left > 0 else 0.0
                    worst = min(worst, left / apart)
                best = max(best, worst)
            radius[k, j] = max(best, 0.0) / state.lipschitz
    return radius.scatter(1, y[:, None], math.inf)


@pytest.mark.parametrize(("trunk", "strict"), [(False, True), (True, True), (True, False)], ids=str)
def test_radii_are_those_of_margins_less_their_rounding(trunk, strict):
    state = affine_pieces.prepare(network(trunk=trunk), strict_rounding=strict)
    found = rounded(60)
    logits = found.values.amax(dim=2).float()
    y = logits.argmax(dim=1)
    got = pairwise_radii(state, found, logits, y, "L2", 3)
    expected = by_loops(state, found, usual_rounding(logits), y, strict=strict)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0.0)
    assert 0.2 < (got > 0).double().mean() < 0.95


@pytest.mark.parametrize("norm", NORMS)
def test_distances_of_pieces_are_rounded_up(norm):
    head = MaxAffine(7, 2, pieces=40)
    # Pieces that are near each other, where differences of products would cancel.
    head.weight.data = 100 + normal(2, 40, 7).float()
    model = Classifier(nn.Flatten(), head).eval().requires_grad_(False)
    found = affine_pieces.prepare(model, strict_rounding=False).distances(norm, 0)
    weight = [[Fraction(v) for v in row] for row in head.weight.data.flatten(0, 1).tolist()]
    for i in range(40):
        for m in range(40, 80):
            moves = [abs(a - b) for a, b in zip(weight[i], weight[m], strict=True)]
            told = Fraction(float(found[i, m]))
            match norm:
                case "L2":
                    assert told**2 >= sum(move**2 for move in moves)
                case "Linf":
                    assert told >= sum(moves)
                case "L1":
                    assert told >= max(moves)
            assert told <= (1 + Fraction(1, 10**9)) * sum(moves)


def test_the_rounding_of_a_head_is_bounded_anywhere_within_reach():
    model = network(trunk=True)
    state = affine_pieces.prepare(model, strict_rounding=True)
    x, there = uniform(20, *SHAPE).float(), uniform(20, *SHAPE, seed=1).float()
    reach = (x - there).double().flatten(1).norm(dim=1) * (1 + 1e-6)
    within = state.rounded(x, model(x), reach)
    at_point = state.rounded(there, model(there), torch.zeros_like(reach))
    assert (within.errors >= at_point.errors).all()
    assert (within.feature_error >= at_point.feature_error).all()
    # Not because the point itself would do.
    alone = state.rounded(x, model(x), torch.zeros_like(reach))
    assert not (alone.errors >= at_point.errors).all()


@pytest.mark.parametrize("of_label", [True, False], ids=["of the label", "of the others"])
def test_the_exact_certificate_subtracts_the_rounding_of_both(of_label, monkeypatch):
    model, x = network(trunk=False), uniform(20, *SHAPE).float()
    y = model(x).argmax(dim=1)
    (prepared,) = resolve_certifiers("max_affine_exact", model, SHAPE, "L2")

    def certified():
        proof = prepared.prove(x, model(x), y, ThreatModel("L2", 0.001))
        return (radii(proof) >= 0.001).double().mean()

    whole = PiecesState.rounded

    def wide(state, x, logits, reach):
        found = whole(state, x, logits, reach)
        chosen = torch.nn.functional.one_hot(y, CLASSES).bool() == of_label
        return found._replace(errors=found.errors + 10.0 * chosen[:, :, None])

    assert certified() > 0.9
    monkeypatch.setattr(PiecesState, "rounded", wide)
    assert certified() == 0


def test_a_value_within_the_rounding_of_its_own_sums_proves_nothing():
    slopes = torch.full((1, 3), 1e6, dtype=torch.float64)
    bias = torch.tensor([1e-9], dtype=torch.float64)
    ball = Ball(uniform(1, *SHAPE), ThreatModel("L2", 0.1))
    share = torch.ones(1, 1, dtype=torch.float64)
    cells = Cells(slopes, bias, slopes, torch.zeros_like(bias), 0.0)
    assert not cells.proved(share, ball).any()
    assert cells._replace(own_bias=bias * 1e3).proved(share, ball).all()
