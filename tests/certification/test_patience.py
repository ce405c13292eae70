"""The time of certifiers: where it is over they give up, and no verdict is wrong for it."""

import itertools
import math
import time
from contextlib import closing

import pytest
import torch
from torch import nn

from robustbench_dyn import ThreatModel, evaluate, evaluate_distances, evaluate_grid
from robustbench_dyn.certification.base import Certifier, Phase, Proof
from robustbench_dyn.certification.bounds import intermediate
from robustbench_dyn.certification.catalogue import (
    CERTIFIERS,
    certifier_names,
    resolve_certifiers,
    select_certifiers,
)
from robustbench_dyn.certification.patience import OutOfTime, Patience
from robustbench_dyn.errors import InputError
from robustbench_dyn.results.spec import EvaluationSpec
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.verdicts import Outcome, Status

L2 = ThreatModel("L2", 0.05)
N = 6
# Of a specification before there were budgets.
KEY = "90f1d170754c7ef73558333e8c063b4f8020669a7b1e8d7339863eb15115daf8"


class Slow(Certifier[None]):
    """Takes SECONDS of operations for each batch, and then proves the ball."""

    name = "slow"
    description = "sleeps"
    phase = Phase.BEFORE_ATTACKS
    seconds = 0.0
    in_preparation = 0.0

    def prepare(self, model, input_shape, *, strict_rounding=False):
        wait(type(self).in_preparation)

    def prove(self, state, x, logits, y, threat_model):
        wait(type(self).seconds)
        radii = torch.full(logits.shape, threat_model.eps, dtype=torch.float64)
        right = logits.argmax(dim=1) == y
        radii = radii.where(right[:, None], 0.0)
        return Proof(radii.scatter(1, y[:, None], math.inf))


def wait(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        torch.zeros(1).add(1)


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(Slow, "seconds", 0.0)
    monkeypatch.setattr(Slow, "in_preparation", 0.0)
    return Slow()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).eval()


