"""Evaluations of models whose robustness is known, and against AutoAttack."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import Scale, halfspaces, points
from oracles.attacks import attack_of
from oracles.certifiers import proving
from torch import nn

from robustbench_dyn import (
    InputError,
    SoundnessError,
    ThreatModel,
    benchmark,
    evaluate,
    evaluate_grid,
    load_model,
)
from robustbench_dyn.attacks import PGD
from robustbench_dyn.certification.base import Phase, Proof
from robustbench_dyn.certification.certifiers.lipschitz import Lipschitz
from robustbench_dyn.cli.terminal import bracket_table
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import CertificateError, MachineError
from robustbench_dyn.evaluation import plan as engine
from robustbench_dyn.evaluation.api import as_dataset
from robustbench_dyn.flows import Classifier
from robustbench_dyn.models.identity import identify, remember
from robustbench_dyn.reporting.leaderboard import leaderboard
from robustbench_dyn.results.store import Store

DISTANCES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.45)
L2 = ThreatModel("L2", 0.25)


def statuses(evaluation):
    return list(evaluation.examples["status"])


def evidence(evaluation):
    """Everything that a verdict says, without what the clock says."""
    return evaluation.examples.drop(columns="seconds")


@pytest.fixture
def counted():
    """A model that counts its calls."""
    model = halfspaces()
    model.calls = 0

    class Counter(nn.Module):
        def forward(self, x):
            model.calls += 1
            return x

        def lipschitz_bound(self):
            return 1.0

    model.features.insert(0, Counter())
    return model


# What is known exactly


@pytest.mark.parametrize("attacks", ["pgd", "standard"])
def test_verdicts_are_those_that_the_exact_distances_give(attacks):
    evaluation = evaluate(halfspaces(), points(DISTANCES), L2, attacks=attacks)
    assert statuses(evaluation) == ["broken"] * 3 + ["certified"] * 3
    assert evaluation.summary["gap"] == 0
    table = evaluation.examples
    np.testing.assert_allclose(table["certified_radius"], DISTANCES, atol=5e-5)
    assert (table["certified_radius"] <= np.array(DISTANCES) * (1 + 1e-6)).all()
    broken = table[table["status"] == "broken"]
    assert (broken["adversarial_distance"] >= np.array(DISTANCES[:3]) * (1 - 1e-6)).all()
    assert (broken["adversarial_distance"] <= L2.eps).all()


def test_the_call_shapes_of_robustbench_work():
    model = load_model(model_name="lipflow", dataset="fashion_mnist", threat_model="L2")
    clean, robust = benchmark(
        model,
        n_examples=16,
        dataset="fashion_mnist",
        threat_model="L2",
        eps=1.0,
        batch_size=8,
        attacks="pgd",
    )
    assert 0 < robust < clean <= 1
    same = evaluate(model, "fashion_mnist", ThreatModel("L2", 1.0), n_examples=16, attacks="none")
    assert same.summary["clean_accuracy"] == clean


def test_without_certifiers_or_attacks_the_rest_is_undecided():
    attacked = evaluate(halfspaces(), points(DISTANCES), L2, attacks="pgd", certifiers=[])
    assert statuses(attacked) == ["broken"] * 3 + ["undecided"] * 3
    assert attacked.summary["certifiers"] == "none"
    certified = evaluate(halfspaces(), points(DISTANCES), L2, attacks="none")
    assert statuses(certified) == ["undecided"] * 3 + ["certified"] * 3
    assert certified.summary["empirical_accuracy"] is None
    assert certified.summary["gap"] is None


def test_misclassified_examples_stay_so_and_are_not_attacked():
    x, y = points(DISTANCES)
    evaluation = evaluate(halfspaces(), (x, 1 - y), L2, attacks="pgd")
    assert set(statuses(evaluation)) == {"misclassified"}
    assert evaluation.summary["backward_passes"] == 0
    assert evaluation.summary["clean_accuracy"] == 0


@pytest.mark.parametrize("n_classes", [2, 3])
def test_few_classes_get_right_verdicts(n_classes):
    model = halfspaces(n_classes=n_classes)
    data = points(DISTANCES, n_classes=n_classes)
    evaluation = evaluate(model, data, L2, attacks="standard")
    assert statuses(evaluation) == ["broken"] * 3 + ["certified"] * 3


# Soundness checks


def test_a_constant_of_1_05_that_claims_1_raises_soundness_error(tmp_path, believed):
    model = halfspaces(factor=1.05, claim=1.0)
    x, y = points([0.4] * 8)
    threat_model = ThreatModel("L2", 0.4 * 1.02)
    store = Store(tmp_path / "s.sqlite")
    with pytest.raises(SoundnessError, match=r"certified within 0\.4[12].*wrong") as raised:
        evaluate(model, (x, y), threat_model, attacks="pgd", store=store)
    for counterexample in raised.value.counterexamples:
        assert counterexample["adversarial_distance"] < counterexample["certified_radius"]
        with np.load(counterexample["path"]) as file:
            kept = dict(file)
        assert model(torch.from_numpy(kept["x_adv"])[None]).argmax() != int(kept["label"])
        distance = np.linalg.norm((kept["x_adv"] - kept["x"]).astype(float).ravel())
        assert distance <= kept["certified_radius"]
    assert leaderboard(store).empty
    with pytest.raises(SoundnessError):
        evaluate(model, (x, y), threat_model, attacks="pgd", store=store)


def test_a_counterexample_is_in_the_store_where_no_file_can_be_written(tmp_path, believed):
    (tmp_path / "counterexamples").write_text("in the way of the folder")
    store = Store(tmp_path / "s.sqlite")
    x, y = points([0.4] * 8)
    with pytest.raises(SoundnessError, match="inside a certified ball") as raised:
        evaluate(
            halfspaces(factor=1.05, claim=1.0),
            (x, y),
            ThreatModel("L2", 0.4 * 1.02),
            attacks="pgd",
            store=store,
        )
    assert [counterexample["path"] for counterexample in raised.value.counterexamples][:1] == [""]


def test_the_same_layer_with_its_true_bound_raises_nothing(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    evaluation = evaluate(
        halfspaces(factor=1.05),
        points([0.4] * 8),
        ThreatModel("L2", 0.408),
        attacks="apgd-ce",
        store=store,
    )
    assert set(statuses(evaluation)) == {"broken"}
    assert len(leaderboard(store)) == 1


@pytest.mark.parametrize("attacks", ["apgd-t", "fab-t", "apgd-t,fab-t", "standard"])
def test_an_audit_attacks_classes_that_its_certificate_excludes(attacks, believed):
    # Attacks on target classes leave out those that certificates exclude: here all of them.
    model = halfspaces(factor=1.05, claim=1.0, n_classes=4)
    data = points([0.4] * 8, n_classes=4)
    with pytest.raises(SoundnessError, match=r"certified within 0\.4[12].*wrong"):
        evaluate(model, data, ThreatModel("L2", 0.4 * 1.02), attacks=attacks)


def test_without_an_audit_a_wrong_certificate_goes_unseen(believed):
    # The negative control of the audit itself: without it the wrong certificate goes unseen.
    model = halfspaces(factor=1.05, claim=1.0)
    evaluation = evaluate(
        model, points([0.4] * 8), ThreatModel("L2", 0.408), attacks="pgd", audit_share=0
    )
    assert set(statuses(evaluation)) == {"certified"}
    assert evaluation.summary["flags"] == "self_declared_bound not_audited"


def test_at_least_six_certified_examples_are_audited_and_say_so():
    evaluation = evaluate(halfspaces(), points([0.4] * 12), L2, attacks="pgd", audit_share=0.01)
    audited = evaluation.examples["reason"].str.startswith("audited: survived pgd")
    assert audited.sum() == 6
    assert set(statuses(evaluation)) == {"certified"}


def after_idle(*provers):
    """Return options: certifiers that run after a first attack which finds nothing, then PGD."""
    late = [proving(name, prove, phase=Phase.AFTER_FIRST_ATTACK) for name, prove in provers]
    idle = attack_of(lambda problem: problem.x, name="idle")
    return {"attacks": [idle, "pgd"], "certifiers": [one.certifier for one in late]}


def proves_within(radius):
    """A prover that excludes every class from balls of at most this radius."""

    def prove(_state, x, logits, y, threat_model):
        holds = threat_model.eps if threat_model.eps <= radius else 0.0
        return Proof(torch.full(logits.shape, holds, dtype=torch.float64))

    return prove


def test_late_certificates_are_audited_by_the_next_attack():
    options = after_idle(("true", proves_within(0.39)))
    grid = [ThreatModel("L2", eps) for eps in (0.35, 0.41)]
    proved, left = evaluate_grid(halfspaces(), points([0.4] * 12), grid, **options)
    assert set(statuses(left)) == {"broken"}
    assert [cost.stage for cost in left.costs] == ["certify", "idle", "true", "pgd"]
    assert set(statuses(proved)) == {"certified"}
    decided = {cost.stage: (cost.examples, cost.decided) for cost in proved.costs}
    assert decided["idle"] == (12, 0)
    assert decided["true"] == (12, 12)
    assert decided["pgd"][0] == 6
    assert (proved.examples["reason"] == "audited: survived idle+pgd").sum() == 6


def test_a_wrong_late_certificate_raises_soundness_error():
    options = after_idle(("wrong", proves_within(0.45)))
    with pytest.raises(SoundnessError, match=r"certified within 0\.41"):
        evaluate(halfspaces(), points([0.4] * 12), ThreatModel("L2", 0.41), **options)


def test_survivors_of_a_larger_eps_meet_every_late_certifier():
    options = after_idle(("weak", proves_within(0.1)), ("strong", proves_within(0.3)))
    grid = [ThreatModel("L2", eps) for eps in (0.2, 0.35)]
    proved, left = evaluate_grid(halfspaces(), points([0.4] * 3), grid, audit_share=0, **options)
    assert set(statuses(left)) == {"undecided"}
    assert set(proved.examples["certifier"]) == {"strong"}
    assert (proved.examples["backward_passes"] == 0).all()


# Awkward models and inputs


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last = nn.Linear(16, 8), nn.Linear(8, 3)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())


def sample(model, n=8):
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    return x, model(x.clone().requires_grad_()).argmax(dim=1)


def test_softmax_outputs_are_flagged_and_logits_are_not():
    model = nn.Sequential(Network(), nn.Softmax(dim=1)).eval()
    data = sample(model)
    assert "softmax_outputs" in evaluate(model, data, L2, attacks="pgd").summary["flags"]
    assert evaluate(model[0], data, L2, attacks="pgd").summary["flags"] == ""


def test_flags_of_a_registered_model_are_there_in_every_run(tmp_path, monkeypatch):
    model = nn.Sequential(Network(), nn.Softmax(dim=1)).eval()
    data = replace(as_dataset(sample(model), None), class_names=("a", "b", "c"))
    with torch.no_grad():
        remember(model, identify(model, model(data.x), name="registered"))
    options = {"attacks": "pgd", "store": tmp_path / "s.sqlite"}
    rows = [evaluate(model, data, L2, n_examples=n, **options).summary for n in (4, 8, 4, 8)]
    assert [row["flags"] for row in rows] == ["softmax_outputs"] * 4
    other = evaluate(model, data, ThreatModel("L2", 0.1), **options).summary
    assert other["flags"] == "softmax_outputs"


def test_a_constant_network_is_never_certified():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    nn.init.zeros_(model[1].weight), nn.init.zeros_(model[1].bias)
    x, y = torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    evaluation = evaluate(model, (x, y), L2, attacks="pgd")
    # Every logit ties: class 0 is named, and nothing is proved.
    assert statuses(evaluation) == ["undecided", "misclassified", "misclassified"] * 2


def test_a_constant_network_with_a_margin_is_certified():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.tensor([0.0, 1.0, 0.0])
    evaluation = evaluate(model, (torch.rand(6, 1, 4, 4), torch.ones(6).long()), L2, attacks="pgd")
    assert set(statuses(evaluation)) == {"certified"}


def test_logits_that_are_not_finite_are_errors_and_never_robust():
    class Undefined(Network):
        def forward(self, x):
            logits = super().forward(x)
            return logits.masked_fill(x.flatten(1)[:, :1] > 0.5, torch.nan)

    x, y = sample(Network())
    evaluation = evaluate(Undefined(), (x, y), L2, attacks="pgd")
    bad = (x.flatten(1)[:, 0] > 0.5).tolist()
    assert any(bad)
    assert [status == "error" for status in statuses(evaluation)] == bad
    assert f"errors:{sum(bad)}" in evaluation.summary["flags"]
    assert evaluation.summary["empirical_accuracy"] <= 1 - sum(bad) / len(bad)


def test_a_network_that_differentiates_itself_is_evaluated():
    class Gradient(Network):
        def forward(self, x):
            if not x.requires_grad:
                x = x.detach().requires_grad_()
            energy = (x - 0.5).square().sum() / 2
            (gradient,) = torch.autograd.grad(energy, x, create_graph=True)
            return super().forward(x - 0.1 * gradient)

    model = Gradient()
    evaluation = evaluate(model, sample(model), ThreatModel("L2", 0.8), attacks="pgd")
    assert "broken" in statuses(evaluation)
    assert set(statuses(evaluation)) <= {"broken", "undecided"}


def test_a_model_in_train_mode_is_evaluated_in_eval_mode():
    def build():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 3))

    with torch.random.fork_rng():
        training, evaluating = build().train(), build().eval()
    data = sample(evaluating)
    first = evaluate(training, data, L2, attacks="pgd")
    assert training.training
    assert all(module.training for module in training.modules())
    assert torch.equal(training[1].running_mean, torch.zeros(16))
    assert all(parameter.requires_grad for parameter in training.parameters())
    second = evaluate(evaluating, data, L2, attacks="pgd")
    assert evidence(first).equals(evidence(second))


X, Y = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X * 255, Y, r"must lie in \[0, 1\]"),
        (X - 0.5, Y, r"must lie in \[0, 1\]"),
        (X * torch.nan, Y, "must lie in"),
        ((X * 255).byte(), Y, "float inputs"),
        (X, Y.float(), "integer labels"),
        (X, Y[:2], r"y as \(n,\)"),
        (X[:0], Y[:0], "at least 1"),
        (X, Y + 5, "labels go up to 6"),
        (X, Y - 1, "labels must be 0 or more"),
        (X.tolist(), Y.tolist(), r"pair \(x, y\) of tensors or arrays"),
        (X[:, :, :2], Y, "cannot classify inputs"),
    ],
)
def test_bad_inputs_get_one_clear_error(x, y, message):
    with pytest.raises(InputError, match=message):
        evaluate(halfspaces(), (x, y), L2, attacks="pgd")


DATASET = as_dataset((X, Y), None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": X * 255}, r"must lie in \[0, 1\]"),
        ({"x": X * torch.nan}, "must lie in"),
        ({"x": (X * 255).byte()}, "float inputs"),
        ({"y": Y.float()}, "integer labels"),
        ({"y": Y[:2]}, r"y as \(n,\)"),
        ({"y": Y - 1}, "labels must be 0 or more"),
        ({"ids": torch.zeros(4).long()}, "different for all"),
        ({"ids": torch.arange(3)}, "one for"),
        ({"ids": torch.arange(4) - 1}, "0 or more"),
        ({"ids": torch.rand(4)}, "integers"),
        ({"class_names": ("a",)}, r"labels go up to 1, but custom-[0-9a-f]{8} has 1 classes"),
        ({"class_names": ("a", "b"), "y": Y + 5}, "labels go up to 6"),
    ],
)
def test_a_dataset_goes_through_the_checks_that_tensors_do(change, message):
    evaluate(halfspaces(), DATASET, L2, attacks="none")
    with pytest.raises(InputError, match=message):
        evaluate(halfspaces(), replace(DATASET, **change), L2, attacks="pgd")


def test_bad_options_get_one_clear_error():
    for options, message in (
        ({"batch_size": 0}, "batch_size"),
        ({"audit_share": 2.0}, "audit_share"),
        ({"n_examples": 9}, "between 1 and the 4"),
        ({"attacks": "sqare"}, "did you mean"),
        ({"certifiers": "lipshitz"}, "did you mean"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(halfspaces(), (X, Y), L2, **options)
    with pytest.raises(InputError, match="8/255, not 8"):
        evaluate(halfspaces(), (X, Y), ThreatModel("L2", 8.0))
    with pytest.raises(InputError, match="one norm"):
        evaluate_grid(halfspaces(), (X, Y), [L2, ThreatModel("Linf", 0.1)])


class Returning(nn.Module):
    """Returns what a function makes of its inputs."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x):
        return self.outputs(x)


