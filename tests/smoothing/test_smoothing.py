"""Smoothed classifiers: their votes, their brackets, and runs that go on in the middle of one."""

import json
import signal
import subprocess
import sys
from dataclasses import fields
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
import torch
from oracles import halfspaces, points
from oracles.command import dynbench_here, refused
from oracles.digits_plugin import write_plugin
from oracles.killed_votes import N_DRAWS, evaluate_two
from scipy.stats import binomtest
from torch import nn

from robustbench_dyn import (
    SmoothedClassifier,
    Smoothing,
    Status,
    ThreatModel,
    evaluate_smoothed,
)
from robustbench_dyn.errors import InputError
from robustbench_dyn.random_streams import Streams
from robustbench_dyn.reporting.export import write_certificates
from robustbench_dyn.reporting.leaderboard import leaderboard
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.verdicts import ABSTAINED, Verdict
from robustbench_dyn.smoothing import CertifiedExample
from robustbench_dyn.smoothing import votes as noisy
from robustbench_dyn.smoothing.eot import eot_pgd

SMOOTHING = Smoothing(0.1, n0=20, n=200)
L2 = [ThreatModel("L2", 0.15)]
# Smoothing a halfspace moves nothing: g's boundary is f's. Unanimous votes of 200 prove a radius
# of 0.1 Phi^-1(0.001^(1/200)) = 0.1826.
DISTANCES = (0.05, 0.08, 0.3, 0.4, 0.45, 0.48)


def evaluated(distances=DISTANCES, threat_models=None, model=None, smoothing=SMOOTHING, **options):
    return evaluate_smoothed(
        model or halfspaces(), points(distances), threat_models or L2, smoothing, **options
    )


def rows(store, query):
    return list(store.connection.execute(query))


# ---- votes and gradients


def test_votes_are_the_share_of_the_normal_distribution():
    x, _ = points((0.1,))
    votes = SmoothedClassifier(halfspaces(), 0.1).votes(x, Streams(torch.arange(1)), range(20_000))
    # P(N < 1) = 0.8413; four standard errors of 20,000 draws are 0.0103.
    assert votes.sum() == 20_000
    assert float(votes[0, 0]) / 20_000 == pytest.approx(0.8413, abs=0.0104)


def test_votes_depend_neither_on_the_batch_nor_on_the_neighbours():
    x, y = points(DISTANCES)
    streams, classifier = Streams.of(x, y, 0), SmoothedClassifier(halfspaces(), 0.1)
    whole = classifier.votes(x, streams, range(50))
    parts = sum(classifier.votes(x, streams, range(k, k + 10)) for k in range(0, 50, 10))
    alone = classifier.votes(x[2:3], streams.select(torch.tensor([2])), range(50))
    assert torch.equal(whole, parts)
    assert torch.equal(whole[2:3], alone)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_ties_and_logits_that_are_not_finite_vote_for_no_class(value):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3), value) + 0 * x.flatten(1)[:, :1]

    x, _ = points((0.1,))
    votes = SmoothedClassifier(Constant(), 0.1).votes(x, Streams(torch.arange(1)), range(10))
    assert votes.tolist() == [[0, 0, 0, 10]]
    (evaluation,) = evaluated(model=Constant()).evaluations
    assert {v.status for v in evaluation.verdicts} == {Status.ERROR}
    assert "no class" in evaluation.verdicts[0].reason
    assert evaluation.summary["certified_accuracy"] == evaluation.summary["clean_accuracy"] == 0


def test_the_module_is_a_function_with_the_mean_gradient():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    classifier = SmoothedClassifier(network, 0.2, n_draws=5)
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.equal(classifier(x), classifier(x))
    assert torch.allclose(classifier(x).exp().sum(dim=1), torch.ones(2, dtype=torch.float64))
    assert torch.autograd.gradcheck(classifier, x)
    # Draw by draw, and averaged by hand.
    streams = Streams(torch.tensor([7, 8]))
    noise = [streams.normal(k, 1, 4, 4).double() for k in range(5)]
    mean = torch.stack([network(x + 0.2 * e).softmax(dim=1) for e in noise]).mean(dim=0)
    assert torch.allclose(classifier.log_probabilities(x, streams, 0).exp(), mean)


