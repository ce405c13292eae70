"""Models that cheat: each is caught, flagged, gains nothing, or is known not to be caught."""

import pytest
import torch
from oracles.cheats import (
    CHEATS,
    N_EXAMPLES,
    NOT_TELLING,
    Report,
    X,
    Y,
    head,
    honest,
    liar,
    linear,
    outcome,
    report,
    truth,
)
from torch import nn

from robustbench_dyn import ThreatModel, evaluate
from robustbench_dyn.errors import SoundnessError
from robustbench_dyn.lipschitz.bounds import pairwise_lipschitz
from robustbench_dyn.lipschitz.declared import (
    declared_bounds,
    largest_excess,
    refute_declared_bounds,
)
from robustbench_dyn.models.fingerprint import fingerprint
from robustbench_dyn.models.forward import call
from robustbench_dyn.models.loading import discover, load_model
from robustbench_dyn.models.validation import are_probabilities, flat_outputs, lacks_gradients
from robustbench_dyn.results.store import Store

QUICK = {
    "honest",
    "honest_claim",
    "claim_and_raise_with_gradients",
    "switching_parametrization",
    "false_comparison",
    "frame_reader",
    "spoofed_name",
}
CASES = [
    pytest.param(cheat, id=cheat.name, marks=[] if cheat.name in QUICK else pytest.mark.slow)
    for cheat in CHEATS
]


@pytest.mark.parametrize("cheat", CASES)
def test_a_cheat_ends_as_it_is_known_to(cheat):
    found = report(cheat)
    assert outcome(found, truth(N_EXAMPLES)) == cheat.expected, found
    # What is proved of a cheat that nothing gives away is no more than what is true.
    if cheat.expected != "not caught":
        assert found.certified <= truth(N_EXAMPLES).robust or found.flags
    assert bool(cheat.why_not) == (cheat.expected == "not caught")


def test_the_honest_classifier_has_the_numbers_that_are_true():
    true, found = truth(N_EXAMPLES), report(next(c for c in CHEATS if c.name == "honest"))
    assert found == Report(true.clean, true.certified, true.robust, "", "")


def test_outcomes_tell_numbers_that_are_too_good():
    true = truth(N_EXAMPLES)
    better = Report(true.clean, true.robust + 1, true.robust + 1, "self_declared_bound", "")
    assert outcome(better, true) == "not caught"
    assert outcome(better._replace(flags="keeps_state"), true) == "flagged"
    assert outcome(better._replace(flags="refuted_bound"), true) == "caught"
    assert outcome(better._replace(certified=true.robust, empirical=true.robust), true) == (
        "harmless"
    )
    assert all(":" not in flag for flag in NOT_TELLING)


# Bounds that a model states of itself


@pytest.mark.parametrize("factor", [1.005, 1.1, 2.0, 100.0])
def test_the_search_finds_the_factor_of_a_false_bound(factor):
    model = liar(factor)
    excess = largest_excess(model, pairwise_lipschitz(model), X[:4])
    assert excess == pytest.approx(factor, rel=1e-3)
    assert "is wrong" in refute_declared_bounds(model, X[:4], batch_size=64)


def test_the_search_believes_a_true_bound():
    model = liar(3.0, 3.0)
    assert 0.99 < largest_excess(model, pairwise_lipschitz(model), X[:4]) <= 1
    assert refute_declared_bounds(model, X[:4], batch_size=64) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", list(discover()))
