"""Signs of masked gradients: each mask shows one, and honest networks show none."""

import pytest
import torch
from masked_gradients import MASKS, UNMASKED, Masked
from oracles import halfspaces, points
from oracles.records import record, stages
from torch import nn

from robustbench_dyn import (
    Status,
    ThreatModel,
    evaluate,
    evaluate_grid,
    load_dataset,
    load_model,
)
from robustbench_dyn.attacks.wrapping import posed
from robustbench_dyn.evaluation import masking
from robustbench_dyn.evaluation.masking import (
    beyond_chance,
    failed_white_box,
    find_signs,
)
from robustbench_dyn.models import counting
from robustbench_dyn.models.counting import CountingModel
from robustbench_dyn.results.exchange import copy_part, merge
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.summary import gradient_free_gains
from robustbench_dyn.results.verdicts import Sign, Verdict

# Those behind which gradients still lead to adversarial examples.
HARMLESS = {"none", "logits * 1e6", "logits * 1e-12", "tanh", "softmax", "sigmoid 60"}
L2 = ThreatModel("L2", 0.25)


@pytest.fixture(scope="module")
def feedforward():
    return load_model("feedforward", dataset="fashion_mnist").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def data():
    return load_dataset("fashion_mnist", n_examples=40)


def signs(model, data):
    with torch.no_grad():
        correct = model(data.x).argmax(dim=1) == data.y
    found = find_signs(
        model, data.x[correct], data.y[correct], n_classes=10, batch_size=250, seed=0
    )
    return {sign.name: sign.value for sign in found}


# The model alone


@pytest.mark.parametrize("mask", sorted(set(MASKS) - HARMLESS))
def test_each_mask_shows_a_sign(mask, feedforward, data):
    found = signs(Masked(feedforward, MASKS[mask]), data)
    name = "wrong_gradients" if mask in ("negated", "sine") else "zero_gradients"
    assert found[name] > 0.15


@pytest.mark.parametrize("mask", sorted(HARMLESS))
def test_what_does_not_mask_shows_none(mask, feedforward, data):
    assert signs(Masked(feedforward, MASKS[mask]), data) == {}


@pytest.mark.parametrize("name", UNMASKED)
def test_honest_networks_show_none(name, data):
    assert signs(load_model(name, dataset="fashion_mnist").eval(), data) == {}


def test_a_network_without_a_graph_has_no_gradients(data):
    class Raising(nn.Module):
        def forward(self, x):
            return torch.tensor(x.numpy().reshape(len(x), -1)[:, :10])

    with torch.no_grad():
        y = Raising()(data.x).argmax(dim=1)
    assert find_signs(Raising(), data.x, y, n_classes=10, batch_size=9, seed=0) == [
        Sign("zero_gradients", 1.0)
    ]


def test_running_out_of_memory_is_no_sign(data):
    class Large(nn.Module):
        def forward(self, x):
            if torch.is_grad_enabled():
                raise MemoryError
            return x.flatten(1)[:, :10]

    with pytest.raises(MemoryError):
        signs(Large(), data)


def test_without_examples_there_is_no_sign(feedforward, data):
    nothing = find_signs(feedforward, data.x[:0], data.y[:0], n_classes=10, batch_size=9, seed=0)
    assert nothing == []


def test_the_search_for_signs_is_cheap_and_changes_nothing(feedforward, data):
    model = CountingModel(feedforward).train()
    with torch.no_grad():
        y = feedforward(data.x).argmax(dim=1)
    before = torch.get_rng_state()
    find_signs(model, data.x, y, n_classes=10, batch_size=250, seed=0)
    assert model.forward_passes < 8 * masking.N_EXAMPLES
    assert model.backward_passes < 4 * masking.N_EXAMPLES
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_gradients_are_called_zero_from_a_share_on(share):
    gradient = torch.ones(20, 1, 2, 2)
    gradient[: int(20 * share)] = 0
    found = masking.zero_gradients(gradient)
    assert (found is not None) == (share > masking.ZERO_GRADIENTS)
    gradient[0] = torch.nan
    assert (masking.zero_gradients(gradient) is not None) == (share > masking.ZERO_GRADIENTS)


