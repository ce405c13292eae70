"""The complete certifier on digits, among the other stages."""

import math

import pytest
import torch
from oracles.digits import all_digits
from torch import nn
from torch.nn import functional as F

from robustbench_dyn import ThreatModel, evaluate, evaluate_grid
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.bounds.budgets import N_ITERATIONS
from robustbench_dyn.certification.branch_and_bound import affine, giving_up, search, turns
from robustbench_dyn.certification.branch_and_bound.search import Search
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.certification.certifiers import complete as certifier
from robustbench_dyn.certification.certifiers.complete import Complete
from robustbench_dyn.certification.proofs import complete
from robustbench_dyn.certification.proofs.linear_relaxation import relaxed_margins
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.evaluation.candidates import check_candidates
from robustbench_dyn.flows import Classifier, EulerStep
from robustbench_dyn.threat_models import NORMS

LINF = ThreatModel("Linf", 0.08)


@pytest.fixture(scope="module")
def digits():
    """A network for the digits, trained for a second, with 40 test examples."""
    x, y = all_digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = nn.Sequential(nn.Linear(16, 10), nn.LeakyReLU(0.1), nn.Linear(10, 16))
        features = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), EulerStep(block, step_size=0.5), nn.ReLU()
        )
        model = Classifier(features, nn.Linear(16, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(300):
            rows = torch.randint(0, 1400, (128,))
            noisy = (x[rows] + 0.1 * torch.randn(128, 1, 8, 8)).clamp(0, 1)
            optimizer.zero_grad()
            F.cross_entropy(model(noisy), y[rows]).backward()
            optimizer.step()
    return model.eval(), x[1400:1440], y[1400:1440]


def test_the_bracket_of_digits_closes(digits):
    model, x, y = digits
    evaluation = evaluate(model, (x, y), LINF, attacks="fgsm")
    assert evaluation.summary["certifiers"].endswith("interval+linear_relaxation+complete")
    counts = evaluation.examples["status"].value_counts()
    assert set(counts.index) <= {"certified", "broken", "misclassified"}
    assert evaluation.summary["gap"] == 0
    # Each means has decided something that the cheaper ones could not.
    decided = {cost.stage: cost.decided for cost in evaluation.costs}
    assert list(decided) == ["certify", "interval", "fgsm", "linear_relaxation", "complete"]
    assert min(decided[stage] for stage in ("linear_relaxation", "fgsm", "complete")) > 0
    assert (evaluation.examples["certifier"] == "complete").any()
    # The relaxation alone leaves some open.
    before = evaluate(model, (x, y), LINF, attacks="fgsm", certifiers="linear_relaxation")
    assert (before.examples["status"] == "undecided").any()
    both = before.examples["status"].to_numpy(), evaluation.examples["status"].to_numpy()
    for earlier, later in zip(*both, strict=True):
        assert earlier in (later, "undecided")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "eps", "attack"),
    [("L2", 0.5, "pgd"), ("L2", 0.8, "pgd"), ("Linf", 0.12, "fgsm"), ("L1", 1.5, "fab-t")],
)
def test_the_bracket_of_digits_closes_in_every_norm(digits, norm, eps, attack):
    model, x, y = digits
    evaluation = evaluate(model, (x, y), ThreatModel(norm, eps), attacks=attack)
    counts = evaluation.examples["status"].value_counts()
    assert set(counts.index) <= {"certified", "broken", "misclassified"}
    assert evaluation.summary["gap"] == 0
    decided = {cost.stage: cost.decided for cost in evaluation.costs}
    assert decided["complete"] > 0
    attacked = evaluate(
        model,
        (x, y),
        ThreatModel(norm, eps),
        certifiers="none",
        attacks="fab-t" if norm == "L1" else "standard",
    ).examples
    proved = evaluation.examples["status"] == "certified"
    assert not (proved & (attacked["status"] == "broken")).any()


@pytest.mark.slow
def test_certificates_stand_up_to_a_strong_attack(digits):
    model, x, y = digits
    proved = evaluate(model, (x, y), LINF, attacks="none", certifiers="complete").examples
    attacked = evaluate(model, (x, y), LINF, attacks="standard", certifiers="none").examples
    assert (proved["status"] == "certified").sum() > 5
    assert not ((proved["status"] == "certified") & (attacked["status"] == "broken")).any()
    # Without an attack, it finds the counterexamples itself; the evaluation has checked them.
    broken = proved["status"] == "broken"
    assert (broken == (attacked["status"] == "broken")).all()
    assert (proved["attack"][broken] == "complete").all()
    assert (proved["adversarial_distance"][broken] <= LINF.eps).all()