def test_the_search_believes_every_shipped_model(name):
    model = load_model(name, dataset="moons")
    x = torch.rand(4, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    assert declared_bounds(model) == []
    try:
        bounds = pairwise_lipschitz(model)
    except Exception:
        pytest.skip("it has no bound")
    assert largest_excess(model.requires_grad_(False), bounds, x) <= 1 + 1e-3


def test_a_false_bound_proves_nothing_now_or_from_a_warm_store():
    store, options = Store(), {"attacks": "apgd-ce"}
    data = (X[:20], Y[:20])
    first = evaluate(liar(2.0), data, ThreatModel("L2", 0.5), store=store, **options)
    assert first.summary["certified_accuracy"] == 0
    assert first.summary["lipschitz_bound"] is None
    assert "rises 2 times as fast" in " ".join(first.not_applicable.values())
    again = evaluate(liar(2.0), data, ThreatModel("L2", 0.5), store=store, **options)
    assert again.summary == first.summary
    smaller = evaluate(liar(2.0), data, ThreatModel("L2", 0.1), store=store, **options)
    assert smaller.summary["certified_accuracy"] == 0
    assert "refuted_bound" in smaller.summary["flags"]


@pytest.mark.parametrize("factor", [2.0, 100.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_audit_catches_a_false_bound_by_itself(factor, seed, believed):
    with pytest.raises(SoundnessError):
        evaluate(
            liar(factor), (X[:100], Y[:100]), ThreatModel("L2", 0.5), attacks="apgd-ce", seed=seed
        )


def test_the_audit_lets_a_true_bound_pass(believed):
    row = evaluate(
        liar(2.0, 2.0), (X[:100], Y[:100]), ThreatModel("L2", 0.5), attacks="apgd-ce"
    ).summary
    assert row["flags"] == "self_declared_bound"
    assert row["certified_accuracy"] == truth(100).certified / 100


# Single defences


class Same(torch.Tensor):
    """Equal to everything."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        found = super().__torch_function__(function, types, args, kwargs)
        return torch.zeros_like(found) if function is torch.Tensor.ne else found


def test_an_output_is_a_plain_tensor_and_keeps_its_gradient():
    class Spoilt(nn.Module):
        def forward(self, x):
            return (2 * x).as_subclass(Same)

    x = torch.rand(2, 3, requires_grad=True)
    logits = call(Spoilt(), x)
    assert type(logits) is torch.Tensor
    assert bool((logits != 0).all())
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert torch.equal(gradient, torch.full((2, 3), 2.0))


def test_flat_outputs_are_told_and_others_are_not():
    logits, beside = torch.rand(4, 10), torch.rand(4, 10)
    assert flat_outputs(logits, beside) == []
    assert flat_outputs(logits.round(), logits.round()) == ["piecewise_constant"]
    assert flat_outputs(1e-6 * logits, 1e-6 * beside) == ["tiny_logits"]
    assert flat_outputs(1 + 1e-5 * logits, 1 + 1e-5 * beside)[0] == "tiny_logits"
    assert not are_probabilities(logits)


def test_missing_gradients_are_told_and_others_are_not():
    class Cut(nn.Module):
        def forward(self, x):
            return linear()(x).detach() + 0 * x.sum()

    assert lacks_gradients(Cut(), X[:4], seed=0)
    assert not lacks_gradients(honest(), X[:4], seed=0)


def test_a_counter_is_told_and_a_function_is_not():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = linear(), 0

        def forward(self, x):
            self.calls += 1
            return self.inner(x)

    options = {"attacks": "apgd-ce", "certifiers": "none"}
    rows = [
        evaluate(model, (X[:8], Y[:8]), ThreatModel("L2", 0.1), **options).summary["flags"]
        for model in (Counting(), linear())
    ]
    assert rows == ["keeps_state", ""]


def test_noise_beside_the_grid_of_the_data_is_random():
    class Rounded(nn.Module):
        def forward(self, x):
            noise = torch.rand_like(x) - 0.5
            return linear()((16 * x + 0.9 * noise).round() / 16)

    options = {"attacks": "none", "certifiers": "none"}
    row = evaluate(Rounded(), (X[:8], Y[:8]), ThreatModel("L2", 0.1), **options).summary
    assert "random_outputs" in row["flags"]


def test_a_class_that_names_the_package_is_not_of_it():
    class Posing(nn.Module):
        def forward(self, x):
            return x

        def lipschitz_bound(self):
            return 1.0

    assert declared_bounds(Posing()) == ["Posing"]
    Posing.__module__ = "robustbench_dyn.flows.euler"
    assert declared_bounds(Posing()) == ["Posing"]
    assert declared_bounds(linear()) == []
    assert fingerprint(head())
