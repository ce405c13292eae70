"""Forecasts on a clock of their own: passes count, shares rise, and the time left is honest."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from robustbench_dyn.progress.forecast import Forecast, Outlook, Tally

N = 40
SECONDS = 0.01
STAGES = [
    Outlook(name="certify", passes=1, kept=1.0),
    Outlook(name="apgd", passes=200, kept=1.0, makes_passes=True, is_attack=True),
    Outlook(name="relaxation", passes=50, kept=1.0),
    Outlook(name="square", passes=700, kept=1.0, makes_passes=True, is_attack=True),
    Outlook(name="rays", passes=10_000, makes_passes=True, is_attack=True, on_signs=True),
]


class Run:
    """A run whose passes take SECONDS each, and what was promised in it at each step."""

    def __init__(self, stages=STAGES, n=N, **options):
        self.now, self.passes, self.seen = 0.0, 0, []
        self.forecast = Forecast(
            lambda: self.passes, speed=lambda: SECONDS, clock=lambda: self.now, **options
        )
        self.forecast.begin(stages, n)

    def look(self):
        self.seen.append((self.now, self.forecast.work()))

    def spend(self, seconds, passes=0):
        for _ in range(20):
            self.now += seconds / 20
            self.passes += passes // 20
            self.look()

    def stage(self, name, passes, *, seconds=None, n=N, left=N, tells=False):
        """Run a stage of n examples, of which `left` stay."""
        self.forecast.enter(name, n, Tally(waiting=n))
        total = passes * n
        if tells:
            for done in range(20):
                self.forecast.tell(total * (20 - done) / 20)
                self.now += total * SECONDS / 20
                self.passes += total // 20
                self.look()
        else:
            self.spend(total * SECONDS if seconds is None else seconds, total)
        self.forecast.finish(n, Tally(waiting=left, decided=n - left))
        self.forecast.leave()

    def errors(self):
        """Return how many times the real time left what was promised was, of the second half on."""
        ends = self.now
        return [
            work.seconds_left / (ends - then)
            for then, work in self.seen
            if ends / 4 < then < 0.95 * ends
        ]


def whole_run(*, tells):
    run = Run()
    run.stage("certify", 0, seconds=N * SECONDS)
    run.stage("apgd", 200, tells=tells)
    run.stage("relaxation", 0, seconds=N * 50 * SECONDS)
    run.stage("square", 700, tells=tells)
    return run


@pytest.mark.parametrize("tells", [False, True], ids=["planned", "told"])
def test_a_run_as_planned_is_promised_to_the_second(tells):
    run = whole_run(tells=tells)
    assert all(0.9 < error < 1.1 for error in run.errors()), run.errors()
    assert run.forecast.work().share == pytest.approx(1)


def test_the_share_rises_steadily_within_a_stage():
    run = whole_run(tells=False)
    shares = [work.share for _, work in run.seen]
    assert all(b >= a - 0.02 for a, b in pairwise(shares))
    assert max(b - a for a, b in pairwise(shares)) < 0.06


def test_passes_are_counted_of_those_expected():
    run = whole_run(tells=False)
    halfway = run.seen[30][1]
    assert halfway.passes == pytest.approx(100 * N, rel=0.2)
    assert halfway.expected_passes == pytest.approx(900 * N, rel=0.05)
    done = run.forecast.work()
    assert done.passes == done.expected_passes == 900 * N


@pytest.mark.parametrize(("n", "drawn"), [(3, 3), (40, 5), (200, 20)])
def test_a_sampled_attack_is_expected_on_its_sample(n, drawn):
    run = Run([STAGES[0], replace(STAGES[3], sampled=True)], n=n)
    run.stage("certify", 0, seconds=n * SECONDS, n=n, left=n)
    assert run.forecast.work().seconds_left == pytest.approx(700 * drawn * SECONDS, rel=0.05)


def test_an_attack_that_gives_up_early_is_believed():
    run = Run()
    run.stage("certify", 0, seconds=N * SECONDS)
    run.forecast.enter("apgd", N, Tally(waiting=N))
    run.spend(10 * N * SECONDS, 10 * N)
    planned = run.forecast.work().seconds_left
    run.forecast.tell(5 * N)
    assert planned - run.forecast.work().seconds_left == pytest.approx(185 * N * SECONDS, rel=0.05)


def test_the_speed_of_the_attack_at_work_counts_for_later_ones():
    run = Run()
    run.stage("certify", 0, seconds=N * SECONDS)
    run.forecast.enter("apgd", N, Tally(waiting=N))
    run.forecast.tell(200 * N)
    # Ten times slower than the clean pass.
    run.spend(2000 * N * SECONDS, 200 * N)
    run.forecast.tell(0)
    # 50 as long as passes, and 700 passes.
    left = run.forecast.work().seconds_left
    assert left == pytest.approx(7500 * N * SECONDS, rel=0.1)


def test_decided_examples_are_expected_in_no_later_stage():
    run = Run()
    run.stage("certify", 0, seconds=N * SECONDS)
    run.stage("apgd", 200, left=N // 4)
    # 50 as long as passes, and 700 passes, of a quarter of the examples.
    assert run.forecast.work().seconds_left == pytest.approx(750 * N / 4 * SECONDS, rel=0.01)


def test_audited_examples_are_expected_in_the_attacks():
    run = Run(audit_share=0.1)
    run.forecast.enter("certify", N, Tally(waiting=N))
    run.spend(N * SECONDS)
    run.forecast.finish(N, Tally(waiting=0, decided=N, certified=N))
    run.forecast.leave()
    # At least six of them.
    assert run.forecast.work().seconds_left == pytest.approx(6 * 900 * SECONDS, rel=0.01)


def test_examples_attacked_at_a_larger_eps_are_not_attacked_again():
    run = Run(n_eps=2)
    run.stage("certify", 0, seconds=N * SECONDS)
    run.stage("apgd", 200)
    run.forecast.begin(STAGES, 0)
    run.forecast.enter("relaxation", N, Tally(waiting=N, attacked=N))
    assert run.forecast.work().seconds_left == pytest.approx(50 * N * SECONDS, rel=0.01)


def test_more_eps_take_more_time():
    one, three = Run(), Run(n_eps=3)
    for run in (one, three):
        run.stage("certify", 0, seconds=N * SECONDS)
        run.forecast.enter("apgd", N, Tally(waiting=N))
        run.spend(N * SECONDS, N)
        run.forecast.finish(N, Tally(waiting=0, decided=N, broken=N))
    assert three.forecast.work().seconds_left > one.forecast.work().seconds_left


def test_a_stage_longer_than_planned_never_promises_its_end_at_once():
    run = Run()
    run.forecast.enter("apgd", N, Tally(waiting=N))
    run.spend(2_000 * N * SECONDS, 2_000 * N)
    left = run.forecast.work()
    assert left.seconds_left > 0.04 * left.seconds
    assert left.share < 1


def test_a_search_over_many_radii_is_promised_by_its_own_share():
    run = Run()
    run.forecast.search(0.0)
    assert math.isnan(run.forecast.work().seconds_left)
    run.now += 30
    run.forecast.search(0.25)
    assert run.forecast.work().seconds_left == pytest.approx(90)
    run.now += 20
    assert run.forecast.work().seconds_left == pytest.approx(70)
    run.now += 1000
    assert run.forecast.work().seconds_left == pytest.approx(27)


def test_nothing_is_promised_before_anything_was_measured():
    forecast = Forecast(lambda: 0, clock=lambda: 0.0)
    forecast.begin(STAGES, N)
    assert math.isnan(forecast.work().seconds_left)