@pytest.mark.slow
def test_repeated_and_resumed_runs_end_with_the_same_verdicts(digits, tmp_path):
    model, x, y = digits
    options = {"attacks": "fgsm", "batch_size": 8}
    whole = evaluate(model, (x, y), LINF, store=tmp_path / "w.sqlite", **options)
    again = evaluate(model, (x, y), LINF, store=tmp_path / "w.sqlite", **options)
    assert again.examples.equals(whole.examples)
    reports = []

    def interrupt(report):
        reports.append(report)
        if len(reports) == 14:
            raise KeyboardInterrupt

    store = tmp_path / "s.sqlite"
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, (x, y), LINF, store=store, progress=interrupt, **options)
    assert reports[-1].stage != "certify"
    resumed = evaluate(model, (x, y), LINF, store=store, **options)
    columns = ["status", "certified_radius", "certifier", "attack", "reason"]
    assert resumed.examples[columns].equals(whole.examples[columns])


def test_several_eps_agree_with_single_runs(digits):
    model, x, y = digits
    grid = [ThreatModel("Linf", eps) for eps in (0.02, 0.05, 0.08)]
    x, y = x[:16], y[:16]
    together = evaluate_grid(model, (x, y), grid, attacks="fgsm")
    for shared, threat_model in zip(together, grid, strict=True):
        alone = evaluate(model, (x, y), threat_model, attacks="fgsm")
        assert shared.examples["status"].equals(alone.examples["status"])


def test_survivors_of_a_larger_eps_are_not_attacked_at_a_smaller(digits):
    model, x, y = digits
    grid = [ThreatModel("Linf", eps) for eps in (0.03, 0.08)]
    options = {"attacks": "pgd", "certifiers": "linear_relaxation", "audit_share": 0}
    small, large = evaluate_grid(model, (x, y), grid, **options)
    open_at_large = large.examples["status"] == "undecided"
    then = small.examples[open_at_large]
    assert (then["status"] == "certified").any()
    assert (then["backward_passes"] == 0).all()


def test_out_of_time_an_example_stays_undecided(digits):
    model, x, y = digits
    certifiers = ["interval", "linear_relaxation", Complete(seconds_per_example=0)]
    evaluation = evaluate(model, (x, y), LINF, attacks="fgsm", certifiers=certifiers)
    assert (evaluation.examples["status"] == "undecided").any()
    survived = evaluation.examples["reason"][evaluation.examples["status"] == "undecided"]
    assert (survived == "survived fgsm; complete timed out").all()


def test_a_candidate_that_is_not_adversarial_decides_nothing(digits, monkeypatch):
    def lying(state, x, objectives, *_, **options):
        nothing = torch.zeros(len(objectives.example), dtype=torch.bool)
        points, none = dict(enumerate(x.clone())), torch.zeros(len(x))
        return search.SearchResult(nothing, points, none.bool(), none, none), nothing

    monkeypatch.setattr(complete, "_search", lying)
    model, x, y = digits
    evaluation = evaluate(model, (x, y), LINF, attacks="none", certifiers="complete")
    assert not (evaluation.examples["status"] == "broken").any()


def test_networks_that_cannot_be_searched_are_refused():
    dense = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(CertificateError, match="not Tanh; choose linear_relaxation"):
        resolve_certifiers("complete", dense, (1, 2, 3), "Linf")
    with pytest.raises(CertificateError, match=r"at most 4 inputs.*has 6"):
        resolve_certifiers("complete:split=inputs", dense, (1, 2, 3), "Linf")


