"""Radii from votes: the bounds against scipy, and the failure rate at known radii."""

import itertools
import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from torch import nn

from robustbench_dyn.errors import InputError
from robustbench_dyn.random_streams import Streams
from robustbench_dyn.results.verdicts import ABSTAINED
from robustbench_dyn.smoothing import statistics
from robustbench_dyn.smoothing.classifier import SmoothedClassifier
from robustbench_dyn.smoothing.statistics import (
    Certificate,
    Smoothing,
    certify,
    lower_confidence_bound,
    predict,
    radius_in,
)

SIGMA = 0.5
# Wide enough for the rate to be told from twice the rate in a few thousand runs.
ALPHA = 0.05
RUNS = 3000


class Halfspace(nn.Module):
    """Class 1 where w.x > 0: smoothed, it keeps its answer within |w.x| / |w| exactly."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.6, -0.8]))

    def forward(self, x):
        score = x.flatten(1) @ self.w
        return torch.stack([-score, score], dim=1)


def failures(distance, *, n0=20, n=100, reuse=False):
    """Count wrong certificates in RUNS runs at a point whose exact radius is `distance`."""
    classifier = SmoothedClassifier(Halfspace(), SIGMA)
    x = (distance * torch.tensor([0.6, -0.8])).expand(RUNS, 2)
    seeds = Streams(torch.arange(RUNS))
    smoothing = Smoothing(SIGMA, n0=n0, n=n, alpha=ALPHA)
    selection = classifier.votes(x, seeds.substream(1), range(n0)).tolist()
    counts = classifier.votes(x, seeds.substream(2), range(n)).tolist()
    if reuse:
        selection = counts
    found = [certify(*votes, smoothing) for votes in zip(selection, counts, strict=True)]
    wrong = [
        c
        for c in found
        if c.prediction != ABSTAINED and not (c.prediction == 1 and c.radius <= distance)
    ]
    return len(wrong)


def exceeds_alpha(n_failures):
    """Say whether so many failures refute a rate of at most ALPHA.

    At level 1e-4: a true certifier, at a rate of ALPHA exactly, fails this once in 10,000 seeds.
    """
    return binomtest(n_failures, RUNS, ALPHA, alternative="greater").pvalue < 1e-4


@pytest.mark.parametrize("distance", [0.0, 0.05, 0.3, 0.8])
def test_certificates_of_a_halfspace_fail_at_most_at_rate_alpha(distance):
    n_failures = failures(distance)
    assert not exceeds_alpha(n_failures)
    # They do fail: a test that is never near alpha would find nothing out.
    assert distance == 0.8 or n_failures > ALPHA / 5 * RUNS


def test_selection_samples_that_are_used_again_are_caught():
    # On the boundary either class may be the lucky one, so the rate is twice that of one tail.
    assert exceeds_alpha(failures(0.0, reuse=True))


def test_a_bound_that_ignores_alpha_is_caught(monkeypatch):
    plug_in = lambda successes, trials, _alpha: successes / trials  # noqa: E731
    monkeypatch.setattr(statistics, "lower_confidence_bound", plug_in)
    assert exceeds_alpha(failures(0.3))


def test_a_radius_that_ignores_sigma_is_caught(monkeypatch):
    honest = Smoothing

    def wider(sigma, **options):
        return honest(2 * sigma, **options)

    monkeypatch.setitem(globals(), "Smoothing", wider)
    assert exceeds_alpha(failures(0.3))


def test_the_radius_tends_to_the_exact_one():
    distance, n = 0.3, 20_000
    classifier = SmoothedClassifier(Halfspace(), SIGMA)
    x, streams = distance * torch.tensor([[0.6, -0.8]]), Streams(torch.arange(1))
    counts = classifier.votes(x, streams, range(n))[0].tolist()
    found = certify([0, 1, 0], counts, Smoothing(SIGMA, n=n, alpha=0.001))
    # Four standard errors of the share of votes, and the bound's own slack of about three.
    p = NormalDist().cdf(distance / SIGMA)
    slack = 7 * math.sqrt(p * (1 - p) / n) / NormalDist().pdf(distance / SIGMA) * SIGMA
    assert distance - slack < found.radius <= distance


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.data(), st.sampled_from([0.3, 0.05, 0.001]))
def test_the_bound_is_clopper_pearsons_and_is_rounded_down(trials, data, alpha):
    successes = data.draw(st.integers(0, trials))
    bound = lower_confidence_bound(successes, trials, alpha)
    # scipy's own interval is two-sided: its lower end at 1 - 2 alpha is the one-sided bound.
    interval = binomtest(successes, trials).proportion_ci(1 - 2 * alpha, method="exact")
    # scipy's root finder behind the interval stops at about 1e-12 of the range [0, 1].
    assert bound == pytest.approx(interval.low, rel=1e-9, abs=1e-11)
    # The probability of as many successes, as another code computes it, to its own rounding.
    assert successes == 0 or binom.sf(successes - 1, trials, bound) <= alpha * (1 + 1e-9)


def test_the_bound_of_unanimous_votes_is_a_root_of_alpha():
    for n, alpha in itertools.product((4, 10, 1000, 100_000), (0.05, 0.001, 1e-9)):
        bound = lower_confidence_bound(n, n, alpha)
        assert bound == pytest.approx(alpha ** (1 / n), rel=1e-11)
        assert bound <= alpha ** (1 / n)


def test_the_radius_is_that_of_the_paper_rounded_down():
    smoothing = Smoothing(0.25, n=1000, alpha=0.001)
    found = certify([0, 100, 0], [10, 990, 0], smoothing)
    exact = 0.25 * NormalDist().inv_cdf(lower_confidence_bound(990, 1000, 0.001))
    assert found.prediction == 1
    assert found.radius == pytest.approx(exact, rel=1e-9)
    assert found.radius < exact
    # n = 100,000 of one mind at alpha 0.001: the 3.8 sigma that Section 3.2.2 speaks of.
    best = certify([0, 100, 0], [0, 100_000, 0], Smoothing(1.0, n=100_000)).radius
    assert best == pytest.approx(3.8, abs=0.05)


def test_a_bound_of_a_half_or_less_abstains():
    smoothing = Smoothing(0.25, n=100, alpha=0.05)
    # P(Binomial(100, 1/2) >= 59) = 0.044 and P(>= 58) = 0.067: 59 votes prove a majority.
    assert certify([9, 1, 0], [58, 42, 0], smoothing) == Certificate(ABSTAINED, 0.0)
    assert certify([9, 1, 0], [59, 41, 0], smoothing).prediction == 0
    # The class comes from the selection: another one that wins later proves nothing.
    assert certify([1, 9, 0], [99, 1, 0], smoothing) == Certificate(ABSTAINED, 0.0)


def test_draws_without_a_class_count_against_every_class():
    smoothing = Smoothing(0.25, n=100, alpha=0.05)
    assert certify([9, 1, 0], [58, 0, 42], smoothing).prediction == ABSTAINED
    assert certify([0, 0, 9], [0, 0, 100], smoothing) == Certificate(ABSTAINED, 0.0)
    assert predict([0, 0, 100], 0.001) == -1
    assert predict([52, 0, 48], 0.001) == ABSTAINED


def test_predict_abstains_where_the_first_two_are_too_close():
    # Two-sided: 2 P(Binomial(100, 1/2) >= 60) = 0.057 and 2 P(>= 61) = 0.035.
    assert predict([60, 40, 0], 0.05) == ABSTAINED
    assert predict([61, 39, 0], 0.05) == 0
    # Third classes do not matter: this one is ahead with 61 of 161.
    assert predict([61, 39, 30, 31, 0], 0.05) == 0
    assert predict([50, 50, 0], 0.4) == ABSTAINED
    assert predict([0, 0, 0], 0.4) == ABSTAINED


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=3, max_size=6), st.floats(0.001, 0.49))
def test_predict_is_the_binomial_test_between_the_first_two(counts, alpha):
    *_, second, first = sorted(counts)
    answer = predict(counts, alpha)
    if first == 0 or binomtest(first, first + second, 0.5).pvalue > alpha:
        assert answer == ABSTAINED
    else:
        assert answer == (counts.index(first) if first != counts[-1] else -1)


@pytest.mark.parametrize("probability", [0.5, 0.55])
def test_predict_errs_no_more_often_than_alpha(probability):
    generator = torch.Generator().manual_seed(0)
    votes = torch.rand(RUNS, 100, generator=generator) < probability
    ones = votes.sum(dim=1).tolist()
    answers = [predict([100 - k, k, 0], ALPHA) for k in ones]
    wrong = (0, 1) if probability == 0.5 else (0,)
    assert not exceeds_alpha(sum(answer in wrong for answer in answers))


def test_radii_in_other_norms_follow_from_inclusion():
    assert radius_in("L2", 0.5, 784) == radius_in("L1", 0.5, 784) == 0.5
    assert radius_in("Linf", 0.5, 784) == pytest.approx(0.5 / 28, rel=1e-9)
    assert radius_in("Linf", 0.5, 784) * 28 < 0.5
    assert Smoothing(0.25).label("L2") == "smoothing(n=1000 alpha=0.001)"
    assert Smoothing(0.25).label("Linf") == "smoothing-from-L2(n=1000 alpha=0.001)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": 0.0}, "sigma=0 must be positive"),
        ({"sigma": -1.0}, "sigma=-1 must be positive"),
        ({"sigma": 64.0}, "raw input units"),
        ({"sigma": math.nan}, "sigma=nan must be positive"),
        ({"alpha": 0.0}, "alpha=0 must lie between"),
        ({"alpha": 0.5}, "alpha=0.5 must lie between"),
        ({"alpha": math.nan}, "alpha=nan must lie between"),
        ({"n0": 0}, "n0=0 must be at least 1"),
        ({"n": 9}, "n=9 draws prove nothing at alpha=0.001, even if all agree; give n of at le"),
    ],
)
def test_options_without_sense_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        Smoothing(**({"sigma": 0.25} | options))


def test_the_fewest_draws_allowed_can_certify_and_fewer_cannot():
    for alpha in (0.4, 0.25, 0.125, 0.05, 0.001):
        n = next(n for n in range(1, 99) if lower_confidence_bound(n, n, alpha) > 0.5)
        assert certify([1, 0, 0], [n, 0, 0], Smoothing(0.25, n=n, alpha=alpha)).radius > 0
        with pytest.raises(InputError, match="prove nothing"):
            Smoothing(0.25, n=n - 1, alpha=alpha)
