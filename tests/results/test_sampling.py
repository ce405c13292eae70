"""Samples of survivors: their size, their ranks, and what makes an attack run on all."""

from dataclasses import replace

import pytest
from oracles.records import stages

from robustbench_dyn.results.flags import NO_GRADIENTS, SELF_DECLARED
from robustbench_dyn.results.sampling import (
    draw_sample,
    is_spared,
    ran_and_spared,
    sample_size,
    spares_none,
)
from robustbench_dyn.results.verdicts import Outcome, Sign, Status, Step, Verdict

EPS = 0.5
ATTACKS = (*stages("apgd-ce"), *stages("square", sampled=True, gradient_free=True))


def undecided(example_id, *steps, next_stage="square"):
    trail = (Step("apgd-ce", Outcome.SURVIVED, EPS), *steps)
    return Verdict(
        example_id, 0, 0, Status.UNDECIDED, EPS, reason="?", next_stage=next_stage, trail=trail
    )


def audited(example_id, *steps, next_stage="square"):
    proved = Step("lipschitz", Outcome.CERTIFIED, EPS)
    return Verdict(
        example_id,
        0,
        0,
        Status.CERTIFIED,
        EPS,
        certified_radius=EPS,
        certifier="lipschitz",
        next_stage=next_stage,
        trail=(proved, Step("apgd-ce", Outcome.SURVIVED, EPS), *steps),
    )


def ended(outcome, eps=EPS):
    return Step("square", outcome, eps)


@pytest.mark.parametrize(("n", "size"), [(0, 0), (3, 3), (5, 5), (50, 5), (51, 6), (200, 20)])
def test_a_sample_is_a_tenth_and_at_least_five(n, size):
    assert len(draw_sample(map(undecided, range(n)), "square", 0)) == size
    assert sample_size(n) == size


def test_audited_examples_have_a_sample_of_their_own():
    verdicts = [*map(undecided, range(20)), *map(audited, range(20, 27))]
    sample = draw_sample(verdicts, "square", 0)
    assert len([i for i in sample if i < 20]) == 5
    assert len([i for i in sample if i >= 20]) == 1


def test_ranks_are_each_examples_own():
    many = draw_sample(map(undecided, range(100)), "square", 0)
    few = draw_sample(map(undecided, range(50)), "square", 0)
    assert {i for i in many if i < 50} >= few or {i for i in many if i < 50} <= few
    assert draw_sample(map(undecided, reversed(range(100))), "square", 0) == many
    assert draw_sample(map(undecided, range(100)), "square", 1) != many
    assert (
        draw_sample((undecided(i, next_stage="transfer") for i in range(100)), "transfer", 0)
        != many
    )


def test_a_sample_stays_the_same_while_the_attack_runs():
    before = [undecided(i) for i in range(40)]
    sample = draw_sample(before, "square", 0)
    first, second, third, *_ = sorted(sample)
    done = {
        first: undecided(first, ended(Outcome.SURVIVED), next_stage=""),
        second: undecided(second, ended(Outcome.SURVIVED, 2 * EPS), next_stage="rays"),
        third: Verdict(
            third,
            0,
            0,
            Status.BROKEN,
            EPS,
            adversarial_distance=EPS,
            attack="square",
            trail=(ended(Outcome.BROKEN),),
        ),
    }
    after = [done.get(v.example_id, v) for v in before]
    assert draw_sample(after, "square", 0) == sample
    spared = [
        v if v.example_id in sample else undecided(v.example_id, ended(Outcome.SPARED))
        for v in after
    ]
    assert draw_sample(spared, "square", 0) == sample


def test_examples_that_never_reached_the_attack_are_not_drawn():
    waiting_elsewhere = [undecided(i, next_stage="fab-t") for i in range(9)]
    assert draw_sample(waiting_elsewhere, "square", 0) == set()


@pytest.mark.parametrize(
    ("verdict", "spared"),
    [
        (undecided(0, ended(Outcome.SPARED), next_stage=""), True),
        (audited(0, ended(Outcome.SPARED), next_stage=""), True),
        (undecided(0, ended(Outcome.SURVIVED), next_stage=""), False),
        (undecided(0), False),
        # Spared at another eps, where another sample was drawn.
        (undecided(0, ended(Outcome.SPARED, 2 * EPS)), False),
    ],
)
def test_a_spared_example_is_told_by_its_trail(verdict, spared):
    assert is_spared(verdict, "square") is spared


def test_an_example_proved_later_is_not_spared():
    later = replace(
        audited(0, next_stage=""),
        certifier="complete",
        trail=(
            Step("apgd-ce", Outcome.SURVIVED, EPS),
            ended(Outcome.SPARED),
            Step("complete", Outcome.CERTIFIED, EPS),
        ),
    )
    assert not is_spared(later, "square")
    assert ran_and_spared([[later]], "square") == (0, 1)


@pytest.mark.parametrize(
    ("verdict", "signs", "flags", "none"),
    [
        (undecided(0), [], [], False),
        (undecided(0), [], [SELF_DECLARED], False),
        (undecided(0), [], [NO_GRADIENTS], True),
        (undecided(0), [Sign("zero_gradients", 0.5)], [], True),
        (undecided(0, Step("fab-t", Outcome.FAILED, EPS)), [], [], True),
        (
            Verdict(0, 0, 0, Status.BROKEN, EPS, adversarial_distance=EPS, attack="square"),
            [],
            [],
            True,
        ),
        (
            Verdict(0, 0, 0, Status.BROKEN, EPS, adversarial_distance=EPS, attack="apgd-ce"),
            [],
            [],
            False,
        ),
    ],
)
def test_hits_failures_signs_and_flags_end_the_sampling(verdict, signs, flags, none):
    assert spares_none([verdict], ATTACKS, signs=signs, flags=flags) is none