@pytest.mark.parametrize(("norm", "factor"), [("L2", 1.0), ("Linf", 2**-0.5), ("L1", 2**0.5)])
def test_the_attack_crosses_the_exact_boundary_and_no_sooner(norm, factor):
    x, y = points((0.1, 0.2, 0.3))
    classifier = SmoothedClassifier(halfspaces(), 0.1)
    streams = Streams.of(x, y, 0)

    def behind(share):
        # The plane x_0 = x_1 lies at these distances: half the way each for two coordinates.
        found = []
        for k, distance in enumerate((0.1, 0.2, 0.3)):
            x_adv = eot_pgd(
                lambda point, step, k=k: classifier.log_probabilities(
                    point, streams.select(torch.tensor([k])), 16 * step
                ),
                x[k : k + 1],
                y[k : k + 1],
                ThreatModel(norm, share * factor * distance),
            )
            found.append(bool(halfspaces()(x_adv).argmax(dim=1) != y[k]))
        return found

    # L1 goes the L2 way and is projected; here the gradient has two entries of one size.
    assert behind(1.05) == [True] * 3
    assert behind(0.999) == [False] * 3


# ---- brackets


def test_the_bracket_holds_the_exact_robust_accuracy():
    (evaluation,) = evaluated().evaluations
    status = [v.status.value for v in evaluation.verdicts]
    assert status == ["broken", "broken", *["certified"] * 4]
    assert evaluation.summary["certified_accuracy"] == pytest.approx(4 / 6)
    assert evaluation.summary["flags"] == ""
    for verdict, distance in zip(evaluation.verdicts, DISTANCES, strict=True):
        assert verdict.certified_radius <= distance
        if verdict.status is Status.BROKEN:
            assert distance <= verdict.adversarial_distance <= 0.15
            assert verdict.attack == "eot-pgd"
            assert verdict.backward_passes == 20 * 16


def test_unanimous_votes_prove_no_more_than_their_number_allows():
    (evaluation,) = evaluated((0.48,), [ThreatModel("L2", 0.25)]).evaluations
    (verdict,) = evaluation.verdicts
    assert verdict.status is Status.UNDECIDED
    assert verdict.certified_radius == pytest.approx(0.1826, abs=1e-4)
    assert verdict.reason == "survived eot-pgd"


def test_abstentions_are_misclassified_and_say_so():
    smoothed = evaluated((0.0, 0.48), [ThreatModel("L2", 0.1)])
    near, far = smoothed.evaluations[0].verdicts
    assert (near.status, near.prediction) == (Status.MISCLASSIFIED, ABSTAINED)
    assert near.reason == "abstained"
    assert far.status is Status.CERTIFIED
    assert smoothed.certificates[0][2:4] == (ABSTAINED, 0.0)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.04), ("L1", 0.15)])
def test_other_norms_are_certified_by_inclusion_and_say_so(norm, eps):
    (evaluation,) = evaluated((0.4, 0.48), [ThreatModel(norm, eps)]).evaluations
    expected = {"Linf": 0.1826 / 4, "L1": 0.1826}[norm]
    for verdict in evaluation.verdicts:
        assert verdict.status is Status.CERTIFIED
        assert verdict.certifier == "smoothing-from-L2(n=200 alpha=0.001)"
        assert verdict.certified_radius == pytest.approx(expected, abs=1e-4)


def test_smaller_eps_follow_from_larger_ones_without_votes():
    grid = [ThreatModel("L2", eps) for eps in (0.1, 0.15, 0.25)]
    evaluations = evaluated(threat_models=grid).evaluations
    assert [e.threat_model.eps for e in evaluations] == [0.1, 0.15, 0.25]
    certified = [e.summary["certified_accuracy"] for e in evaluations]
    empirical = [e.summary["empirical_accuracy"] for e in evaluations]
    assert certified == pytest.approx([4 / 6, 4 / 6, 0])
    assert empirical == pytest.approx([5 / 6, 4 / 6, 4 / 6])
    assert all(
        v.reason == "audited: survived eot-pgd within eps 0.25"
        for v in evaluations[1].verdicts
        if v.status is Status.CERTIFIED
    )
    # All votes are charged to the largest eps, which came first.
    assert evaluations[2].costs[0].forward_passes == 6 * 220
    assert [cost.stage for e in evaluations[:2] for cost in e.costs] == ["eot-pgd"] * 2


