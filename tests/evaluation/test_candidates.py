"""The candidate check: what counts as an adversarial example, and what does not."""

import torch
from oracles import halfspaces, points
from torch import nn

from robustbench_dyn import ThreatModel
from robustbench_dyn.evaluation.candidates import check_candidates
from robustbench_dyn.threat_models import distance

L2 = ThreatModel("L2", 0.25)


def swapped(x):
    """Return x with its first two coordinates exchanged: on the other side of the plane."""
    rows = x.flatten(1).clone()
    rows[:, :2] = rows[:, :2].flip(1)
    return rows.view_as(x)


def test_candidates_inside_the_ball_count_with_their_distance():
    x, y = points([0.05, 0.1, 0.2, 0.4])
    checked = check_candidates(halfspaces(), swapped(x), x, y, L2)
    # The swap moves an example twice as far as the plane; the last two are projected.
    assert checked.fooled.tolist() == [True, True, True, False]
    torch.testing.assert_close(
        checked.distance[:2], torch.tensor([0.1, 0.2], dtype=torch.float64), rtol=1e-6, atol=0
    )
    assert (checked.distance <= L2.eps).all()
    assert torch.equal(checked.distance, distance(checked.x_adv, x, "L2"))


def test_candidates_that_are_not_finite_are_discarded():
    x, y = points([0.05, 0.05, 0.05])
    candidates = swapped(x)
    candidates[0, 0, 3, 3], candidates[1, 0, 3, 3] = torch.nan, torch.inf
    checked = check_candidates(halfspaces(), candidates, x, y, L2)
    assert checked.fooled.tolist() == [False, False, True]
    assert torch.equal(checked.x_adv[:2], x[:2])
    assert checked.distance[:2].tolist() == [0, 0]


def test_logits_that_are_not_finite_name_no_class():
    class Overflowing(nn.Module):
        def forward(self, x):
            logits = halfspaces()(x)
            return torch.where(logits[:, :1] > logits[:, 1:], logits, torch.nan)

    x, y = points([0.05, 0.05])
    checked = check_candidates(Overflowing(), swapped(x), x, y, L2)
    # The first lands where the logits are NaN, the second where they name the wrong class.
    assert checked.fooled.tolist() == [True, True]


def test_predictions_of_the_right_class_fool_nothing():
    x, y = points([0.05, 0.4])
    checked = check_candidates(halfspaces(), x.clone(), x, y, L2)
    assert not checked.fooled.any()
