"""Verdicts: each status needs its evidence, and NaN is evidence of nothing."""

import math
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_dyn.errors import InputError
from robustbench_dyn.results.verdicts import EXAMPLE_COLUMNS, Outcome, Status, Step, Verdict, alike

few = settings(deadline=None, max_examples=100)
NAN, INF = math.nan, math.inf
INTERNAL = ["eps", "x_adv", "next_stage", "trail"]

GOOD = {
    Status.MISCLASSIFIED: {"prediction": 4},
    Status.BROKEN: {"attack": "pgd", "adversarial_distance": 0.5},
    Status.CERTIFIED: {"certifier": "lipschitz", "certified_radius": 0.5},
    Status.UNDECIDED: {"reason": "survived pgd"},
    Status.ERROR: {"prediction": -1, "reason": "pgd failed"},
}
BREAKING = [
    ("right is not wrong", Status.MISCLASSIFIED, {"prediction": 3}),
    ("no usable prediction", Status.MISCLASSIFIED, {"prediction": -1}),
    ("was wrong anyway", Status.BROKEN, {"prediction": 4}),
    ("no usable prediction", Status.BROKEN, {"prediction": -1}),
    ("no attack", Status.BROKEN, {"attack": ""}),
    ("too far", Status.BROKEN, {"adversarial_distance": math.nextafter(0.5, 1)}),
    ("infinitely far", Status.BROKEN, {"adversarial_distance": INF}),
    ("no distance", Status.BROKEN, {"adversarial_distance": NAN}),
    ("no eps", Status.BROKEN, {"eps": NAN}),
    ("wrong is not safe", Status.CERTIFIED, {"prediction": 4}),
    ("no usable prediction", Status.CERTIFIED, {"prediction": -1}),
    ("no certifier", Status.CERTIFIED, {"certifier": ""}),
    ("too small a radius", Status.CERTIFIED, {"certified_radius": math.nextafter(0.5, 0)}),
    ("radius 0", Status.CERTIFIED, {"certified_radius": 0.0}),
    ("no radius", Status.CERTIFIED, {"certified_radius": NAN}),
    ("no eps", Status.CERTIFIED, {"eps": NAN}),
    ("wrong is decided", Status.UNDECIDED, {"prediction": 4}),
    ("no usable prediction", Status.UNDECIDED, {"prediction": -1}),
    ("no reason", Status.UNDECIDED, {"reason": ""}),
    ("no reason", Status.ERROR, {"reason": ""}),
]


def record(status, kind=Verdict, **change):
    evidence = {"prediction": 3, "eps": 0.5, **GOOD[status], **change}
    return kind(example_id=7, label=3, status=status, **evidence)


def accepted(kind):
    """Return the breaking records that the class lets through."""
    through = []
    for rule, status, change in BREAKING:
        try:
            record(status, kind, **change)
        except InputError:
            continue
        through.append((rule, status))
    return through


@pytest.mark.parametrize("status", Status)
def test_a_record_with_its_evidence_is_accepted(status):
    assert record(status).status is status
    assert status in GOOD


@pytest.mark.parametrize(("rule", "status", "change"), BREAKING)
def test_a_record_without_its_evidence_is_refused(rule, status, change):
    with pytest.raises(InputError, match=f"does not carry the status '{status}'.*Verdict"):
        record(status, **change)


def test_a_class_without_the_invariants_is_caught():
    class Unchecked(Verdict):
        def __post_init__(self):
            pass

    assert accepted(Verdict) == []
    assert len(accepted(Unchecked)) == len(BREAKING)


def test_inverted_comparisons_let_nan_through_and_are_caught():
    class Inverted(Verdict):
        def __post_init__(self):
            if self.adversarial_distance > self.eps or self.certified_radius < self.eps:
                raise InputError("too far")

    caught = accepted(Inverted)
    assert ("no distance", Status.BROKEN) in caught
    assert ("no radius", Status.CERTIFIED) in caught
    assert ("too far", Status.BROKEN) not in caught


