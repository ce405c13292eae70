"""Models that are no function of their input: found out, flagged, and never certified."""

import random

import numpy as np
import pytest
import torch
from oracles import points
from oracles.functions import BySize, Dropping, Honest, Noisy, NoisyByNumpy, NoisyByPython
from oracles.networks import inputs
from oracles.networks import neural_ode as network

from robustbench_dyn import ThreatModel, evaluate, evaluate_grid, load_dataset, load_model
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.evaluation.api import as_dataset
from robustbench_dyn.models.determinism import differ, find_defects, seeded
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.identity import identify, remember
from robustbench_dyn.reporting.leaderboard import leaderboard
from robustbench_dyn.results.flags import NOT_A_FUNCTION
from robustbench_dyn.results.store import Store

DISTANCES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.45)
L2 = ThreatModel("L2", 0.25)
DATA = points(DISTANCES)


class ByFewness(Honest):
    """Takes an example alone for an image without a batch."""

    def spoil(self, logits, x):
        return logits * (2.0 if len(x) == 1 else 1.0)


class ByNeighbours(Honest):
    def spoil(self, logits, x):
        return logits + 0.1 * x.mean(dim=0).flatten()[:2]


class ByPlace(Honest):
    def spoil(self, logits, x):
        return logits + 0.01 * torch.arange(len(x))[:, None] * torch.tensor([1.0, 0.0])


class ByLargest(Honest):
    """What the largest entry of a whole batch scales, as an adaptive step size does."""

    def spoil(self, logits, x):
        return logits / x.max()


class ByGradMode(Honest):
    def spoil(self, logits, _x):
        return logits * (2.0 if torch.is_grad_enabled() else 1.0)


