"""The transfer attack: surrogates reveal adversarial examples that masked gradients hide."""

import pytest
import torch
from oracles import halfspaces, points
from oracles.networks import Rows, examples
from torch import nn

from robustbench_dyn import InputError, ThreatModel, evaluate
from robustbench_dyn.attacks import AttackProblem, Transfer, resolve_attacks
from robustbench_dyn.attacks.native import transfer
from robustbench_dyn.models.counting import CountingModel, surrogates_of
from robustbench_dyn.threat_models import distance

# None so small that a random start in 16 dimensions crosses the boundary.
DISTANCES = (0.18, 0.2, 0.22, 0.3, 0.35, 0.4)
L2 = ThreatModel("L2", 0.25)


class Masked(nn.Module):
    """A smooth network on rounded inputs: the same regions, and no gradient anywhere."""

    def __init__(self, smooth, surrogates=(), levels=1024):
        super().__init__()
        self.smooth, self.named, self.levels = smooth, dict(surrogates), levels

    def forward(self, x):
        return self.smooth((x * self.levels).round() / self.levels)

    def surrogates(self):
        return self.named


def masked(**surrogates):
    """Return the oracle of known distances without gradients, and with some surrogates."""
    return Masked(halfspaces(), surrogates)


def misleading():
    """Return a classifier of the same points that looks at other coordinates."""
    other = halfspaces()
    other.head.weight.data = other.head.weight.data.roll(5, dims=1)
    other.head.bias = nn.Parameter(torch.tensor([1e-3, 0.0]))
    return other


def attacked(model, attacks, data=None, **options):
    return evaluate(model, data or points(DISTANCES), L2, attacks=attacks, certifiers=[], **options)


def broken_by(evaluation):
    return [row.attack for row in evaluation.examples.itertuples()]


# What is known exactly


def test_transfer_breaks_what_masked_gradients_hide():
    evaluation = attacked(masked(smooth=halfspaces()), "apgd-ce,transfer")
    assert broken_by(evaluation) == ["transfer"] * 3 + [""] * 3
    assert (evaluation.examples["adversarial_distance"][:3] <= L2.eps).all()


def test_the_white_box_attack_alone_finds_nothing_behind_the_mask():
    assert broken_by(attacked(masked(smooth=halfspaces()), "apgd-ce")) == [""] * 6
    # The same attack where nothing masks.
    assert broken_by(attacked(halfspaces(), "apgd-ce")) == ["apgd-ce"] * 3 + [""] * 3


def test_a_surrogate_that_masks_its_gradients_is_no_help():
    evaluation = attacked(masked(masked=masked()), "transfer")
    assert broken_by(evaluation) == [""] * 6


def test_points_that_fool_a_surrogate_alone_do_not_end_the_search():
    data = points(DISTANCES)
    only = attacked(masked(misleading=misleading()), "transfer", data)
    assert broken_by(only) == [""] * 6
    # The misleading surrogate is fooled at once, which is no help; the next one is.
    both = masked(misleading=misleading(), smooth=halfspaces())
    assert broken_by(attacked(both, "transfer", data)) == ["transfer"] * 3 + [""] * 3


def test_the_points_that_lower_the_margin_most_are_kept():
    model = masked(misleading=misleading(), smooth=halfspaces())
    x, y = points((0.3, 0.35, 0.4))
    found = search(model, x, y, L2, n_classes=2)
    margins = (model(found).gather(1, y[:, None]) - model(found).gather(1, 1 - y[:, None]))[:, 0]
    assert (distance(found, x, "L2") <= L2.eps * (1 + 1e-6)).all()
    # The exact distance to the boundary less eps, up to the rounding of the inputs.
    left = 2**0.5 * (torch.tensor([0.3, 0.35, 0.4]) - L2.eps)
    torch.testing.assert_close(margins, left, rtol=0, atol=2e-3)


def search(model, x, y, threat_model, *, n_classes=5, batch_size=8, **settings):
    return Transfer(**settings).search(
        model, x, y, threat_model, seed=3, batch_size=batch_size, n_classes=n_classes
    )


@pytest.mark.parametrize(
    ("norm", "eps", "n_classes"), [("L2", 0.14, 3), ("L2", 0.35, 5), ("Linf", 0.03, 5)]
)
def test_candidates_do_not_depend_on_the_batch(norm, eps, n_classes):
    smooth = Rows(n_classes)
    model = Masked(smooth, {"first": smooth, "second": Masked(Rows(n_classes))}, levels=64)
    x, y = examples(model, n=10)
    threat_model = ThreatModel(norm, eps)

    def found(rows, batch_size=64):
        return search(
            model,
            x[rows],
            y[rows],
            threat_model,
            n_classes=n_classes,
            batch_size=batch_size,
            n_iterations=12,
        )

    together = found(torch.arange(10))
    assert torch.equal(together, torch.cat([found([k]) for k in range(10)]))
    order = torch.tensor([4, 1, 5, 0, 3, 2, 9, 8, 7, 6])
    assert torch.equal(together[order], found(order))
    assert torch.equal(together, found(torch.arange(10), batch_size=1))
    assert not torch.equal(together, x)