def test_large_eps_breaks_a_linear_classifier(data):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with torch.no_grad():
        y = linear(data.x).argmax(dim=1)
    eps = ThreatModel("Linf", masking.LARGE_EPS)
    with posed(linear, data.x, y, eps, seed=0, n_classes=10, batch_size=250) as problem:
        assert masking.large_eps_accuracy(problem) is None
        constant = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).requires_grad_(False)
        constant[1].weight.zero_()
        stubborn = problem._replace(model=constant, y=torch.full_like(y, constant[1].bias.argmax()))
        assert masking.large_eps_accuracy(stubborn) == Sign("accuracy_at_large_eps", 1.0)


# Verdicts


GRADIENT_FREE = ("square", "aa-square", "transfer", "hop-skip-jump", "rays", "square-long")


def specs(*names):
    return [spec for name in names for spec in stages(name, gradient_free=name in GRADIENT_FREE)]


def broken(example_id, attack):
    return Verdict(example_id, 0, 0, Status.BROKEN, 0.5, adversarial_distance=0.5, attack=attack)


@pytest.mark.parametrize(
    ("attacks", "expected"),
    [
        (["apgd-ce", "square"], [Sign("square_beats_white_box", 2)]),
        (["square", "apgd-ce"], []),
        (["square"], []),
        (["aa-apgd-ce", "aa-square"], []),
        (
            ["apgd-ce", "square", "hop-skip-jump"],
            [Sign("square_beats_white_box", 2), Sign("hop_skip_jump_beats_white_box", 1)],
        ),
    ],
)
def test_gains_of_black_box_attacks_are_counted(attacks, expected):
    verdicts = [
        broken(k, a) for k, a in enumerate(["apgd-ce", "square", "square", "hop-skip-jump"])
    ]
    assert gradient_free_gains(verdicts, specs(*attacks)) == expected


def test_the_authors_square_counts_as_square():
    gains = gradient_free_gains([broken(0, "aa-square")], specs("aa-apgd-ce", "aa-square"))
    assert [str(gain) for gain in gains] == ["square_beats_white_box:1"]


def test_few_gains_among_many_examples_are_chance():
    gain = Sign("square_beats_white_box", 2)
    assert beyond_chance([gain], 999) == [gain]
    assert beyond_chance([gain], 1000) == []


def test_white_box_attacks_that_all_failed_are_a_sign():
    attacks = ["apgd-ce", "fab-t", "square"]
    assert failed_white_box(specs(*attacks), {"apgd-ce", "fab-t"}) == [Sign("white_box_failed", 2)]
    assert failed_white_box(specs(*attacks), {"apgd-ce", "square"}) == []
    assert failed_white_box(specs("square"), {"square"}) == []


# What follows from signs


class Rounded(nn.Module):
    """A linear classifier of known distances that tells its prediction alone."""

    def __init__(self):
        super().__init__()
        self.smooth = halfspaces()

    def forward(self, x):
        return nn.functional.one_hot(self.smooth(x).argmax(dim=1), 2) + 0 * self.smooth(x)


DISTANCES = (0.1, 0.15, 0.2, 0.22, 0.3, 0.4)


