"""Our own attacks: what one example gets depends on nothing but itself, and no pass is wasted."""

import numpy as np
import pytest
import torch
from oracles.networks import Rows, examples
from scipy import stats
from torch import nn

from robustbench_dyn import Status, ThreatModel, evaluate
from robustbench_dyn.attacks.catalogue import attack_info
from robustbench_dyn.attacks.native import apgd, square
from robustbench_dyn.attacks.native.directions import unit_l2
from robustbench_dyn.attacks.native.eot import eot_pgd
from robustbench_dyn.evaluation import stages
from robustbench_dyn.flows import Classifier
from robustbench_dyn.models.counting import CountingModel
from robustbench_dyn.random_streams import Streams
from robustbench_dyn.threat_models import NORMS, distance

OWN = ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "fab-min", "square", "hop-skip-jump", "rays")
PAIRS = [(name, norm) for name in OWN for norm in NORMS if norm in attack_info(name).norms]
RADII = {"L2": 0.35, "Linf": 0.06, "L1": 1.5}


def candidates(name, norm, model, x, y, *, scale=1.0, batch_size=8, **options):
    threat_model = ThreatModel(norm, RADII[norm] * scale)
    return attack_info(name).search(
        model, x, y, threat_model, seed=3, batch_size=batch_size, n_classes=5, **options
    )


# Streams


def test_draws_follow_their_distributions():
    streams = Streams(torch.arange(50))
    assert stats.kstest(streams.uniform(0, 400).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(streams.normal(1, 400).flatten().numpy(), "norm").pvalue > 1e-3
    signs = streams.signs(2, 400).flatten()
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert stats.binomtest(int((signs > 0).sum()), len(signs)).pvalue > 1e-3
    whole = torch.cat([streams.integers(k, 7) for k in range(400)])
    assert stats.chisquare(torch.bincount(whole, minlength=7).numpy()).pvalue > 1e-3


def test_the_test_of_distributions_can_fail():
    draws = Streams(torch.arange(50)).uniform(0, 400).flatten().numpy()
    assert stats.kstest(draws**1.1, "uniform").pvalue < 1e-3


def test_draws_are_independent_between_rows_counters_and_salts():
    streams = Streams(torch.arange(2))
    first = streams.uniform(0, 20_000)
    for other in (first.flip(0), streams.uniform(1, 20_000), streams.substream(1).uniform(0, 20_000)):
        correlation = np.corrcoef(first.flatten().numpy(), other.flatten().numpy())[0, 1]
        assert abs(correlation) < 4 / 40_000**0.5


def test_a_draw_depends_on_its_own_row_alone():
    x, y = torch.rand(4, 1, 3, 3), torch.arange(4)
    together = Streams.of(x, y, 7).normal(5, 2, 3)
    alone = torch.cat([Streams.of(x[k : k + 1], y[k : k + 1], 7).normal(5, 2, 3) for k in range(4)])
    assert torch.equal(together, alone)
    assert not torch.equal(together, Streams.of(x, y, 8).normal(5, 2, 3))
    assert not torch.equal(together, Streams.of(x, y.flip(0), 7).normal(5, 2, 3))


# Independence of the batch


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_what_is_found_does_not_depend_on_the_batch(name, norm):
    model = Rows()
    x, y = examples(model)
    together = candidates(name, norm, model, x, y)
    alone = [candidates(name, norm, model, x[k : k + 1], y[k : k + 1]) for k in range(len(x))]
    assert torch.equal(together, torch.cat(alone))
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    assert torch.equal(together[order], candidates(name, norm, model, x[order], y[order]))
    assert torch.equal(together, candidates(name, norm, model, x, y, batch_size=3))
    assert not torch.equal(together, x)


def test_the_official_attack_depends_on_the_batch():
    model = Rows()
    x, y = examples(model)
    together = candidates("aa-square", "L2", model, x, y)
    alone = [candidates("aa-square", "L2", model, x[k : k + 1], y[k : k + 1]) for k in range(6)]
    assert not torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_square_asks_ahead_and_finds_what_asking_one_by_one_finds(norm, monkeypatch):
    model = Rows()
    x, y = examples(model)
    # So near that not everything falls: every query is made.
    ahead = candidates("square", norm, model, x, y, scale=0.5)
    monkeypatch.setattr(square, "_FULL", 1)
    one_by_one = candidates("square", norm, model, x, y, scale=0.5)
    assert torch.equal(ahead, one_by_one)
    changed = (ahead != x).flatten(1).any(dim=1)
    assert 0 < changed.sum() < len(x)


# No pass is wasted


@pytest.mark.parametrize(("name", "norm"), [p for p in PAIRS if p[0] != "fab-min"])
def test_decided_examples_leave_at_once(name, norm):
    model = CountingModel(Rows())
    x, y = examples(model)
    for scale, cheap in ((6.0, True), (0.02, False)):
        model.forward_passes = 0
        candidates(name, norm, model, x, y, scale=scale)
        # One pass of the wrapper; then the first few looks decide, or none does. HopSkipJump looks
        # at many starts first.
        few = {"hop-skip-jump": 600, "rays": 100}.get(name, 25)
        assert (model.forward_passes < few * len(x)) == cheap


def test_batches_are_fuller_than_one_target_at_a_time_makes_them():
    sizes = []

    class Recording(Rows):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    model = Recording()
    x, y = examples(model, n=40)
    mean_sizes = []
    for name in ("apgd-t", "aa-apgd-t"):
        sizes.clear()
        candidates(name, "L2", model, x, y, batch_size=32)
        assert max(sizes) <= 32
        mean_sizes.append(sum(sizes) / len(sizes))
    assert mean_sizes[0] > 1.5 * mean_sizes[1]


@pytest.mark.parametrize("name", ["apgd-t", "fab-t"])
def test_excluded_rivals_are_not_tried(name):
    model = CountingModel(Rows())
    x, y = examples(model)
    everybody = candidates(name, "L2", model, x, y, scale=3)
    with torch.no_grad():
        winners = model(everybody).argmax(dim=1)
    assert (winners != y).all()
    radii = torch.zeros(6, 5).double().scatter(1, winners[:, None], torch.inf)
    model.forward_passes = 0
    candidates(name, "L2", model, x, y, scale=0.01)
    cost = model.forward_passes
    model.forward_passes = 0
    candidates(name, "L2", model, x, y, scale=0.01, class_radii=radii)
    assert 0.7 < model.forward_passes / cost < 0.8
    nobody = torch.full((6, 5), torch.inf)
    assert torch.equal(candidates(name, "L2", model, x, y, scale=3, class_radii=nobody), x)


# Strength


@pytest.mark.parametrize("norm", NORMS)
def test_fab_min_comes_within_a_percent_of_the_exact_distance(norm):
    generator = torch.Generator().manual_seed(5)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))
    linear[1].weight.data = torch.randn(5, 36, generator=generator)
    x = 0.5 + 0.1 * torch.rand(6, 1, 6, 6, generator=generator)
    with torch.no_grad():
        logits = linear(x)
    y = logits.argmax(dim=1)
    weight = linear[1].weight.detach()
    order = {"L2": 2, "Linf": 1, "L1": torch.inf}[norm]
    rows = torch.arange(6)
    lengths = torch.linalg.vector_norm(weight[y][:, None] - weight, order, dim=2)
    exact = (logits[rows, y][:, None] - logits) / lengths
    exact[rows, y] = torch.inf
    exact = exact.amin(dim=1).double()
    found = candidates("fab-min", norm, linear, x, y)
    reached = distance(found, x, norm)
    with torch.no_grad():
        assert (linear(found).argmax(dim=1) != y).all()
    assert (reached >= exact * (1 - 1e-5)).all()
    assert (reached <= exact * 1.01).all()


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.rows, self.scale = Rows(), scale

    def forward(self, x):
        return self.rows(x) * self.scale