def test_a_convolutional_network_is_searched_as_a_graph(monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(3, 4, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(36, 3),
        )
    model = model.eval().requires_grad_(False)
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model[5].bias.sub_(model(x).mean(dim=0))
    y, threat_model = model(x).argmax(dim=1), ThreatModel("Linf", 0.02)
    proved = {}
    for most_entries in (0, 20_000_000):
        monkeypatch.setattr(affine, "_MOST_ENTRIES", most_entries)
        (prepared,) = resolve_certifiers("complete", model, (1, 8, 8), "Linf")
        assert (prepared.state.composition is None) == (most_entries == 0)
        proof = prepared.prove(x, model(x), y, threat_model)
        fooled = check_candidates(model, proof.candidates, x, y, threat_model).fooled
        proved[most_entries] = radii(proof) >= threat_model.eps
        # Each is decided, by a proof or by a counterexample.
        assert (proved[most_entries] != fooled.cpu()).all()
    assert torch.equal(*proved.values())
    assert 0 < int(proved[0].sum()) < 6


@pytest.mark.parametrize("seconds", [0.0, 1800.0])
def test_all_searches_of_a_run_share_their_time(digits, seconds):
    model, x, y = digits
    x, y = x[:12], y[:12]
    complete_alone = Complete(seconds=seconds)
    evaluation = evaluate(model, (x, y), LINF, attacks="none", certifiers=complete_alone)
    reasons = set(evaluation.examples["reason"][evaluation.examples["status"] == "undecided"])
    assert reasons == ({"no attack was run; complete timed out"} if seconds == 0 else set())


@pytest.mark.parametrize("over", [{"seconds": 60.0}, {"in_vain": 16}])
def test_where_no_search_follows_no_slopes_are_optimised(digits, over, monkeypatch):
    model, x, y = digits
    steps = []

    def relaxed(*args, n_iterations):
        steps.append(n_iterations)
        return relaxed_margins(*args, n_iterations=n_iterations)

    monkeypatch.setattr(complete, "relaxed_margins", relaxed)
    monkeypatch.setattr(complete, "shares_a_network", lambda _state: False)
    state, alone = Complete().prepare(model, (1, 8, 8)), Complete(seconds=60.0)
    for spent in (giving_up.Spent(seconds=59.0, in_vain=15), giving_up.Spent(**over)):
        state.spent[LINF] = spent
        alone.prove(state, x[:4], model(x[:4]), y[:4], LINF)
    assert steps == [N_ITERATIONS, 0]


def test_where_no_bound_nears_a_proof_the_search_is_given_up(digits, monkeypatch):
    model, x, y = digits
    monkeypatch.setattr(giving_up, "_REACH", 1e-3)
    monkeypatch.setattr(giving_up, "_MANY_UNSTABLE", 5)
    evaluation = evaluate(model, (x, y), LINF, attacks="fgsm", certifiers="complete")
    reasons = list(evaluation.examples["reason"][evaluation.examples["status"] == "undecided"])
    assert reasons
    assert set(reasons) == {"survived fgsm; complete gave up: no bound neared a proof"}


def verdicts(model, x, y, threat_model, at_once):
    """Return the radii and whether the candidates fool, and how many examples share searches."""
    state = Complete().prepare(model, tuple(x.shape[1:]))
    logits, found = model(x), []
    for rows in torch.arange(len(x)).split(at_once):
        proof = Complete().prove(state, x[rows], logits[rows], y[rows], threat_model)
        checked = check_candidates(model, proof.candidates, x[rows], y[rows], threat_model)
        found += zip(proof.class_radii.tolist(), checked.fooled.tolist(), strict=True)
    return found


@pytest.mark.parametrize(
    ("norm", "path"),
    [
        pytest.param(norm, path, marks=pytest.mark.slow if norm != "Linf" else ())
        for norm in NORMS
        for path in ("shared", "apart", "whole")
    ],
)
def test_verdicts_do_not_depend_on_the_batch(digits, norm, path, monkeypatch):
    if path == "apart":
        monkeypatch.setattr(complete, "_MOST_SHARED", 0)
    if path == "whole":
        monkeypatch.setattr(affine, "_MOST_ENTRIES", 0)
    sizes = []
    monkeypatch.setattr(complete, "Search", lambda *a: sizes.append(a[0].n_examples) or Search(*a))
    model, x, y = digits
    rows = slice(16) if path == "shared" else slice(8)
    threat_model = ThreatModel(norm, {"Linf": 0.08, "L2": 0.4, "L1": 1.0}[norm])
    alone = verdicts(model, x[rows], y[rows], threat_model, 1)
    assert set(sizes) == {1}
    sizes.clear()
    assert verdicts(model, x[rows], y[rows], threat_model, len(x)) == alone
    assert (max(sizes) > 1) == (path != "apart")
    # Both kinds of answers are among them.
    assert 0 < sum(fooled for _, fooled in alone) < len(alone)


@pytest.mark.parametrize(
    ("most_shared", "few", "at_once"), [(100_000, 1, 64), (1, 256, 64), (1, 1, 4)]
)
def test_only_short_searches_are_taken_many_at_once(digits, most_shared, few, at_once, monkeypatch):
    model, _, _ = digits
    state = Complete().prepare(model, (1, 8, 8))
    monkeypatch.setattr(complete, "_MOST_SHARED", most_shared)
    monkeypatch.setattr(certifier, "_FEW_NEURONS", few)
    assert Complete().at_once(state) == at_once


def test_large_networks_far_from_a_proof_are_not_searched(digits, monkeypatch):
    model, x, y = digits
    logits = model(x)
    rows = (logits.argmax(dim=1) == y).nonzero().flatten()[:6]
    far = ThreatModel("Linf", 0.3)

    def decided():
        state = Complete().prepare(model, (1, 8, 8))
        proof = Complete().prove(state, x[rows], logits[rows], y[rows], far)
        return check_candidates(model, proof.candidates, x[rows], y[rows], far).fooled, proof

    fooled, proof = decided()
    assert fooled.all()
    monkeypatch.setattr(giving_up, "_LARGE", 1)
    monkeypatch.setattr(giving_up, "_REACH", 1e-3)
    fooled, proof = decided()
    assert not fooled.any()
    assert proof.gave_up.all()


@pytest.mark.parametrize("at_once", [1, 30])
def test_after_searches_in_vain_the_next_ones_are_short(digits, at_once, monkeypatch):
    model, x, y = digits
    rows = (model(x).argmax(dim=1) == y).nonzero().flatten()[:20]
    x, y, far = x[rows], y[rows], ThreatModel("Linf", 0.3)
    logits, bounded = model(x), []

    def in_vain(self, domains, *, first):
        # Each pass bounds 32 subdomains of each of its examples, and proves none.
        for number in domains.example.tolist():
            self._searches[number].n_done += 32
            bounded.append(number)
            self._searches[number].seconds += 1.0
        self._pool.push(domains)

    monkeypatch.setattr(search.descent, "from_points", lambda *_, **__: {})
    monkeypatch.setattr(Search, "_bound", in_vain)
    state = Complete().prepare(model, (1, 8, 8))

    def gave_up(threat_model):
        proofs = [
            Complete(seconds_per_example=9.5).prove(state, *batch, threat_model)
            for batch in zip(*(part.split(at_once) for part in (x, logits, y)), strict=True)
        ]
        assert not any(bool((radii(proof) >= threat_model.eps).any()) for proof in proofs)
        return torch.cat([proof.gave_up for proof in proofs])

    # Eight run out of time, after ten seconds each, and the next eight end after 64 subdomains.
    answers = gave_up(far)
    assert answers.tolist() == [False] * 8 + [True] * 12
    assert len(bounded) == 8 * 10 + 8 * 2
    # At another eps, the count begins anew.
    assert gave_up(ThreatModel("Linf", 0.29)).tolist() == answers.tolist()


@pytest.mark.parametrize(
    ("decided", "most"),
    [
        ([None] * 18, [math.inf] * 8 + [64] * 8 + [0] * 2),
        ([False] * 7 + [True, None], [math.inf] * 9),
        ([False] * 7 + [None, True, None, None], [math.inf] * 8 + [64] + [math.inf] * 2),
    ],
)
def test_a_search_is_as_short_as_those_before_it_say(decided, most):
    assert giving_up.Spent().most_subdomains(decided) == most
    assert giving_up.Spent(in_vain=1).most_subdomains(decided[1:]) == most[1:]


def test_a_search_waits_for_those_that_say_how_long_it_is():
    searches = [turns.Progress(number, n_done=100, decided=False) for number in range(7)]
    searches += [turns.Progress(number, n_done=100) for number in range(7, 10)]
    turn = turns.next_turn(searches, giving_up.Spent(), 60.0, over=False)
    assert (turn.going_on, turn.given_up) == ([7], [])
    searches[7].decided = False
    turn = turns.next_turn(searches, giving_up.Spent(), 60.0, over=False)
    assert (turn.going_on, turn.given_up) == ([], [8, 9])
    searches[7].decided = True
    turn = turns.next_turn(searches, giving_up.Spent(), 60.0, over=False)
    assert (turn.going_on, turn.given_up) == ([8, 9], [])
    turn = turns.next_turn(searches, giving_up.Spent(), 60.0, over=True)
    assert turn.timed_out == [8, 9]