def test_of_equal_margins_the_lowest_trial_is_kept_in_any_order():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(model[1].weight)
    x, y = torch.zeros(1, 1, 2, 2), torch.tensor([0])
    model[1].bias.data = torch.tensor([1.0, 0.0])
    radii = torch.zeros(1, 2)
    points = {trial: torch.full((1, 1, 2, 2), 0.1 * trial) for trial in (2, 1, 3)}

    def best(*groups):
        kept = transfer._BestPoints(AttackProblem(model, x, y, L2, 0, 2, 8, radii))
        for trials in groups:
            tried = torch.cat([points[trial] for trial in trials])
            example = torch.zeros(len(trials), dtype=torch.int64)
            assert not kept(example, torch.tensor(trials), tried, tried).any()
        return kept.x

    for groups in ([[2, 1, 3]], [[1], [2], [3]], [[3], [2, 1]], [[2], [3], [1]]):
        assert torch.equal(best(*groups), points[1])


# The suite, and the row


def test_the_row_names_transfer_where_there_are_surrogates():
    data = points((0.2, 0.4))
    with_surrogates = attacked(masked(smooth=halfspaces()), "standard", data).summary
    # Rounded inputs are a mask, on whose signs more attacks are run.
    attacks, on_signs = "apgd-ce+fab-t+square", "+hop-skip-jump+square-long"
    assert with_surrogates["attacks"] == f"{attacks}+transfer{on_signs}"
    assert attacked(halfspaces(), "standard", data).summary["attacks"] == attacks


def test_transfer_by_name_needs_surrogates():
    with pytest.raises(InputError, match=r"'transfer' needs surrogates.*names none"):
        attacked(halfspaces(), "apgd-ce,transfer")
    with pytest.raises(InputError, match="supports L2, Linf, not L1"):
        resolve_attacks("transfer", "L1", 10)


@pytest.mark.parametrize(
    ("attacks", "flags"),
    [
        ("apgd-ce,transfer", "no_gradients transfer_beats_white_box:3"),
        ("transfer", "no_gradients"),
        ("transfer,apgd-ce", "no_gradients"),
    ],
)
def test_the_row_says_where_transfer_beats_the_white_box(attacks, flags):
    assert attacked(masked(smooth=halfspaces()), attacks).summary["flags"] == flags


def test_no_flag_where_the_white_box_breaks_as_much():
    class Open(Masked):
        def forward(self, x):
            return self.smooth(x)

    model = Open(halfspaces(), {"smooth": halfspaces()})
    evaluation = attacked(model, "apgd-ce,transfer")
    assert broken_by(evaluation) == ["apgd-ce"] * 3 + [""] * 3
    assert evaluation.summary["flags"] == ""


def test_other_surrogates_make_another_evaluation():
    models = (
        masked(),
        masked(smooth=halfspaces()),
        masked(other=misleading()),
        masked(smooth=halfspaces()),
    )
    keys = [attacked(model, "apgd-ce").key for model in models]
    assert len(set(keys)) == 3
    assert keys[1] == keys[3]


@pytest.mark.parametrize("named", [None, [nn.Flatten()], {"a": "b"}])
def test_surrogates_that_are_no_modules_are_refused(named):
    model = halfspaces()
    model.surrogates = lambda: named
    with pytest.raises(InputError, match="must return a dict of names to modules"):
        attacked(model, "standard")


def test_surrogates_of_other_classes_are_refused():
    with pytest.raises(InputError, match=r"surrogate 'wide' returns \(24, 3\)"):
        attacked(masked(wide=halfspaces(n_classes=3)), "standard")


# The model and its surrogates are used as they are, and given back so


def test_passes_on_surrogates_count():
    surrogate, model = halfspaces(), masked()
    model.named["smooth"] = surrogate
    seen = {surrogate: 0, model: 0}
    for module in (surrogate, model):
        module.register_forward_hook(
            lambda module, inputs, _: seen.update({module: seen[module] + len(inputs[0])})
        )
    counted = CountingModel(model)
    x, y = points(DISTANCES)
    search(counted, x, y, L2, n_classes=2)
    assert counted.forward_passes == sum(seen.values())
    assert min(seen.values()) > 100
    # One pass finds out whether the surrogate needs a graph; the model has no gradient.
    assert 0 < counted.backward_passes <= seen[surrogate]


def test_surrogates_run_frozen_and_come_back_as_they_were():
    states = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = halfspaces()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, x):
            states.append((self.norm.training, self.inside.head.weight.requires_grad))
            return self.inside(self.norm(x))

    surrogate = Watched().train()
    x, y = points(DISTANCES)
    search(masked(watched=surrogate), x, y, L2, n_classes=2)
    assert states
    assert set(states) == {(False, False)}
    assert surrogate.norm.training
    assert surrogate.inside.head.weight.requires_grad
    assert surrogate.inside.head.weight.grad is None
    assert int(surrogate.norm.num_batches_tracked) == 0


def test_a_surrogate_that_fails_is_recorded():
    class Failing(nn.Module):
        def forward(self, x):
            if torch.is_grad_enabled():
                raise ValueError("out of order")
            return halfspaces()(x)

    evaluation = attacked(masked(failing=Failing()), "apgd-ce,transfer")
    assert set(evaluation.examples["status"]) == {"undecided"}
    assert "transfer failed: ValueError: out of order" in evaluation.examples["reason"][0]
    assert evaluation.summary["flags"] == (f"no_gradients attack_failed:transfer:{len(DISTANCES)}")


def test_a_model_without_surrogates_has_none():
    assert surrogates_of(halfspaces()) == {}
    x, y = points(DISTANCES)
    assert torch.equal(search(halfspaces(), x, y, L2, n_classes=2), x)