def test_a_hit_inside_the_radius_is_a_flag_and_no_error(monkeypatch, caplog):
    # A certifier that is wrong on purpose: radii five times too wide.
    from robustbench_dyn.smoothing import stages as module  # noqa: PLC0415

    honest = module.certify

    def boastful(*arguments):
        found = honest(*arguments)
        return found._replace(radius=5 * found.radius)

    monkeypatch.setattr(module, "certify", boastful)
    store = Store()
    options = {"store": store, "threat_models": [ThreatModel("L2", 0.6)]}
    options["distances"] = (0.3, 0.35, 0.4, 0.42, 0.45, 0.48)
    (evaluation,) = evaluated(**options).evaluations
    # Each of them was certified, the audit attacks six of them, and all six fall.
    assert evaluation.summary["flags"] == "hits_inside_radius:6"
    assert "is certified within" in caplog.text
    broken = [v for v in evaluation.verdicts if v.status is Status.BROKEN]
    assert len(broken) == 6
    assert all("alpha=0.001), which may be wrong" in v.reason for v in broken)
    assert leaderboard(store)["flags"].tolist() == ["hits_inside_radius:6"]
    # Going on does not audit the sixth because five are broken.
    again = evaluated(**options).evaluations[0]
    assert [v.reason for v in again.verdicts] == [v.reason for v in evaluation.verdicts]


def wrong_certificates():
    """Run on 800 examples that lie on the boundary itself, where each certificate is wrong.

    Returns whether more of them are certified than alpha allows, tested at level 1e-3. For one
    class the rate is P(Binomial(100, 1/2) >= 59) = 0.0443, which alpha leaves no room above.
    """
    n, generator = 800, torch.Generator().manual_seed(1)
    x = torch.rand(n, 1, 4, 4, generator=generator)
    x[:, 0, 0, 1] = x[:, 0, 0, 0]
    smoothing = Smoothing(0.1, n0=100, n=100, alpha=0.0444)
    found = evaluate_smoothed(
        halfspaces(), (x, torch.zeros(n, dtype=torch.int64)), L2, smoothing, attacked=False
    ).certificates
    certified = sum(c.prediction != ABSTAINED for c in found)
    assert certified > 0
    return bool(binomtest(certified, n, smoothing.alpha, alternative="greater").pvalue < 1e-3)


@pytest.mark.slow
def test_a_run_errs_at_most_at_rate_alpha_on_the_boundary():
    assert not wrong_certificates()


@pytest.mark.slow
def test_a_run_that_reuses_the_selection_samples_is_caught(monkeypatch):
    monkeypatch.setitem(noisy._STREAM_IDS, "estimate", noisy._STREAM_IDS["select"])
    assert wrong_certificates()


def test_an_attack_without_gradients_fails_and_is_flagged():
    class Stepped(nn.Module):
        def forward(self, x):
            return halfspaces()(x).detach().round(decimals=3)

    (evaluation,) = evaluated(model=Stepped(), audit_share=0.0).evaluations
    by_status = {v.status for v in evaluation.verdicts}
    assert by_status == {Status.UNDECIDED, Status.CERTIFIED}
    assert "eot-pgd failed: RuntimeError" in evaluation.verdicts[0].reason
    assert evaluation.summary["flags"] == "attack_failed:eot-pgd:2 unattacked:2 not_audited"
    assert evaluation.summary["attacks"] == "eot-pgd(failed)"
    assert evaluation.summary["clean_accuracy"] == 1


def test_without_attacks_the_empirical_accuracy_is_unknown():
    (evaluation,) = evaluated(attacked=False).evaluations
    assert evaluation.summary["empirical_accuracy"] is None
    assert evaluation.summary["attacks"] == "none"
    assert evaluation.verdicts[0].reason == "no attack was run"


def test_rows_name_the_smoothed_classifier_and_its_draws():
    store = Store()
    evaluated(store=store, name="half")
    evaluated(store=store, name="half", smoothing=Smoothing(0.2, n0=20, n=200, alpha=0.01))
    table = leaderboard(store)
    assert set(table["model"]) == {"half~0.1", "half~0.2"}
    assert set(table["certifiers"]) == {
        "smoothing(n=200 alpha=0.001)",
        "smoothing(n=200 alpha=0.01)",
    }
    assert set(table["attacks"]) == {"eot-pgd"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"audit_share": 2}, "audit_share=2"),
        ({"threat_models": [ThreatModel("L2", 0.1), ThreatModel("Linf", 0.1)]}, "one norm"),
        ({"model": nn.Linear(3, 2)}, "cannot classify inputs"),
        ({"model": nn.Flatten(0)}, "must return logits"),
        ({"n_examples": 99}, "n_examples=99"),
    ],
)
def test_bad_input_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        evaluated(**options)