def attacked(model, attacks="standard", **options):
    return evaluate(model, points(DISTANCES), L2, attacks=attacks, certifiers=[], **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Runs of the standard suite on either model: its evaluation and its store."""
    runs = {}
    for kind in (Rounded, halfspaces):
        store = tmp_path_factory.mktemp("run") / "s.sqlite"
        runs[kind] = attacked(kind(), store=store), store
    return runs


SUITES = ["standard", pytest.param("autoattack", marks=pytest.mark.slow)]


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_on_signs_further_attacks_join_the_suite(suite, finished):
    evaluation = finished[Rounded][0] if suite == "standard" else attacked(Rounded(), suite)
    summary = evaluation.summary
    assert summary["attacks"].endswith("square+hop-skip-jump+square-long")
    assert "zero_gradients:1" in summary["flags"]
    assert "hop_skip_jump_beats_white_box" in summary["flags"]
    # The oracle's distances: four of six lie within eps.
    assert summary["empirical_accuracy"] == 2 / 6
    left = evaluation.examples[evaluation.examples["status"] == Status.UNDECIDED]
    assert left["reason"].str.endswith("hop-skip-jump+square-long").all()


@pytest.mark.parametrize("suite", SUITES)
def test_without_signs_nothing_is_added(suite, finished):
    evaluation = finished[halfspaces][0] if suite == "standard" else attacked(halfspaces(), suite)
    assert evaluation.summary["attacks"].endswith("square")
    assert evaluation.summary["flags"] == ""
    left = evaluation.examples[evaluation.examples["status"] == Status.UNDECIDED]
    assert left["reason"].str.endswith("square").all()
    stages = [cost.stage for cost in evaluation.costs]
    assert "signs" in stages
    assert "hop-skip-jump" not in stages


def test_no_attack_joins_attacks_that_were_named():
    evaluation = attacked(Rounded(), "apgd-ce,square")
    assert evaluation.summary["attacks"] == "apgd-ce+square"
    assert "signs" not in [cost.stage for cost in evaluation.costs]


@pytest.mark.parametrize("kind", [Rounded, halfspaces])
def test_a_repeated_run_computes_nothing(kind, finished, monkeypatch):
    first, store = finished[kind]
    counted, calling = [], counting.call

    def call(model, x):
        counted.append(len(x))
        return calling(model, x)

    monkeypatch.setattr(counting, "call", call)
    again = attacked(kind(), store=store)
    assert first.summary == again.summary
    # The identity of an unregistered model, whether it is a function, and its predictions.
    assert 0 < sum(counted) <= 130


@pytest.mark.slow
def test_a_run_stopped_before_the_last_attack_goes_on(finished, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(progress):
        if progress.stage == "square-long":
            raise StoppedError

    undisturbed, _ = finished[Rounded]
    with pytest.raises(StoppedError):
        attacked(Rounded(), store=tmp_path / "s.sqlite", progress=stop)
    resumed = attacked(Rounded(), store=tmp_path / "s.sqlite")
    reasons = [list(evaluation.examples["reason"]) for evaluation in (undisturbed, resumed)]
    assert reasons[0] == reasons[1]
    assert undisturbed.summary["flags"] == resumed.summary["flags"]
    assert undisturbed.summary["forward_passes"] == resumed.summary["forward_passes"]


def test_passes_of_the_search_for_signs_are_charged(finished):
    evaluation, _ = finished[halfspaces]
    assert sum(c.forward_passes for c in evaluation.costs) == evaluation.summary["forward_passes"]
    assert sum(c.backward_passes for c in evaluation.costs) == evaluation.summary["backward_passes"]


def test_signs_are_kept_and_merged(tmp_path):
    stores = [Store(tmp_path / name) for name in ("a.sqlite", "b.sqlite")]
    for store, value in zip(stores, (0.5, 0.75), strict=True):
        store.add_evaluation("k", record())
        store.add_signs("k", 0.5, [Sign("zero_gradients", value)])
    stores[1].close()
    merge(stores[0], tmp_path / "b.sqlite")
    assert stores[0].signs("k", 0.5) == [Sign("zero_gradients", 0.75)]
    assert stores[0].signs("k", 0.25) == []
    copy_part(stores[0], tmp_path / "c.sqlite", ["k"], range(1))
    assert Store(tmp_path / "c.sqlite").signs("k", 0.5) == [Sign("zero_gradients", 0.75)]


def test_signs_of_the_model_are_looked_for_once():
    evaluations = evaluate_grid(
        halfspaces(),
        points(DISTANCES),
        [ThreatModel("L2", eps) for eps in (0.12, 0.25)],
        certifiers=[],
    )
    stages = [[cost.stage for cost in evaluation.costs] for evaluation in evaluations]
    assert sum(names.count("signs") for names in stages) == 1