def test_any_logits_of_two_dimensions_are_evaluated():
    evaluation = evaluate(Returning(lambda x: x[:, 0, 0]), (X, Y), L2, attacks="pgd")
    assert len(evaluation.examples) == len(X)
    assert evaluation.summary["clean_accuracy"] == float((X[:, 0, 0].argmax(1) == Y).float().mean())


@pytest.mark.parametrize(
    ("outputs", "shape"),
    [
        (lambda x: x, r"\(4, 1, 4, 4\)"),
        (lambda x: (x.flatten(1),), "tuple"),
        (lambda x: x.flatten(1)[:, 0], r"\(4,\)"),
        (lambda x: x.flatten(1)[:2], r"\(2, 16\)"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(outputs, shape):
    with pytest.raises(InputError, match=f"must return logits .*it returned {shape}"):
        evaluate(Returning(outputs), (X, Y), L2, attacks="pgd")


# Attacks only search


def searcher(find):
    return attack_of(find, name="rogue")


@pytest.mark.parametrize(
    "find", [lambda p: p.x, lambda p: p.x * torch.nan, lambda p: p.x + torch.inf]
)
def test_candidates_that_fool_nothing_leave_examples_undecided(find, monkeypatch):
    evaluation = run_with(searcher(find))
    assert set(statuses(evaluation)) == {"undecided"}


def test_far_candidates_are_projected_before_they_are_checked(monkeypatch):
    def swapped(problem):
        """Go far beyond the plane between the two classes, and out of [0, 1]."""
        rows = problem.x.flatten(1)
        moved = rows.clone()
        moved[:, :2] = rows[:, :2] + 1e9 * (rows[:, :2].flip(1) - rows[:, :2])
        return moved.view_as(problem.x)

    evaluation = run_with(searcher(swapped))
    assert statuses(evaluation) == ["broken"] * 3 + ["undecided"] * 3
    x, _ = points(DISTANCES)
    for verdict in evaluation.verdicts[:3]:
        x_adv = torch.from_numpy(np.frombuffer(verdict.x_adv, np.float32).reshape(1, 4, 4).copy())
        moved = (x_adv.double() - x[verdict.example_id].double()).norm()
        assert verdict.adversarial_distance == pytest.approx(float(moved))
        assert moved <= L2.eps
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        assert halfspaces()(x_adv[None]).argmax() != verdict.label


def explode(_problem):
    raise RuntimeError("boom; survived nothing")


def run_with(*attacks, model=None, **options):
    options = {"certifiers": []} | options
    return evaluate(model or halfspaces(), points(DISTANCES), L2, attacks=attacks, **options)


def named(name, find):
    return attack_of(find, name=name)


def test_an_attack_that_fails_costs_no_accuracy_and_is_told(monkeypatch):
    found = run_with(searcher(explode), "pgd")
    row = found.summary
    assert statuses(found) == ["broken"] * 3 + ["undecided"] * 3
    assert (row["clean_accuracy"], row["empirical_accuracy"]) == (1, 0.5)
    assert row["ci_high"] > 0.5
    assert row["flags"] == "attack_failed:rogue:6"
    assert row["attacks"] == "rogue(failed)+pgd"
    reason = found.examples["reason"][5]
    assert reason == "survived pgd; rogue failed: RuntimeError: boom; survived nothing"
    # The control: without the failure the numbers are the same, and nothing is told.
    whole = run_with("pgd").summary
    assert whole["flags"] == ""
    for column in ("clean_accuracy", "empirical_accuracy", "gap", "ci_low", "ci_high"):
        assert whole[column] == row[column]


def test_an_attack_that_fails_on_some_examples_did_not_fail(monkeypatch):
    def now_and_then(problem):
        if float(problem.x[0, 0, 0, 0]) > 0.8:
            raise RuntimeError("too bright")
        return problem.x

    chain = [named("moody", now_and_then), named("idle", lambda p: p.x)]
    row = run_with(*chain, batch_size=1).summary
    assert row["flags"] == "attack_failed:moody:1"
    assert row["attacks"] == "moody+idle"


def test_a_row_says_that_every_attack_failed(monkeypatch):
    found = run_with(searcher(explode), named("other", explode))
    assert set(statuses(found)) == {"undecided"}
    assert found.summary["clean_accuracy"] == found.summary["empirical_accuracy"] == 1
    assert found.summary["flags"] == "attack_failed:other:6 attack_failed:rogue:6 unattacked:6"
    assert found.summary["attacks"] == "rogue(failed)+other(failed)"
    assert found.examples["reason"].str.startswith("no attack ran to its end; rogue failed").all()
    # What is certified by the model's own bound counts only once an attack on it has ended.
    found = run_with(searcher(explode), certifiers="auto")
    flags = "self_declared_bound attack_failed:rogue:6 unattacked:6"
    assert found.summary["flags"] == flags
    assert statuses(found) == ["undecided"] * 6
    assert "withdrawn: the model states its bound itself" in found.examples["reason"].iloc[-1]
    # What is proved of known layers is certified nevertheless, and the row says how.
    found = run_with(searcher(explode), certifiers="interval")
    assert found.summary["flags"] == "attack_failed:rogue:6 unattacked:3 not_audited"
    assert statuses(found) == ["undecided"] * 3 + ["certified"] * 3


def test_the_table_names_the_attacks_that_failed_on_all_examples(monkeypatch, capsys):
    bracket_table([run_with(searcher(explode), "pgd")])
    printed = capsys.readouterr().out
    assert "attacked with pgd" in printed
    assert "rogue failed on all 6 examples it was run on: RuntimeError: boom" in printed


@pytest.mark.parametrize("text", ["boom; survived nothing", "next: none", "; next: pgd; ", ""])
def test_the_text_of_an_error_steers_nothing(text, monkeypatch):
    def raising(_problem):
        raise RuntimeError(text)

    calls = []
    chain = [named(k, lambda p, k=k: (calls.append(k), p.x)[1]) for k in ("b", "c")]
    found = run_with(named("a", raising), *chain)
    assert calls == ["b", "c"]
    trail = found.verdicts[0].trail
    assert [(step.stage, step.outcome.value) for step in trail] == [
        ("a", "failed"),
        ("b", "survived"),
        ("c", "survived"),
    ]
    assert trail[0].message == f"RuntimeError: {text}"
    assert found.verdicts[0].next_stage == ""


def test_a_failed_attack_runs_again_at_another_eps_alone(monkeypatch, tmp_path):
    fails, calls = [True], []

    def find(problem):
        calls.append(problem.threat_model.eps)
        if fails[0]:
            raise RuntimeError("out of order")
        return problem.x

    options = {"store": tmp_path / "s.sqlite"}
    run_with(searcher(find), **options)
    fails[0] = False
    run_with(searcher(find), **options)
    assert calls == [L2.eps]
    data, smaller = points(DISTANCES), ThreatModel("L2", 0.1)
    options |= {"attacks": [searcher(find)], "certifiers": []}
    found = evaluate(halfspaces(), data, smaller, **options)
    assert calls == [L2.eps, 0.1]
    assert found.summary["flags"] == ""


# Certifiers fail, too


def raises(error):
    def prove(_state, _x, _logits, _y, _threat_model):
        raise error

    return prove


def test_a_certifier_that_fails_is_told_and_the_run_goes_on():
    faulty = raises(ValueError("zip; next: pgd"))
    options = after_idle(("faulty", faulty), ("true", proves_within(0.45)))
    found = evaluate(halfspaces(), points([0.3, 0.4]), L2, **options)
    assert statuses(found) == ["certified"] * 2
    assert found.summary["flags"] == "certifier_failed:faulty:2"
    assert set(found.examples["certifier"]) == {"true"}
    trail = found.verdicts[0].trail
    assert [(step.stage, step.outcome.value) for step in trail[:3]] == [
        ("idle", "survived"),
        ("faulty", "not applicable"),
        ("true", "certified"),
    ]
    assert trail[1].message == "ValueError: zip; next: pgd"


def test_a_failure_on_the_clean_pass_is_flagged_at_every_eps(monkeypatch):
    faulty = proving("faulty", raises(ValueError("out of order")), phase=Phase.CLEAN)
    options = {"attacks": "pgd", "certifiers": [faulty.certifier]}
    grid = [ThreatModel("L2", eps) for eps in (0.35, 0.15)]
    for found in evaluate_grid(halfspaces(), points(DISTANCES), grid, **options):
        assert found.summary["flags"] == "certifier_failed:faulty:6"
        assert found.summary["empirical_accuracy"] > 0


def test_a_certifier_out_of_memory_halves_the_batch_and_then_waits():
    sizes = []

    def prove(_state, x, logits, _y, threat_model):
        sizes.append(len(x))
        if len(x) > fits[-1]:
            raise MemoryError
        return proves_within(0.45)(None, x, logits, None, threat_model)

    options = after_idle(("large", prove))
    data, fits = points([0.3, 0.4] * 4), []
    fits.append(2)
    found = evaluate(halfspaces(), data, L2, batch_size=8, **options)
    assert set(statuses(found)) == {"certified"}
    assert sizes[:3] == [8, 4, 2]
    fits.append(0)
    sizes.clear()
    with pytest.raises(MachineError, match=r"8 of 8 examples at eps 0\.\d+ wait for large"):
        evaluate(halfspaces(), data, L2, batch_size=8, **options)
    assert sizes[:4] == [8, 4, 2, 1]


def test_what_auto_cannot_use_is_kept_and_shown_with_the_reason(capsys):
    class Faulty(Network):
        def lipschitz_bound(self):
            raise ValueError("no such norm")

        def forward(self, x):
            return super().forward(x.atan())

    found = evaluate(Faulty(), sample(Network()), L2, attacks="pgd")
    assert "certifier_failed:lipschitz" in found.summary["flags"].split()
    assert found.not_applicable["lipschitz"] == "ValueError: no such norm"
    assert "'atan'" in found.not_applicable["interval"]
    # What a certifier says of a model is no failure.
    assert "certifier_failed:interval" not in found.summary["flags"]
    bracket_table([found])
    printed = capsys.readouterr().out
    assert "lipschitz: not run: ValueError: no such norm" in printed
    assert "interval, linear_relaxation" in printed
    reasons = {attempt.certifier: attempt.not_applicable for attempt in found.attempts}
    assert reasons == found.not_applicable
    with pytest.raises(CertificateError, match="'lipschitz' cannot be prepared"):
        evaluate(Faulty(), sample(Network()), L2, certifiers="lipschitz")


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_padding_by_word_is_certified_as_padding_by_number(padding):
    def build(given):
        generator = torch.Generator().manual_seed(0)
        size = 4 if padding == "same" else 2
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=given), nn.ReLU(), nn.Flatten(), nn.Linear(2 * size**2, 3)
        )
        for parameter in model.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        return model.eval()

    number = {"valid": 0, "same": 1}[padding]
    data = sample(build(number))
    options = {"attacks": "pgd", "certifiers": "interval,linear_relaxation"}
    by_word, by_number = (
        evaluate(build(given), data, ThreatModel("Linf", 0.02), **options)
        for given in (padding, number)
    )
    assert "certified" in statuses(by_word)
    assert evidence(by_word).equals(evidence(by_number))
    assert "certifier_failed" not in evaluate(build(padding), data, L2).summary["flags"]


# Sharing work


def test_several_eps_share_their_work_and_agree_with_single_runs(counted):
    grid = [ThreatModel("L2", eps) for eps in (0.35, 0.15, 0.25)]
    data = points([0.05, 0.1, 0.2, 0.3, 0.4, 0.45])
    together = evaluate_grid(counted, data, grid, attacks="pgd")
    calls = counted.calls
    assert [evaluation.threat_model for evaluation in together] == grid
    counted.calls = 0
    alone = [evaluate(counted, data, threat_model, attacks="pgd") for threat_model in grid]
    assert calls < counted.calls
    for shared, single in zip(together, alone, strict=True):
        assert statuses(shared) == statuses(single)


def test_a_second_identical_run_makes_no_pass(counted, tmp_path, monkeypatch):
    remember(counted, identify(counted, points(DISTANCES)[0], name="counted"))
    dataset = as_dataset(points(DISTANCES), None)
    dataset = Dataset(**{**vars(dataset), "class_names": ("a", "b")})
    # `auto` would trace the model.
    options = {"attacks": "pgd", "certifiers": "lipschitz", "store": tmp_path / "s.sqlite"}
    first = evaluate(counted, dataset, L2, **options)
    assert counted.calls > 0
    counted.calls = 0
    second = evaluate(counted, dataset, L2, **options)
    assert counted.calls == 0
    assert second.summary == first.summary
    assert second.examples.equals(first.examples)
    # The negative control: another seed is another evaluation.
    evaluate(counted, dataset, L2, seed=1, **options)
    assert counted.calls > 0


@pytest.mark.parametrize("part", ["Certifier", "Attack", "package"])
def test_what_another_version_proved_or_found_is_not_taken_over(part, tmp_path, monkeypatch):
    options = {"attacks": "pgd", "store": tmp_path / "s.sqlite"}
    first = evaluate(halfspaces(), points(DISTANCES), L2, **options)
    if part == "Certifier":
        monkeypatch.setattr(Lipschitz, "version", Lipschitz.version + 1)
    elif part == "Attack":
        monkeypatch.setattr(PGD, "version", PGD.version + 1)
    assert (evaluate(halfspaces(), points(DISTANCES), L2, **options).key == first.key) == (
        part == "package"
    )
    monkeypatch.setattr(engine, "__version__", "99")
    assert evaluate(halfspaces(), points(DISTANCES), L2, **options).key != first.key


def test_a_suite_has_another_key_than_its_members(tmp_path):
    # Where a class for DLR is missing, the suite's Auto-PGD has five restarts instead of one.
    data, options = points(DISTANCES), {"store": tmp_path / "s.sqlite"}
    suite = evaluate(halfspaces(), data, L2, attacks="standard", **options)
    members = suite.summary["attacks"].replace("+", ",")
    assert evaluate(halfspaces(), data, L2, attacks=members, **options).key != suite.key


def test_more_examples_reuse_what_is_known(counted, tmp_path):
    data, options = points(DISTANCES), {"attacks": "pgd", "store": tmp_path / "s.sqlite"}
    few = evaluate(counted, data, L2, n_examples=3, **options)
    many = evaluate(counted, data, L2, **options)
    assert few.summary["n_examples"] == 3
    assert many.summary["n_examples"] == 6
    # Seconds and all: the first three were taken from the store.
    assert many.examples[:3].equals(few.examples)
    other = evaluate(counted, data, L2, attacks="pgd", store=tmp_path / "other.sqlite")
    assert not other.examples[:3].equals(few.examples)


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_verdicts(tmp_path):
    model = Network()
    data = sample(model, n=24)
    threat_model = ThreatModel("L2", 0.3)
    options = {"attacks": "pgd,apgd-ce", "batch_size": 4}
    whole = evaluate(model, data, threat_model, **options)
    assert len(set(statuses(whole))) > 1
    for stop_at in (3, 8, 11):
        reports = []

        def interrupt(report, reports=reports, stop_at=stop_at):
            reports.append(report)
            if len(reports) == stop_at:
                raise KeyboardInterrupt

        store = tmp_path / f"{stop_at}.sqlite"
        with pytest.raises(KeyboardInterrupt):
            evaluate(model, data, threat_model, store=store, progress=interrupt, **options)
        resumed = evaluate(model, data, threat_model, store=store, **options)
        columns = ["status", "adversarial_distance", "attack", "certified_radius", "reason"]
        assert resumed.examples[columns].equals(whole.examples[columns])


def test_progress_counts_up_to_all_examples():
    reports = []
    evaluate(halfspaces(), points(DISTANCES), L2, attacks="pgd", progress=reports.append)
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    assert reports[0].stage == "certify"
    assert [report.stage for report in reports[1:]] == ["pgd", "pgd", "done"]
    assert reports[-1].done == reports[-1].total == len(DISTANCES)
    assert sum(reports[-1].counts.values()) == len(DISTANCES)


# Against AutoAttack


@pytest.mark.slow
def test_an_evaluation_agrees_with_plain_autoattack(monkeypatch):
    from pyautoattack import AutoAttack  # noqa: PLC0415

    monkeypatch.setattr("pyautoattack.checks.check_dynamic", lambda *_, **__: None)
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU()), nn.Linear(12, 10))
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    model.eval()
    x = torch.rand(16, 1, 6, 6, generator=generator)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    threat_model = ThreatModel("L2", 0.12)
    evaluation = evaluate(model, (x, y), threat_model, attacks="standard", seed=5)
    theirs = AutoAttack(model, norm="L2", eps=0.12, seed=5, version="standard")
    x_adv, _ = theirs.run_standard_evaluation(x, y, batch_size=16)
    with torch.no_grad():
        robust = model(x_adv).argmax(dim=1) == y
    table = evaluation.examples
    assert 0 < robust.float().mean() < 1
    assert not (table["status"][~robust.numpy()] == "certified").any()
    assert evaluation.summary["empirical_accuracy"] <= float(robust.float().mean())
    assert evaluation.summary["certified_accuracy"] > 0