# ---- going on


class Stopping(nn.Module):
    """A classifier that fails at its k-th pass, as a kill would end it."""

    def __init__(self, model, stop_at=None):
        super().__init__()
        self.model, self.stop_at, self.passes, self.seen = model, stop_at, 0, 0

    def forward(self, x):
        self.passes, self.seen = self.passes + 1, self.seen + len(x)
        if self.passes == self.stop_at:
            raise KeyboardInterrupt
        return self.model(x)


def final(store):
    """Return all that must not depend on interruptions: votes, verdicts and costs, no seconds."""
    columns = ", ".join(f.name for f in fields(Verdict) if f.name != "seconds")
    return (
        rows(store, "SELECT key, example_id, stage, draws, counts FROM votes"),
        rows(store, f"SELECT key, {columns} FROM verdicts"),
        rows(store, "SELECT key, eps, stage, examples, forward_passes FROM costs"),
    )


def test_a_run_stopped_anywhere_repeats_one_batch_at_most():
    def run(model, store):
        smoothing = Smoothing(0.1, n0=20, n=70)
        evaluated((0.12, 0.3), model=model, store=store, smoothing=smoothing, batch_size=20)

    undisturbed, whole = Store(), Stopping(halfspaces())
    run(whole, undisturbed)
    # Two looks at the model, for its shape and its identity, at 1 and at 4 inputs; then the votes
    # on each example, 20 and 20 + 20 + 20 + 10; then the attack, an example at a time.
    n_votes = 2 + 2 * (1 + 4)
    extra = {}
    for stop_at in (*range(1, n_votes + 2), n_votes + 20, whole.passes - 1, whole.passes):
        store, first, second = Store(), Stopping(halfspaces(), stop_at), Stopping(halfspaces())
        with pytest.raises(KeyboardInterrupt):
            run(first, store)
        run(second, store)
        assert final(store) == final(undisturbed)
        extra[stop_at] = first.seen + second.seen - whole.seen
    # Each start looks at the model: at 1 and 4 inputs, and at 2 in batches of several kinds.
    look = 5 + 20
    assert max(extra[k] for k in range(1, n_votes + 1)) <= 20 + look
    # What is lost of the attack is one chunk: its ascent, and its candidate check.
    assert max(extra.values()) <= look + 20 * 16 + 20 + 70