@pytest.fixture(scope="module")
def data(model):
    x = torch.rand(N, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    return x, model(x).argmax(dim=1)


def run(model, data, certifiers, seconds, **options):
    return evaluate(
        model, data, L2, attacks="none", certifiers=certifiers, certify_seconds=seconds, **options
    )


def test_time_is_looked_at_before_each_operation():
    now = 0.0
    patience, done = Patience(3.0, clock=lambda: now), 0
    with pytest.raises(OutOfTime), patience.spending():
        for _ in range(10):
            torch.zeros(1)
            now, done = now + 1, done + 1
    assert done == 3
    assert patience.over
    with pytest.raises(OutOfTime), patience.spending():
        raise AssertionError("nothing is begun once the time is over")
    patience.renew()
    with patience.spending():
        torch.zeros(1)


LOOKING = [name for name in certifier_names() if CERTIFIERS.get(name).looks_at_time]


@pytest.mark.parametrize("name", LOOKING)
def test_a_certifier_that_looks_at_time_ends_between_two_layers(name):
    """Its operations are not watched: what does not look at the time goes on to its end."""
    torch.manual_seed(0)
    layers = [part for _ in range(3) for part in (nn.Linear(9, 9), nn.ReLU())]
    model = nn.Sequential(nn.Flatten(), *layers, nn.Linear(9, 3)).requires_grad_(False)
    x, ticks = torch.rand(2, 1, 3, 3), itertools.count()
    logits = model(x)
    (prepared,) = resolve_certifiers(name, model, (1, 3, 3), "Linf")
    patience = Patience(3.0, clock=lambda: next(ticks))
    with pytest.raises(OutOfTime), patience.spending(watched=False):
        prepared.prove(x, logits, logits.argmax(dim=1), ThreatModel("Linf", 0.3))
    assert next(ticks) < 10


def test_relaxations_and_searches_look_at_the_time():
    assert {"interval", "linear_relaxation", "complete"} <= set(LOOKING)


def test_without_a_budget_there_is_no_end():
    now = 0.0
    patience = Patience(clock=lambda: now)
    with patience.spending():
        now = 1e9
        torch.zeros(1)
    assert not patience.over


def test_a_certifier_in_time_proves_what_it_does_without_a_budget(model, data, slow):
    with_budget, without = (run(model, data, [slow, "lipschitz"], s) for s in (60.0, None))
    assert [v.status for v in with_budget.verdicts] == [v.status for v in without.verdicts]
    assert {v.status for v in without.verdicts} == {Status.CERTIFIED}
    assert not any(attempt.unproved for attempt in with_budget.attempts)


def test_a_proof_that_takes_too_long_leaves_its_examples_open(
    model, data, slow, monkeypatch, caplog
):
    monkeypatch.setattr(Slow, "seconds", 30.0)
    started = time.monotonic()
    evaluation = run(model, data, slow, 0.2)
    assert time.monotonic() - started < 10
    assert {v.status for v in evaluation.verdicts} == {Status.UNDECIDED}
    for verdict in evaluation.verdicts:
        (step,) = verdict.trail
        assert (step.stage, step.outcome, step.message) == (
            "slow",
            Outcome.OPEN,
            "gave up after 0.2 s",
        )
        assert "slow gave up after 0.2 s" in verdict.reason
    assert {"gave up after 0.2 s": N} in [attempt.unproved for attempt in evaluation.attempts]
    # Said once for all of them.
    assert caplog.text.count("gave up") == 1


def test_what_was_proved_before_the_time_was_over_stays(model, data, slow, monkeypatch):
    monkeypatch.setattr(Slow, "seconds", 1.0)
    evaluation = run(model, data, slow, 1.5)
    statuses = [verdict.status for verdict in evaluation.verdicts]
    # A budget has batches of four.
    assert statuses == [Status.CERTIFIED] * 4 + [Status.UNDECIDED] * 2


def test_preparation_counts_and_can_end_a_certifier(model, data, slow, monkeypatch):
    monkeypatch.setattr(Slow, "in_preparation", 30.0)
    evaluation = run(model, data, slow, 0.2)
    assert evaluation.not_applicable == {"slow": "gave up after 0.2 s"}
    assert {v.status for v in evaluation.verdicts} == {Status.UNDECIDED}


def test_the_seconds_are_those_of_one_eps(model, data, slow, monkeypatch):
    monkeypatch.setattr(Slow, "seconds", 0.4)
    # Each eps alone takes 0.8 s; the smaller one inherits no proof from the larger.
    many = [ThreatModel("L2", 0.05), ThreatModel("L2", 0.1)]
    found = evaluate_grid(
        model, data, many, attacks="none", certifiers=slow, certify_seconds=1.3, progress=False
    )
    assert not any(attempt.unproved for e in found for attempt in e.attempts)


def test_a_resumed_run_does_not_try_again_and_a_larger_budget_does(
    model, data, slow, monkeypatch, tmp_path
):
    store = tmp_path / "s.sqlite"
    monkeypatch.setattr(Slow, "seconds", 30.0)
    first = run(model, data, slow, 0.2, store=store, name="m")
    monkeypatch.setattr(Slow, "seconds", 0.0)
    again = run(model, data, slow, 0.2, store=store, name="m")
    assert repr(again.verdicts) == repr(first.verdicts)
    more = run(model, data, slow, 20.0, store=store, name="m")
    assert more.key != first.key
    assert {v.status for v in more.verdicts} == {Status.CERTIFIED}
    with closing(Store(store)) as opened:
        assert opened.record(more.key).spec.certify_seconds == 20.0


def test_without_a_budget_keys_are_those_of_earlier_versions():
    spec = EvaluationSpec(model="m", dataset="d", norm="L2")
    assert spec.key() == KEY
    assert EvaluationSpec(model="m", dataset="d", norm="L2", certify_seconds=1.0).key() != KEY


def test_auto_gives_up_on_a_network_that_is_far_too_large(model, data, monkeypatch):
    from robustbench_dyn.evaluation import plan  # noqa: PLC0415

    monkeypatch.setattr(plan, "SECONDS_OF_AUTO", 0.0)
    monkeypatch.setattr(plan, "SECONDS_OF_AUTO_PER_EXAMPLE", 1e-9)
    assert "gave up" in str(run(model, data, "auto", None).not_applicable)
    # Certifiers that were named have all the time that they want.
    assert not run(model, data, "lipschitz", None).not_applicable


def test_certifiers_of_one_network_trace_it_once(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    traced, original = [], intermediate._relaxation_state
    monkeypatch.setattr(
        intermediate,
        "_relaxation_state",
        lambda *arguments: traced.append(1) or original(*arguments),
    )
    names = "interval,linear_relaxation,complete"
    assert len(select_certifiers(names, model, (1, 3, 3), "L2").ready) == 3
    assert len(traced) == 1
    # Not from one selection to the next: the model may have been trained in between.
    select_certifiers(names, model, (1, 3, 3), "L2")
    assert len(traced) == 2


@pytest.mark.parametrize("seconds", [True, 0, -1, "x", math.nan, math.inf])
@pytest.mark.parametrize("function", [evaluate, evaluate_distances])
def test_a_budget_is_a_positive_number(function, seconds, model, data):
    threat_model = L2 if function is evaluate else "L2"
    with pytest.raises(InputError, match="certify_seconds="):
        function(model, data, threat_model, certify_seconds=seconds)