# The summary


def test_a_row_adds_up():
    evaluation = evaluate(halfspaces(), points(DISTANCES), L2, attacks="pgd")
    row, table = evaluation.summary, evaluation.examples
    assert row["certified_accuracy"] <= row["empirical_accuracy"] <= row["clean_accuracy"]
    assert math.isclose(row["gap"], row["empirical_accuracy"] - row["certified_accuracy"])
    assert row["ci_low"] <= row["certified_accuracy"]
    assert row["empirical_accuracy"] <= row["ci_high"]
    assert row["forward_passes"] == table["forward_passes"].sum() > len(DISTANCES)
    assert row["backward_passes"] == table["backward_passes"].sum() > 0
    assert row["lipschitz_bound"] >= 1


def test_a_model_that_no_certifier_knows_is_attacked_only():
    class Arctangent(Network):
        def forward(self, x):
            return super().forward(x.atan())

    evaluation = evaluate(Arctangent(), sample(Network()), L2, attacks="pgd")
    assert evaluation.summary["certifiers"] == "none"
    assert evaluation.summary["lipschitz_bound"] is None
    assert evaluation.summary["certified_accuracy"] == 0
    with pytest.raises(InputError):
        evaluate(Network(), sample(Network()), L2, certifiers="no-such")


def test_scale_claims_what_it_is():
    assert Scale(1.05).lipschitz_bound() == 1.05
    assert Scale(1.05, 1.0).lipschitz_bound() == 1.0