@pytest.mark.slow
def test_a_killed_process_goes_on_in_the_middle_of_an_example(tmp_path):
    path = tmp_path / "killed.sqlite"
    killed = subprocess.Popen(
        [sys.executable, "-m", "oracles.killed_votes", str(path)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(45):
        killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    store, undisturbed = Store(path), Store()
    ((draws,),) = rows(store, "SELECT draws FROM votes WHERE stage = 'estimate'")
    assert 0 < draws < N_DRAWS
    evaluate_two(halfspaces(), store)
    evaluate_two(halfspaces(), undisturbed)
    assert final(store) == final(undisturbed)
    store.close()


def test_another_alpha_and_another_norm_need_no_new_votes():
    store, model = Store(), Stopping(halfspaces())
    evaluated(model=model, store=store, attacked=False)
    first = model.seen
    evaluated(model=model, store=store, attacked=False)
    look, before = model.seen - first, model.seen
    other = Smoothing(0.1, n0=20, n=200, alpha=0.05)
    evaluated(model=model, store=store, attacked=False, smoothing=other)
    evaluated(model=model, store=store, attacked=False, threat_models=[ThreatModel("Linf", 0.04)])
    # The model is validated and identified, as in the run that needed no vote, and no more.
    assert model.seen - before == 2 * look < 250
    assert len(store.runs()) == 3


def test_batches_halved_for_memory_give_the_same_votes():
    class Small(nn.Module):
        def forward(self, x):
            if len(x) > 60:
                raise MemoryError
            return plain(x)

    plain, small, roomy = halfspaces(), Store(), Store()
    evaluated(model=Small(), store=small, name="m")
    evaluated(store=roomy, name="m")
    votes = "SELECT example_id, stage, draws, counts FROM votes"
    assert rows(small, votes) == rows(roomy, votes)


def test_the_first_examples_of_a_run_are_those_of_a_longer_one():
    store, longer = Store(), Store()
    evaluated(store=store, n_examples=3)
    evaluated(store=store)
    evaluated(store=longer)
    # 2 of 3 and 2 of 6 are undecided: the chunks differ, and with them nothing but rounding.
    assert final(store)[0] == final(longer)[0]


# ---- the table of the field, and the command


def test_certificates_are_written_rounded_down(tmp_path):
    radius = 0.30000999999999999
    found = [
        CertifiedExample(3, 1, 1, radius, 61.5),
        CertifiedExample(4, 1, 0, 0.1 + 0.2, 0.25),
        CertifiedExample(5, 1, ABSTAINED, 0.0, 0.0),
    ]
    write_certificates(found, tmp_path / "c.tsv")
    table = pd.read_csv(tmp_path / "c.tsv", sep="\t", dtype=str)
    assert list(table) == ["idx", "label", "predict", "radius", "correct", "time"]
    assert table["predict"].tolist() == ["1", "0", "-1"]
    assert table["correct"].tolist() == ["1", "0", "0"]
    assert table["time"].tolist() == ["0:01:01.500000", "0:00:00.250000", "0:00:00"]
    for text, certificate in zip(table["radius"], found, strict=True):
        # Exactly, not as floats compare.
        assert Decimal(certificate.radius) - Decimal("1e-5") < Decimal(text)
        assert Decimal(text) <= Decimal(certificate.radius)
    with pytest.raises(InputError, match=r"must end in \.tsv"):
        write_certificates(found, tmp_path / "c.csv")


SMOOTH = [
    "smooth",
    "--model",
    "nearest",
    "--dataset",
    "digits",
    "--sigma",
    "0.25",
    "--n0",
    "20",
    "--n",
    "100",
    "--n-examples",
    "12",
]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    write_plugin(tmp_path / "nearest")

    def call(*arguments):
        options = [*arguments, "--plugins", tmp_path / "nearest"]
        return dynbench_here(options, tmp_path, monkeypatch, capsys)

    return call


def test_the_command_brackets_writes_and_joins_the_leaderboard(
    command, tmp_path, monkeypatch, capsys
):
    result = command(*SMOOTH, "--eps", "0.1", "0.3", "--json", "--export", "c.tsv")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    small, large = document["rows"]
    for row in (small, large):
        assert row["model"] == "nearest~0.25"
        assert row["certified_accuracy"] <= row["empirical_accuracy"] <= row["clean_accuracy"]
    assert small["certified_accuracy"] > large["certified_accuracy"]
    assert document["run"]["smoothing"]["n"] == 100
    table = pd.read_csv(tmp_path / "c.tsv", sep="\t")
    assert table["idx"].tolist() == list(range(12))
    certified = (table["correct"] == 1) & (table["radius"] >= 0.1)
    assert certified.mean() == pytest.approx(small["certified_accuracy"])
    again = command(*SMOOTH, "--eps", "0.3")
    assert f"{100 * large['certified_accuracy']:.1f}" in again.stdout
    dynbench_here(["leaderboard"], tmp_path, monkeypatch, capsys)
    board = pd.read_csv(tmp_path / "leaderboards" / "digits-L2-0.3.csv")
    assert board["model"].tolist() == ["nearest~0.25"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sigma", "0"], "sigma=0"),
        (["--alpha", "0.7"], "alpha=0.7"),
        (["--n", "5"], "prove nothing"),
        (["--n0", "0"], "n0=0"),
        (["--export", "c.csv"], ".tsv"),
        (["--eps", "99"], "8/255, not 8"),
        (["--norm", "L3"], "L3"),
    ],
)
def test_the_command_refuses_what_makes_no_sense_in_one_line(command, arguments, words):
    # An option that stands twice would be refused for that.
    given = arguments[0]
    place = SMOOTH.index(given) if given in SMOOTH else len(SMOOTH)
    refused(command(*SMOOTH[:place], *SMOOTH[place + 2 :], *arguments), words)


def test_a_model_that_mixes_examples_is_not_smoothed():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = halfspaces()

        def forward(self, x):
            return self.inner(x - x.mean(dim=0) + 0.5)

    with pytest.raises(InputError, match="batch_coupled"):
        evaluated(model=Centred(), attacked=False)
