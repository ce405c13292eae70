"""Attacks on samples in the pipeline: who is attacked, in one run, in several, and in shards."""

from dataclasses import replace

import pytest
import torch
from oracles import halfspaces, points
from oracles.attacks import attack_of

from robustbench_dyn import Status, ThreatModel, evaluate, evaluate_grid
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.sampling import is_spared
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.verdicts import Outcome, Sign, Verdict
from robustbench_dyn.verification.consistency import contradictions_within

L2 = ThreatModel("L2", 0.25)
# Not one of them can be broken within eps.
ROBUST = [0.3 + 0.006 * k for k in range(30)]
# Examples that the gradient-free attack below breaks lie at distances within eps.
WEAK = 0.2


def blind(problem):
    """Find nothing, as an attack does that masked gradients mislead."""
    return problem.x


def across(problem):
    """Step across the only boundary of the half spaces."""
    x_adv = problem.x.flatten(1).clone()
    x_adv[:, :2] = x_adv[:, :2].mean(dim=1, keepdim=True)
    rows = torch.arange(len(x_adv))
    x_adv[rows, 1 - problem.y] += 1e-3
    return x_adv.reshape(problem.x.shape)


def suite(*, sampled=True):
    second = attack_of(across, name="second", gradient_free=True)
    return [
        attack_of(blind, name="first"),
        replace(second, sampled=sampled),
        replace(attack_of(blind, name="third", gradient_free=True), sampled=sampled),
    ]


def data(distances):
    x, y = points(distances)
    return Dataset(
        x=x, y=y, ids=torch.arange(len(x)), name="points", split="test", class_names=("a", "b")
    )


def attacked(distances=ROBUST, attacks=None, model=None, threat_model=L2, **options):
    options = {"certifiers": [], "progress": False} | options
    return evaluate(
        model or halfspaces(),
        data(distances),
        threat_model,
        attacks=suite() if attacks is None else attacks,
        **options,
    )


def ran(evaluation, attack):
    return {
        v.example_id
        for v in evaluation.verdicts
        for s in v.trail
        if s.stage == attack and s.outcome in (Outcome.SURVIVED, Outcome.BROKEN)
    }


def spared(evaluation, attack):
    return {v.example_id for v in evaluation.verdicts if is_spared(v, attack)}


def statuses(evaluation):
    return [verdict.status for verdict in evaluation.verdicts]


def test_an_attack_that_finds_nothing_runs_on_a_sample():
    found = attacked()
    assert len(ran(found, "first")) == 30
    assert len(ran(found, "second")) == len(ran(found, "third")) == 5
    assert ran(found, "second") != ran(found, "third")
    assert spared(found, "second") == set(range(30)) - ran(found, "second")
    assert found.summary["attacks"] == "first+second(sample)+third(sample)"
    assert found.summary["empirical_accuracy"] == 1
    left = [v for v in found.verdicts if v.example_id in spared(found, "second")]
    assert all("spared second" in v.reason and not v.next_stage for v in left)


def test_attacks_that_are_not_sampled_run_on_all():
    found = attacked(attacks=suite(sampled=False))
    assert len(ran(found, "second")) == 30
    assert found.summary["attacks"] == "first+second+third"


def test_few_survivors_are_all_attacked():
    found = attacked(ROBUST[:5])
    assert len(ran(found, "second")) == 5
    assert found.summary["attacks"] == "first+second+third"


def test_a_hit_in_the_sample_leads_to_all():
    found = attacked([WEAK] * 30)
    assert statuses(found) == [Status.BROKEN] * 30
    assert found.summary["flags"] == "second_beats_white_box:30"


def test_a_hit_outside_of_the_sample_is_missed():
    # What a sample costs: it is seen here that examples are spared in earnest.
    sample = ran(attacked(), "second")
    outside = next(i for i in range(30) if i not in sample)
    distances = [WEAK if i == outside else d for i, d in enumerate(ROBUST)]
    assert attacked(distances).verdicts[outside].status is Status.UNDECIDED
    full = attacked(distances, suite(sampled=False))
    assert full.verdicts[outside].status is Status.BROKEN


