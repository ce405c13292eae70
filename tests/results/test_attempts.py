"""What certifiers came to, against verdicts that were made by hand."""

import pytest

from robustbench_dyn.results.attempts import Spread, attempts_of
from robustbench_dyn.results.rows import row_of, verdict_of
from robustbench_dyn.results.spec import EvaluationSpec, SmoothingSpec, StageSpec
from robustbench_dyn.results.verdicts import Outcome, Status, Step, Verdict

EPS = 0.5
LIPSCHITZ = StageSpec(name="lipschitz", label="lipschitz-from-L2")
INTERVAL = StageSpec(name="interval", label="interval")


def spec(*certifiers, **options):
    return EvaluationSpec(
        model="m", dataset="digits", norm="Linf", certifiers=certifiers, **options
    )


def certified(i, stage):
    step = Step(stage.label, Outcome.CERTIFIED, EPS)
    return Verdict(i, 0, 0, Status.CERTIFIED, EPS, 0.6, stage.label, trail=(step,))


def undecided(i, *steps, radius=float("nan"), certifier=""):
    return Verdict(i, 0, 0, Status.UNDECIDED, EPS, radius, certifier, reason="x", trail=steps)


def opened(stage, margin=None, message="", outcome=Outcome.OPEN):
    return Step(stage.name, outcome, EPS, message, margin)


def test_radii_below_eps_and_margins_below_0_tell_what_is_lacking():
    verdicts = [
        certified(0, LIPSCHITZ),
        undecided(1, opened(LIPSCHITZ), radius=0.1, certifier=LIPSCHITZ.label),
        undecided(2, opened(LIPSCHITZ), opened(INTERVAL, -3.0), radius=0.3, certifier="other"),
        undecided(
            3,
            opened(LIPSCHITZ),
            opened(INTERVAL, -1.0),
            radius=0.2,
            certifier=LIPSCHITZ.label,
        ),
        Verdict(4, 0, 1, Status.MISCLASSIFIED, EPS),
    ]
    lipschitz, interval = attempts_of(verdicts, spec(LIPSCHITZ, INTERVAL), eps=EPS)
    assert (lipschitz.tried, lipschitz.proved) == (4, 1)
    assert lipschitz.radii == Spread(0.2, pytest.approx(0.15))
    assert lipschitz.margins is None
    assert (interval.tried, interval.proved) == (2, 0)
    assert interval.margins == Spread(-1.0, -2.0)
    assert interval.radii is None


def test_a_certifier_that_left_examples_for_a_reason_of_its_own_says_which():
    verdicts = [
        undecided(0, opened(INTERVAL, message="gave up after 5 s")),
        undecided(1, opened(INTERVAL, message="gave up after 5 s")),
        undecided(2, opened(INTERVAL, -1.0)),
        undecided(3, opened(INTERVAL, outcome=Outcome.WITHIN_ROUNDING, message="rounding")),
    ]
    (attempt,) = attempts_of(verdicts, spec(INTERVAL), eps=EPS)
    assert attempt.unproved == {"gave up after 5 s": 2, "within rounding: rounding": 1}
    assert attempt.tried == 4


def test_what_is_not_applicable_has_its_reason_and_no_numbers():
    reasons = {"complete": "too many neurons", INTERVAL.label: "the bound is wrong"}
    found = attempts_of(
        [certified(0, LIPSCHITZ)], spec(LIPSCHITZ, INTERVAL), eps=EPS, not_applicable=reasons
    )
    told = {attempt.certifier: (attempt.not_applicable, attempt.tried) for attempt in found}
    assert told == {
        "lipschitz-from-L2": ("", 1),
        "interval": ("the bound is wrong", 0),
        "complete": ("too many neurons", 0),
    }


def test_nothing_counts_of_a_model_that_is_no_function():
    (attempt,) = attempts_of([undecided(0)], spec(INTERVAL), eps=EPS, flags=["random_outputs"])
    assert "random_outputs" in attempt.not_applicable
    # A flag that voids no certificate changes nothing.
    (other,) = attempts_of([undecided(0)], spec(INTERVAL), eps=EPS, flags=["softmax_outputs"])
    assert other.not_applicable == ""


def test_votes_are_tried_on_all_correct_examples():
    smoothing = SmoothingSpec(sigma=0.25, n0=10, n=100, alpha=0.001)
    votes = StageSpec(name="smoothing", label="smoothing(n=100 alpha=0.001)")
    verdicts = [certified(0, votes), undecided(1), undecided(2, radius=0.1, certifier=votes.label)]
    (attempt,) = attempts_of(verdicts, spec(votes, smoothing=smoothing), eps=EPS)
    assert (attempt.tried, attempt.proved, attempt.radii) == (3, 1, Spread(0.1, 0.1))


@pytest.mark.parametrize("margin", [None, -1.25])
def test_a_margin_is_kept_in_a_store_and_left_out_where_there_is_none(margin):
    verdict = undecided(0, opened(INTERVAL, margin))
    row = row_of("key", verdict)
    assert verdict_of(row).trail == verdict.trail
    # As earlier versions wrote it.
    assert ("-1.25" in row[-1]) == (margin is not None)
    assert row[-1].count(",") == (3 if margin is None else 4)
