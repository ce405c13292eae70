"""The minimum of linear functions over balls, against samples and closed forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.samples import inside, normal, uniform

from robustbench_dyn.certification.bounds import ball as ball_module
from robustbench_dyn.certification.bounds import inner_products
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.threat_models import NORMS, ThreatModel, distance

few = settings(deadline=None, max_examples=12)
seeds = st.integers(0, 10_000)


@few
@given(seeds, st.sampled_from(NORMS), st.floats(0.01, 2.0))
def test_the_minimum_over_a_ball_is_a_bound_and_is_reached(seed, norm, eps):
    threat_model = ThreatModel(norm, min(eps, 1.0) if norm == "Linf" else eps)
    x, rows = uniform(4, 6, seed=seed), normal(4, 6, seed=seed + 1)
    rows[0, 2], rows[1] = 0.0, 0.0
    ball, owners = Ball(x, threat_model), torch.arange(4)
    minimum = ball.minimum(rows, owners)
    sampled = (inside(x, threat_model, 60, seed=seed) * rows).sum(dim=-1).amin(dim=0)
    assert (minimum <= sampled + 1e-9).all()
    reached = ball.minimiser(rows, owners)
    assert (distance(reached, x, norm) <= threat_model.eps * (1 + 1e-9)).all()
    assert reached.min() >= -1e-12
    assert reached.max() <= 1 + 1e-12
    torch.testing.assert_close((reached * rows).sum(dim=1), minimum, rtol=1e-9, atol=1e-9)


@few
@given(seeds, st.sampled_from(NORMS), st.floats(0.01, 0.29))
def test_a_budget_that_one_coordinate_uses_up_is_exact(seed, norm, eps):
    x, rows = 0.3 + 0.4 * uniform(50, 6, seed=seed), torch.zeros(50, 6).double()
    rows[:, 2] = 1.3
    minimum = Ball(x, ThreatModel(norm, eps)).minimum(rows, torch.arange(50))
    torch.testing.assert_close(minimum, 1.3 * (x[:, 2].double() - eps), rtol=1e-9, atol=1e-9)


def test_a_ball_that_forgets_the_box_is_caught():
    # The negative control: at the border of [0, 1] no coordinate can move down.
    x, rows = torch.zeros(1, 4).double(), torch.ones(1, 4).double()
    for norm in NORMS:
        ball = Ball(x, ThreatModel(norm, 0.5))
        assert float(ball.minimum(rows, torch.tensor([0]))) == pytest.approx(0, abs=1e-12)
        unboxed = Ball(x, ThreatModel(norm, 0.5))
        unboxed.lower, unboxed.upper = ball.centre - 0.5, ball.centre + 0.5
        assert float(unboxed.minimum(rows, torch.tensor([0]))) <= -0.5


@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
def test_a_rounded_dual_variable_loses_nothing_in_float64(scale):
    # Coefficients of all sizes, many coordinates that cannot move, and a budget that caps some.
    x = uniform(300, 50, seed=3).round(decimals=1).clamp(0, 1)
    rows = scale * normal(300, 50, seed=4) * 10 ** (-6 * uniform(300, 50, seed=5))
    owners = torch.arange(300)
    for eps in (1e-4, 0.3, 1.0, 9.0):
        ball = Ball(x, ThreatModel("L2", eps))
        found = ball.minimum(rows, owners)
        reached = (ball.minimiser(rows, owners) * rows).sum(dim=1)
        gap = (reached - found) / rows.abs().sum(dim=1)
        assert gap.min() >= 0
        assert gap.max() <= 1e-10

    # The negative control: a dual variable that is off by a percent is sound, and not as tight.
    class Coarse(Ball):
        def _step_scale(self, *given):
            return 1.01 * super()._step_scale(*given)

    coarse = Coarse(x, ThreatModel("L2", 0.3)).minimum(rows, owners)
    exact = Ball(x, ThreatModel("L2", 0.3)).minimum(rows, owners)
    assert (coarse <= exact + 1e-15 * rows.abs().sum(dim=1)).all()
    assert ((exact - coarse) / rows.abs().sum(dim=1)).max() > 1e-8


@pytest.mark.parametrize("n", [4, 300])
@pytest.mark.parametrize("norm", NORMS)
def test_minima_of_float32_rows_allow_for_their_rounding(norm, n, monkeypatch):
    x, rows = uniform(200, n, seed=6), normal(200, n, seed=7).float()
    owners, threat_model = torch.arange(200), ThreatModel(norm, 0.3)
    exact = Ball(x, threat_model).minimum(rows.double(), owners)
    found = Ball(x, threat_model).minimum(rows, owners)
    slack = 1e-13 * rows.double().abs().sum(dim=1)
    assert (found <= exact + slack).all()
    assert ((exact - found) / rows.double().abs().sum(dim=1)).max() < 1e-4

    # The negative control: rounding that is taken to be that of float64.
    class WithoutRounding:
        def __getattr__(self, name):
            return getattr(torch, name)

        def finfo(self, dtype):
            return torch.finfo(torch.float64)

    monkeypatch.setattr(ball_module, "torch", WithoutRounding())
    monkeypatch.setattr(inner_products, "torch", WithoutRounding())
    blind = Ball(x, threat_model).minimum(rows, owners)
    # Bounds over L1 balls are of float64, and so are products of short rows.
    if norm == "L2" or (norm == "Linf" and n > 64):
        assert (blind > exact + slack).any()