def test_a_later_hit_calls_back_the_spared():
    sample = ran(attacked(), "third")
    early = ran(attacked(), "second")
    weak = next(iter(sample - early))
    distances = [WEAK if i == weak else d for i, d in enumerate(ROBUST)]
    blind_second = attack_of(blind, name="second", gradient_free=True)
    sharp_third = attack_of(across, name="third", gradient_free=True)
    attacks = [replace(attack, sampled=True) for attack in (blind_second, sharp_third)]
    found = attacked(distances, [suite()[0], *attacks])
    assert found.verdicts[weak].status is Status.BROKEN
    assert spared(found, "second") == spared(found, "third") == set()
    assert len(ran(found, "second")) >= 29


def test_signs_of_masked_gradients_lead_to_all():
    class Rounded(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.smooth = halfspaces()

        def forward(self, x):
            # The prediction alone, and a gradient of zero.
            logits = self.smooth(x)
            return torch.nn.functional.one_hot(logits.argmax(dim=1), 2) + 0 * logits

    found = attacked(model=Rounded())
    assert len(ran(found, "second")) == len(ran(found, "third")) == 30
    assert "(sample)" not in found.summary["attacks"]


def test_a_failing_attack_before_it_leads_to_all():
    def fail(_problem):
        raise RuntimeError("no graph")

    broken = attack_of(fail, name="zeroth")
    found = attacked(attacks=[broken, *suite()])
    assert len(ran(found, "second")) == 30


# Several runs


class StoppedError(Exception):
    """A run was stopped."""


@pytest.mark.parametrize(
    ("stage", "distances"),
    [("second", ROBUST), ("third", ROBUST), ("second", [WEAK] * 30)],
)
def test_a_run_that_goes_on_draws_the_same_sample(stage, distances, tmp_path):
    store, calls = tmp_path / "s.sqlite", []

    def stop(progress):
        calls.append(progress.stage == stage)
        if sum(calls) == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        attacked(distances, store=store, progress=stop, batch_size=2)
    resumed = attacked(distances, store=store, batch_size=2)
    undisturbed = attacked(distances, batch_size=2)
    assert [v.trail for v in resumed.verdicts] == [v.trail for v in undisturbed.verdicts]
    assert resumed.summary["attacks"] == undisturbed.summary["attacks"]


def test_a_repeated_run_changes_nothing(tmp_path):
    store = tmp_path / "s.sqlite"
    first, again = attacked(store=store), attacked(store=store)
    assert [v.trail for v in first.verdicts] == [v.trail for v in again.verdicts]
    assert first.summary == again.summary
    assert first.costs == again.costs


def test_a_run_of_more_examples_draws_anew(tmp_path):
    store = tmp_path / "s.sqlite"
    few = evaluate(
        halfspaces(), data(ROBUST), L2, n_examples=12, attacks=suite(), certifiers=[], store=store
    )
    many = attacked(store=store)
    assert len(ran(few, "second")) == 5
    assert ran(many, "second") >= ran(attacked(), "second")
    assert statuses(many) == [Status.UNDECIDED] * 30
    # And a row of fewer examples rests on a sample of its own.
    part = evaluate(
        halfspaces(), data(ROBUST), L2, first=20, attacks=suite(), certifiers=[], store=store
    )
    assert len(ran(part, "second")) >= 5


def test_runs_without_an_example_that_is_called_back_are_kept(tmp_path):
    path = tmp_path / "s.sqlite"
    options = {"attacks": suite(), "certifiers": [], "store": path}
    evaluate(halfspaces(), data(ROBUST), L2, n_examples=12, **options)
    before = evaluate(halfspaces(), data(ROBUST), L2, first=12, **options)
    whole = evaluate(halfspaces(), data(ROBUST), L2, first=20, n_examples=5, **options)
    # All five are in their own sample, and some of them were in no other.
    assert ran(whole, "second") == {20, 21, 22, 23, 24}
    assert ran(whole, "second") - ran(before, "second")
    assert [run[2:4] for run in Store(path).runs()] == [(0, 12), (20, 5)]


def test_a_hit_among_new_examples_calls_back_the_old_ones(tmp_path):
    store = tmp_path / "s.sqlite"
    distances = [*ROBUST[:20], *[WEAK] * 10]
    old = attacked(distances, n_examples=20, store=store)
    assert old.summary["attacks"] == "first+second(sample)+third(sample)"
    new = attacked(distances, store=store)
    assert statuses(new) == [Status.UNDECIDED] * 20 + [Status.BROKEN] * 10
    assert len(ran(new, "second")) == 30
    assert new.summary["attacks"] == "first+second+third"
    again = attacked(distances, n_examples=20, store=store)
    assert again.summary["attacks"] == "first+second+third"


def test_shards_take_each_others_hits_into_account(tmp_path):
    store = tmp_path / "s.sqlite"
    distances = [*ROBUST[:20], *[WEAK] * 10]
    options = {"attacks": suite(), "certifiers": [], "store": store}
    evaluate(halfspaces(), data(distances), L2, first=20, **options)
    later = evaluate(halfspaces(), data(distances), L2, n_examples=20, **options)
    assert len(ran(later, "second")) == 20


def test_survival_at_a_larger_eps_counts_in_the_sample():
    larger, smaller = evaluate_grid(
        halfspaces(),
        data(ROBUST),
        [ThreatModel("L2", 0.29), ThreatModel("L2", 0.25)],
        attacks=suite(),
        certifiers=[],
    )
    assert ran(larger, "second") == ran(smaller, "second")
    assert smaller.summary["forward_passes"] == 0


# Audited certificates


def test_audited_examples_are_sampled_beside_the_undecided():
    far = attacked(certifiers="lipschitz")
    assert statuses(far) == [Status.CERTIFIED] * 30
    assert len(ran(far, "first")) == 6
    assert len(ran(far, "second")) == 1
    # No example that counts on attacks was spared one.
    assert far.summary["attacks"] == "first+second+third"


# Evidence


@pytest.fixture(scope="module")
def evidence():
    store = Store(None)
    found = attacked(store=store)
    return Evidence(
        record=store.record(found.key),
        eps=L2.eps,
        verdicts=found.verdicts,
        flags=(),
        signs=(),
        evaluated_at="2026-01-31T12:00:00+00:00",
    )


def said(evidence):
    return " ".join(finding.message for finding in contradictions_within(evidence))


def changed(evidence, attack, old, new, n):
    """Return evidence in which the steps of n examples have another outcome."""
    verdicts, left = list[Verdict](), n
    for verdict in evidence.verdicts:
        trail = verdict.trail
        if left and any((s.stage, s.outcome) == (attack, old) for s in trail):
            left -= 1
            trail = tuple(s._replace(outcome=new) if s.stage == attack else s for s in trail)
        verdicts.append(replace(verdict, trail=trail))
    return replace(evidence, verdicts=tuple(verdicts))


def test_an_honest_sample_is_no_contradiction(evidence):
    assert said(evidence) == ""
    assert evidence.row()["attacks"] == "first+second(sample)+third(sample)"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (("second", Outcome.SURVIVED, Outcome.SPARED, 1), "second was run on 4 of the 30"),
        # Nothing but a suite may have an attack on a sample.
        (("first", Outcome.SURVIVED, Outcome.SPARED, 1), "first was run on 29 of the 30"),
    ],
)
def test_a_sample_that_is_too_small_is_told(changes, expected, evidence):
    assert expected in said(changed(evidence, *changes))


def test_a_sample_despite_signs_is_told(evidence):
    with_signs = replace(evidence, signs=(Sign("zero_gradients", 1.0),))
    assert "second was run on 5 of the 30" in said(with_signs)