@pytest.mark.parametrize(("name", "norm"), [p for p in PAIRS if p[0] not in ("apgd-ce", "square")])
def test_tiny_gradients_lead_as_far_as_large_ones(name, norm):
    x, y = examples(Rows())
    n_found = []
    # Cross-entropy cannot tell such logits apart in float32, whatever the step.
    for scale in (1.0, 1e-30):
        found = candidates(name, norm, Scaled(scale), x, y)
        n_found.append(int((Rows()(found).argmax(dim=1) != y).sum()))
    assert n_found[0] == n_found[1] > 0


@pytest.mark.parametrize("size", [1e-45, 1e-20, 1.0, 1e30])
def test_directions_have_length_one_whatever_the_size(size):
    gradient = torch.zeros(3, 1, 4, 4)
    gradient[0, 0, 1, 2] = size
    gradient[1] = size
    unit = unit_l2(gradient)
    assert unit[0, 0, 1, 2] == 1
    torch.testing.assert_close(unit[1], torch.full((1, 4, 4), 0.25))
    assert (unit[2] == 0).all()


def test_the_ascent_in_expectation_takes_full_steps_along_tiny_gradients():
    x, y = torch.full((1, 3), 0.5), torch.tensor([0])

    def scores(x_adv, _step):
        return torch.stack([-1e-30 * x_adv.sum(dim=1), 1e-30 * x_adv.sum(dim=1)], dim=1)

    x_adv = eot_pgd(scores, x, y, ThreatModel("L2", 0.1))
    assert float(distance(x_adv, x, "L2")) > 0.09


def test_checkpoints_are_those_of_the_paper():
    assert sorted(apgd._checkpoints(100))[:8] == [22, 41, 57, 70, 80, 87, 93, 99]