@pytest.mark.parametrize(
    ("status", "change"),
    [
        (Status.BROKEN, {"adversarial_distance": 0.5}),
        (Status.CERTIFIED, {"certified_radius": 0.5}),
        (Status.CERTIFIED, {"certified_radius": INF}),
        (Status.ERROR, {"prediction": 3}),
        (Status.ERROR, {"prediction": 4}),
    ],
)
def test_the_edge_of_a_rule_is_inside(status, change):
    assert record(status, **change).status is status


numbers = st.one_of(st.floats(0, 1), st.sampled_from([NAN, INF, 0.5]))


@few
@given(st.sampled_from(Status), st.sampled_from([-1, 3, 4]), numbers, numbers)
def test_nothing_is_both_certified_and_wrong_or_broken_and_far(status, prediction, reached, radius):
    change = {
        "prediction": prediction,
        "reason": "r",
        "attack": "a",
        "certifier": "c" if radius > 0 else "",
        "adversarial_distance": reached,
        "certified_radius": radius,
    }
    holds = {
        Status.MISCLASSIFIED: prediction == 4,
        Status.BROKEN: prediction == 3 and not math.isnan(reached) and reached <= 0.5,
        Status.CERTIFIED: prediction == 3 and not math.isnan(radius) and radius >= 0.5,
        Status.UNDECIDED: prediction == 3,
        Status.ERROR: True,
    }
    if holds[status]:
        assert record(status, **change).prediction == prediction
    else:
        with pytest.raises(InputError):
            record(status, **change)


@pytest.mark.parametrize("status", Status)
def test_a_changed_copy_is_checked_again(status):
    verdict = record(status)
    for other in Status:
        if other not in (status, Status.ERROR):
            with pytest.raises(InputError):
                replace(verdict, status=other)
    assert replace(verdict, seconds=1.5).seconds == 1.5


def test_verdicts_cannot_be_changed():
    verdict = record(Status.UNDECIDED)
    with pytest.raises(FrozenInstanceError):
        verdict.status = Status.CERTIFIED


def test_the_message_shows_the_record_without_image_bytes():
    with pytest.raises(InputError, match="example_id=7") as caught:
        record(Status.BROKEN, attack="", x_adv=b"secret")
    assert "secret" not in str(caught.value)
    assert "adversarial_distance=0.5" in str(caught.value)


def test_columns_are_the_fields_but_eps_the_image_and_the_state():
    names = [column.name for column in fields(Verdict)]
    assert [name for name in names if name not in EXAMPLE_COLUMNS] == INTERNAL
    assert [name for name in names if name in EXAMPLE_COLUMNS] == list(EXAMPLE_COLUMNS)
    assert EXAMPLE_COLUMNS[:4] == ("example_id", "label", "prediction", "status")


def test_a_certifier_without_a_radius_is_no_evidence():
    for radius in (math.nan, 0.0):
        with pytest.raises(InputError, match="does not carry"):
            record(Status.UNDECIDED, certifier="c", certified_radius=radius)
    assert record(Status.UNDECIDED, certifier="c", certified_radius=0.1).certifier == "c"


def test_verdicts_are_alike_where_numbers_alone_tell_them_apart():
    trail = (Step("pgd", Outcome.SURVIVED, 0.5),)
    one = record(Status.UNDECIDED, trail=trail)
    other = replace(one, example_id=8, seconds=2.0, certified_radius=0.1)
    apart = [
        replace(one, trail=(Step("pgd", Outcome.FAILED, 0.5),)),
        replace(one, next_stage="square"),
        replace(one, eps=0.25),
        record(Status.MISCLASSIFIED, trail=trail),
        record(Status.CERTIFIED, trail=trail),
        record(Status.CERTIFIED, trail=trail, certifier="interval"),
        record(Status.BROKEN, trail=trail),
        record(Status.BROKEN, trail=trail, attack="fab-t"),
    ]
    assert alike([one, *apart, other]) == [[one, other], *([verdict] for verdict in apart)]