class Drifting(Honest):
    """Swaps the classes after some calls."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def spoil(self, logits, _x):
        return logits.flip(1) if self.calls > self.after else logits


CASES = [
    (Noisy, "random_outputs"),
    (NoisyByNumpy, "random_outputs"),
    (NoisyByPython, "random_outputs"),
    (Dropping, "random_outputs"),
    (BySize, "batch_coupled"),
    (ByFewness, "batch_coupled"),
    (ByNeighbours, "batch_coupled"),
    (ByPlace, "batch_coupled"),
    (ByLargest, "batch_coupled"),
    (ByGradMode, "depends_on_grad_mode"),
]


def certified(evaluation):
    return evaluation.summary["certified_accuracy"] * len(DISTANCES)


def test_a_function_is_flagged_by_nothing_and_certified():
    evaluation = evaluate(Honest(), DATA, L2, attacks="pgd")
    # It counts its calls, and states a bound.
    assert evaluation.summary["flags"] == "keeps_state self_declared_bound"
    assert certified(evaluation) > 0


@pytest.mark.parametrize(("model", "flag"), CASES)
def test_what_is_no_function_is_flagged_and_nothing_is_certified(model, flag):
    evaluation = evaluate(model(), DATA, L2, attacks="pgd")
    assert flag in evaluation.summary["flags"].split()
    assert certified(evaluation) == 0
    assert evaluation.summary["certifiers"] == "none"
    assert evaluation.examples["certified_radius"].isna().all()


def test_random_neighbours_reveal_a_coupling_alike_ones_hide():
    model, x = ByLargest(), torch.full((4, 1, 4, 4), 0.5)
    with frozen_eval(model):
        assert find_defects(model, x, seed=0, most=8)[1] == ["batch_coupled"]


def test_alone_in_its_batch_an_example_has_no_neighbours():
    evaluation = evaluate(BySize(), DATA, L2, attacks="pgd", batch_size=1)
    assert evaluation.summary["flags"] == "keeps_state self_declared_bound"
    assert certified(evaluation) > 0


@pytest.mark.parametrize("model", [Noisy, NoisyByNumpy, NoisyByPython, Dropping])
def test_identical_runs_agree_and_leave_random_states_alone(model):
    drawing, again = model(), model()
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    first = evaluate(drawing, DATA, L2, attacks="pgd")
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == random.getstate()
    for draw in (torch.rand, np.random.rand, lambda _: random.random()):
        draw(7)
    second = evaluate(again, DATA, L2, attacks="pgd")
    drop = ["seconds"]
    assert second.examples.drop(columns=drop).equals(first.examples.drop(columns=drop))
    assert second.key == first.key
    # What is clean does not depend on eps.
    other = evaluate(again, DATA, ThreatModel("L2", 0.1), attacks="pgd", certifiers="none")
    assert other.summary["clean_accuracy"] == first.summary["clean_accuracy"]
    # The control: another seed draws other numbers.
    with seeded("a"):
        one = torch.rand(1)
    with seeded("b"):
        assert torch.rand(1) != one


def test_random_outputs_get_the_suite_in_expectation():
    few = {"certifiers": "none", "audit_share": 0}
    for model, attacks, expected in (
        (Noisy(), "standard", "eot-apgd-ce"),
        (Honest(), "standard", "apgd-ce+fab-t+square"),
        (Noisy(), "pgd", "pgd"),
        (Noisy(), "none", "none"),
    ):
        evaluation = evaluate(model, DATA, L2, attacks=attacks, **few)
        assert evaluation.summary["attacks"] == expected
        ran = {step.stage for verdict in evaluation.verdicts for step in verdict.trail}
        assert ran <= set(expected.split("+"))


def test_a_change_during_the_run_withdraws_what_was_certified(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    honest = Honest()
    whole = evaluate(honest, DATA, L2, attacks="pgd", audit_share=0)
    assert certified(whole) == 3
    drifting = Drifting(honest.calls - 2)
    found = evaluate(drifting, DATA, L2, attacks="pgd", audit_share=0, store=store)
    assert found.summary["flags"].split()[0] == "changed_during_run"
    assert certified(found) == 0
    assert found.examples["certified_radius"].isna().all()
    # What was spared the attacks has met them now.
    assert set(found.examples["status"]) <= {"broken", "undecided"}
    assert all(any(s.stage == "pgd" for s in v.trail) for v in found.verdicts)
    assert leaderboard(store)["certified_accuracy"].tolist() == [0.0]


def test_a_change_at_a_later_eps_withdraws_all_certificates(tmp_path):
    grid, options = [L2, ThreatModel("L2", 0.15)], {"attacks": "pgd", "audit_share": 0}
    honest, store = Honest(), Store(tmp_path / "s.sqlite")
    evaluate(honest, DATA, L2, **options)
    at_first_eps = honest.calls
    assert all(certified(e) > 0 for e in evaluate_grid(Honest(), DATA, grid, **options))
    found = evaluate_grid(Drifting(at_first_eps + 1), DATA, grid, store=store, **options)
    for evaluation in found:
        assert "changed_during_run" in evaluation.summary["flags"]
        assert certified(evaluation) == 0
        assert all(not v.next_stage for v in evaluation.verdicts)
    assert leaderboard(store)["certified_accuracy"].tolist() == [0.0, 0.0]


def test_a_repeated_run_keeps_the_flags_and_needs_no_pass(tmp_path):
    model, data = BySize(), as_dataset(DATA, None)
    data = Dataset(**{**vars(data), "class_names": ("a", "b")})
    remember(model, identify(model, DATA[0], name="coupled"))
    # `auto` would trace the model.
    options = {"attacks": "pgd", "certifiers": "lipschitz", "store": tmp_path / "s.sqlite"}
    first = evaluate(model, data, L2, **options)
    assert "batch_coupled" in first.summary["flags"]
    model.calls = 0
    second = evaluate(model, data, L2, **options)
    assert model.calls == 0
    assert second.summary == first.summary
    # Nothing is certified from the store at another eps, either.
    third = evaluate(model, data, ThreatModel("L2", 0.01), **options)
    assert certified(third) == 0


def test_an_adaptive_solver_is_flagged_and_a_fixed_one_is_not():
    x = inputs()
    for method, flags in (("dopri5", ["batch_coupled"]), ("heun2", [])):
        model = network(method=method)
        with torch.no_grad():
            y = model(x).argmax(dim=1)
        row = evaluate(model, (x, y), L2, attacks="pgd", certifiers="none").summary
        assert row["flags"].split() == flags


@pytest.mark.parametrize("name", ["neural_ode", "naive_lipschitz", "lipflow", "sll"])
def test_networks_of_the_zoo_agree_within_rounding(name):
    for dataset in ("moons", "fashion_mnist"):
        model = load_model(name, dataset=dataset)
        x = load_dataset(dataset, n_examples=16).x
        with frozen_eval(model):
            assert find_defects(model, x, seed=0, most=250)[1] == []


def test_differences_are_measured_by_the_largest_logit():
    logits = torch.tensor([[1000.0, 0.0], [1.0, -1.0]])
    ulp = torch.finfo(torch.float32).eps * 1000
    assert not differ(logits, logits + 200 * ulp)
    assert differ(logits, logits + 300 * ulp)
    odd = torch.tensor([[torch.nan, torch.inf]])
    assert not differ(odd, odd.clone())
    assert differ(odd, torch.tensor([[torch.nan, -torch.inf]]))
    assert differ(odd, torch.tensor([[0.0, torch.inf]]))
    assert differ(torch.tensor([[0.0, 1.0]]), torch.tensor([[torch.nan, 1.0]]))


def test_a_model_that_fails_with_gradients_is_still_a_function():
    class Opaque(Honest):
        def spoil(self, logits, x):
            return logits + 0 * torch.from_numpy(x.numpy()).flatten(1)[:, :2]

    evaluation = evaluate(Opaque(), DATA, L2, attacks="pgd")
    assert not NOT_A_FUNCTION.intersection(evaluation.summary["flags"].split())
    assert "attack_failed:pgd" in evaluation.summary["flags"]