class Keeping(nn.Module):
    """Keeps its scaled weights once its parameters are frozen; honest or with an old scale."""

    def __init__(self, kept_scale):
        super().__init__()
        self.weight, self.kept_scale = nn.Parameter(torch.eye(3, 64)), kept_scale

    def forward(self, x):
        scale = 2.0 if self.weight.requires_grad else self.kept_scale
        return x.flatten(1) @ (scale * self.weight).t()


def test_a_network_that_keeps_something_stale_is_refused():
    data = (torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))
    options = {"attacks": "none", "certifiers": "none"}
    evaluate(Keeping(2.0), data, ThreatModel("L2", 0.5), **options)
    with pytest.raises(InputError, match=r"differ by .* from those of its forward in training"):
        evaluate(Keeping(1.9), data, ThreatModel("L2", 0.5), **options)


def test_a_network_that_draws_at_random_is_not_called_stale():
    class Dicing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(3, 64))

        def forward(self, x):
            return x.flatten(1) @ self.weight.t() + torch.rand(len(x), 3)

    data = (torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))
    found = evaluate(Dicing(), data, ThreatModel("L2", 0.5), attacks="none", certifiers="none")
    # Its two forwards differ, too, but so do two of the same kind.
    assert found.summary["flags"] == "random_outputs"
    assert len(found.examples) == 4
