"""Native attacks: an example's candidates do not depend on the others, and no pass is wasted."""

import pytest
import torch
from oracles.networks import Rows, examples
from torch import nn

from robustbench_dyn import Status, ThreatModel, evaluate
from robustbench_dyn.attacks import ATTACKS
from robustbench_dyn.attacks.native import apgd, fab, square
from robustbench_dyn.attacks.native.directions import unit_l2
from robustbench_dyn.evaluation.stages import ClassRadii
from robustbench_dyn.lipschitz.bounds import Classifier
from robustbench_dyn.models.counting import CountingModel
from robustbench_dyn.threat_models import NORMS, distance

NATIVE = ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "fab-min", "square", "hop-skip-jump", "rays")
PAIRS = [(name, norm) for name in NATIVE for norm in NORMS if norm in ATTACKS.get(name).norms]
# Smaller budgets, where the default ones would only take longer.
SHORT = {
    "fab-min": {"n_iterations": 15},
    "hop-skip-jump": {"n_queries": 3000},
    "rays": {"n_queries": 2000},
    "square": {"n_queries": 600},
}
RADII = {"L2": 0.35, "Linf": 0.06, "L1": 1.5}


def candidates(name, norm, model, x, y, *, scale=1.0, batch_size=8, settings=None, **options):
    settings = SHORT.get(name, {}) if settings is None else settings
    threat_model = ThreatModel(norm, RADII[norm] * scale)
    return ATTACKS.create(name, settings).search(
        model, x, y, threat_model, seed=3, batch_size=batch_size, n_classes=5, **options
    )


# Independence of the batch


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_candidates_do_not_depend_on_the_batch(name, norm):
    model = Rows()
    x, y = examples(model)
    together = candidates(name, norm, model, x, y)
    alone = [candidates(name, norm, model, x[k : k + 1], y[k : k + 1]) for k in range(len(x))]
    assert torch.equal(together, torch.cat(alone))
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    assert torch.equal(together[order], candidates(name, norm, model, x[order], y[order]))
    assert torch.equal(together, candidates(name, norm, model, x, y, batch_size=3))
    assert not torch.equal(together, x)


@pytest.mark.parametrize("name", ["apgd-t", "fab-min"])
def test_giving_up_does_not_depend_on_the_batch(name):
    model, settings = Rows(), {"n_iterations": 22, "gives_up": True}
    x, y = examples(model, n=3)
    together = candidates(name, "L2", model, x, y, settings=settings, batch_size=2)
    alone = [
        candidates(name, "L2", model, x[k : k + 1], y[k : k + 1], settings=settings)
        for k in range(len(x))
    ]
    assert torch.equal(together, torch.cat(alone))


def test_pyautoattacks_square_depends_on_the_batch():
    model = Rows()
    x, y = examples(model)
    short = {"settings": {"n_queries": 100}}
    together = candidates("aa-square", "L2", model, x, y, **short)
    alone = [
        candidates("aa-square", "L2", model, x[k : k + 1], y[k : k + 1], **short) for k in range(6)
    ]
    assert not torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_square_ahead_in_batches_equals_one_query_at_a_time(norm, monkeypatch):
    model = Rows()
    x, y = examples(model)
    # So near that some examples stay robust: every query is made.
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
        # The first few passes decide, or none does. HopSkipJump ranks many starts first.
        few = {"hop-skip-jump": 600, "rays": 100}.get(name, 25)
        assert (model.forward_passes < few * len(x)) == cheap


def test_batches_are_fuller_than_with_one_target_at_a_time():
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


COUNTS = [
    (name, setting)
    for name in ATTACKS
    for setting in ATTACKS.get(name)().settings()
    if setting.startswith("n_") and ATTACKS.get(name).library == "robustbench-dyn"
]