class Quantised(nn.Module):
    """Two classes, whose logits tie wherever the mean is not above 1/2; argmax then says 0."""

    def forward(self, x):
        lead = (x.flatten(1).mean(dim=1) - 0.5).clamp(0).ceil()
        return torch.stack([torch.zeros_like(lead), lead], dim=1)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_square_keeps_ties_that_the_prediction_loses(norm):
    x = torch.full((2, 1, 6, 6), 0.51)
    y = torch.ones(2, dtype=torch.int64)
    found = candidates("square", norm, Quantised(), x, y)
    assert (Quantised()(found).argmax(dim=1) == 0).all()
    # Of a tie that the label wins nothing is found.
    x, y = torch.full((2, 1, 6, 6), 0.1), torch.zeros(2, dtype=torch.int64)
    assert torch.equal(candidates("square", norm, Quantised(), x, y), x)


class Labels(Rows):
    """Tells its prediction alone."""

    def forward(self, x):
        return nn.functional.one_hot(super().forward(x).argmax(dim=1), 5).double()


ON_PREDICTIONS = [("hop-skip-jump", norm) for norm in NORMS] + [("rays", "Linf")]


@pytest.mark.parametrize(("name", "norm"), ON_PREDICTIONS)
def test_predictions_alone_suffice_where_no_score_is_told(name, norm):
    x, y = examples(Rows())
    found = candidates(name, norm, Labels(), x, y)
    assert torch.equal(found, candidates(name, norm, Rows(), x, y))
    assert (distance(found, x, norm) <= RADII[norm] * (1 + 1e-6)).all()
    n_found = int((Rows()(found).argmax(dim=1) != y).sum())
    white_box = candidates("fab-t", norm, Rows(), x, y)
    assert n_found >= int((Rows()(white_box).argmax(dim=1) != y).sum()) - 1 > 0


def test_scores_that_tell_nothing_hide_from_square():
    """The negative control: what predictions give away, scores without slopes do not."""
    x, y = examples(Rows())
    told, hidden = (
        int((Rows()(candidates("square", "L2", model, x, y)).argmax(dim=1) != y).sum())
        for model in (Rows(), Labels())
    )
    assert hidden < told


@pytest.mark.parametrize(
    ("name", "norm", "n_queries"), [("hop-skip-jump", "L2", 25_000), ("rays", "Linf", 10_000)]
)
def test_the_budget_of_queries_is_kept(name, norm, n_queries):
    model = CountingModel(Rows())
    x, y = examples(model)
    found = candidates(name, norm, model, x[:1], y[:1], scale=0.01)
    assert torch.equal(found, x[:1])
    # Flips that are shown ahead, and the wrapper's pass.
    slack = 1.3 * n_queries if name == "rays" else 7
    assert 0.8 * n_queries < model.forward_passes <= n_queries + slack


def test_square_long_gives_nothing_up():
    model = CountingModel(Rows())
    x, y = examples(model)
    for name, n_queries in (("square", 5000), ("square-long", 20_000)):
        model.forward_passes = 0
        candidates(name, "L2", model, x, y, scale=0.01)
        assert (model.forward_passes >= n_queries * len(x)) == (name == "square-long")


def test_fab_min_leaves_out_rivals_that_are_farther_than_its_find():
    model = CountingModel(Rows())
    x, y = examples(model)
    found = candidates("fab-min", "L2", model, x, y)
    cost, model.forward_passes = model.forward_passes, 0
    reached = distance(found, x, "L2")
    with torch.no_grad():
        winners = model(found).argmax(dim=1)
    model.forward_passes = 0
    # All but the winner are known to be farther away.
    radii = (reached[:, None] * 1.5).expand(6, 5).scatter(1, winners[:, None], 0.0)
    again = candidates("fab-min", "L2", model, x, y, class_radii=radii)
    assert torch.equal(again, found)
    assert model.forward_passes < 0.6 * cost


def test_what_certificates_rule_out_changes_no_verdict(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU()), nn.Linear(12, 6))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    x = torch.rand(40, 1, 6, 6, generator=generator)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    options = {"attacks": "apgd-t,fab-t", "audit_share": 0.0, "certifiers": "lipschitz"}
    pruned = evaluate(model, (x, y), ThreatModel("L2", 0.1), **options)
    monkeypatch.setattr(stages.ClassRadii, "of", lambda *_: None)
    whole = evaluate(model, (x, y), ThreatModel("L2", 0.1), **options)
    assert pruned.examples["status"].equals(whole.examples["status"])
    assert set(pruned.examples["status"]) >= {Status.BROKEN, Status.CERTIFIED, Status.UNDECIDED}
    assert pruned.summary["forward_passes"] < 0.8 * whole.summary["forward_passes"]