@pytest.mark.parametrize(("name", "setting"), COUNTS)
def test_each_count_of_the_settings_costs_passes(name, setting):
    model = CountingModel(Rows())
    model.surrogates = lambda: {"same": CountingModel(Rows(), model._count)}
    x, y = examples(model)
    norm = "Linf" if name == "rays" else "L2"
    full = {count: 4 for called, count in COUNTS if called == name} | {"n_queries": 1000}
    full = {count: n for count, n in full.items() if (name, count) in COUNTS}
    n_passes = []
    for settings in (full, full | {setting: full[setting] // 2}):
        model.forward_passes = 0
        candidates(name, norm, model, x, y, scale=0.01, settings=settings)
        n_passes.append(model.forward_passes)
    assert n_passes[1] < 0.9 * n_passes[0]


@pytest.mark.parametrize("name", ["apgd-t", "fab-t"])
def test_excluded_classes_are_no_targets(name):
    model = CountingModel(Rows())
    x, y = examples(model)
    adversarial = candidates(name, "L2", model, x, y, scale=3)
    with torch.no_grad():
        winners = model(adversarial).argmax(dim=1)
    assert (winners != y).all()
    radii = torch.zeros(6, 5).double().scatter(1, winners[:, None], torch.inf)
    model.forward_passes = 0
    candidates(name, "L2", model, x, y, scale=0.01)
    cost = model.forward_passes
    model.forward_passes = 0
    candidates(name, "L2", model, x, y, scale=0.01, class_radii=radii)
    assert 0.7 < model.forward_passes / cost < 0.8
    none = torch.full((6, 5), torch.inf)
    assert torch.equal(candidates(name, "L2", model, x, y, scale=3, class_radii=none), x)


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
def test_tiny_gradients_give_full_steps(name, norm):
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


def test_checkpoints_are_those_of_the_paper():
    assert sorted(apgd._checkpoints(100))[:8] == [22, 41, 57, 70, 80, 87, 93, 99]


class Quantised(nn.Module):
    """Two classes, whose logits tie wherever the mean is not above 1/2; argmax then says 0."""

    def forward(self, x):
        lead = (x.flatten(1).mean(dim=1) - 0.5).clamp(0).ceil()
        return torch.stack([torch.zeros_like(lead), lead], dim=1)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_square_keeps_ties_that_the_label_loses(norm):
    x = torch.full((2, 1, 6, 6), 0.51)
    y = torch.ones(2, dtype=torch.int64)
    found = candidates("square", norm, Quantised(), x, y, settings={})
    assert (Quantised()(found).argmax(dim=1) == 0).all()
    # A tie that the label wins is no adversarial example.
    x, y = torch.full((2, 1, 6, 6), 0.1), torch.zeros(2, dtype=torch.int64)
    assert torch.equal(candidates("square", norm, Quantised(), x, y), x)


class Labels(Rows):
    """Its logits are its prediction, one-hot."""

    def forward(self, x):
        return nn.functional.one_hot(super().forward(x).argmax(dim=1), 5).double()


ON_PREDICTIONS = [("hop-skip-jump", norm) for norm in NORMS] + [("rays", "Linf")]


@pytest.mark.parametrize(("name", "norm"), ON_PREDICTIONS)
def test_predictions_alone_suffice(name, norm):
    x, y = examples(Rows())
    found = candidates(name, norm, Labels(), x, y)
    assert torch.equal(found, candidates(name, norm, Rows(), x, y))
    assert (distance(found, x, norm) <= RADII[norm] * (1 + 1e-6)).all()
    n_found = int((Rows()(found).argmax(dim=1) != y).sum())
    white_box = candidates("fab-t", norm, Rows(), x, y)
    assert n_found >= int((Rows()(white_box).argmax(dim=1) != y).sum()) - 1 > 0


def test_one_hot_scores_hide_adversarial_examples_from_square():
    """The negative control: where predictions suffice, scores without slopes do not."""
    x, y = examples(Rows())
    visible, hidden = (
        int((Rows()(candidates("square", "L2", model, x, y)).argmax(dim=1) != y).sum())
        for model in (Rows(), Labels())
    )
    assert hidden < visible


@pytest.mark.parametrize(
    ("name", "norm", "n_queries"), [("hop-skip-jump", "L2", 5000), ("rays", "Linf", 5000)]
)
def test_the_budget_of_queries_is_kept(name, norm, n_queries):
    model = CountingModel(Rows())
    x, y = examples(model)
    found = candidates(
        name, norm, model, x[:1], y[:1], scale=0.01, settings={"n_queries": n_queries}
    )
    assert torch.equal(found, x[:1])
    # Flips that are tried ahead, and the pass of `wrap`.
    slack = 1.3 * n_queries if name == "rays" else 7
    assert 0.8 * n_queries < model.forward_passes <= n_queries + slack


def test_square_long_gives_up_on_no_example():
    model = CountingModel(Rows())
    x, y = examples(model)
    n_queries = 1500
    for name in ("square", "square-long"):
        model.forward_passes = 0
        candidates(name, "L2", model, x, y, scale=0.01, settings={"n_queries": n_queries})
        assert (model.forward_passes >= n_queries * len(x)) == (name == "square-long")


@pytest.mark.parametrize("n_queries", [1, 2, 3, 9])
def test_square_with_few_queries_takes_them_and_ends(n_queries):
    model = CountingModel(Rows())
    x, y = examples(model)
    found = candidates(
        "square-long", "L2", model, x, y, scale=0.01, settings={"n_queries": n_queries}
    )
    assert torch.equal(found, x)
    assert n_queries * len(x) <= model.forward_passes <= 64 * n_queries * len(x)


def broken_at(name, norm, *, scale=1.0, **settings):
    """Return which of 24 examples an attack breaks, at what distances, and its forward passes."""
    model = CountingModel(Rows())
    x, y = examples(model, n=24)
    model.forward_passes = 0
    found = candidates(name, norm, model, x, y, scale=scale, settings=settings, batch_size=64)
    passes = model.forward_passes
    with torch.no_grad():
        return model(found).argmax(dim=1) != y, distance(found, x, norm), passes


@pytest.mark.parametrize(("norm", "scale"), [("L2", 0.8), ("Linf", 0.7)])
def test_apgd_t_that_gives_up_breaks_the_same_for_less(norm, scale, monkeypatch):
    options = {"scale": scale, "n_iterations": 20}
    full, _, passes = broken_at("apgd-t", norm, **options)
    early, _, fewer = broken_at("apgd-t", norm, gives_up=True, **options)
    assert torch.equal(full, early)
    assert fewer < 0.85 * passes
    # The control gives up on every search.
    monkeypatch.setattr(apgd, "_HOPELESS", -1e9)
    rash, _, _ = broken_at("apgd-t", norm, gives_up=True, **options)
    assert rash.sum() < full.sum()


@pytest.mark.parametrize("norm", NORMS)
def test_fab_min_that_gives_up_comes_as_near_for_less(norm, monkeypatch):
    _, full, passes = broken_at("fab-min", norm, n_iterations=30, gives_up=False)
    _, early, fewer = broken_at("fab-min", norm, n_iterations=30)
    assert torch.equal(full, early)
    assert fewer < 0.9 * passes
    # The control gives up on every target that is not nearest at once.
    monkeypatch.setattr(fab, "_HOPELESS", {1: 0.0})
    _, rash, _ = broken_at("fab-min", norm, n_iterations=30)
    assert (rash > 1.1 * full).any()


def test_fab_min_leaves_out_classes_that_are_farther_away():
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


def test_targets_that_certificates_exclude_change_no_verdict(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU()), nn.Linear(12, 6))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    x = torch.rand(40, 1, 6, 6, generator=generator)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    options = {"attacks": "apgd-t,fab-t", "audit_share": 0.0, "certifiers": "lipschitz"}
    pruned = evaluate(model, (x, y), ThreatModel("L2", 0.1), **options)
    monkeypatch.setattr(ClassRadii, "of", lambda *_: None)
    whole = evaluate(model, (x, y), ThreatModel("L2", 0.1), **options)
    assert pruned.examples["status"].equals(whole.examples["status"])
    assert set(pruned.examples["status"]) >= {Status.BROKEN, Status.CERTIFIED, Status.UNDECIDED}
    assert pruned.summary["forward_passes"] < 0.8 * whole.summary["forward_passes"]
