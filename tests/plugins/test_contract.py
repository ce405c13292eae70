"""Contracts: what counts as kept, and tests that pass what they should catch."""

import pytest

from robustbench_dyn.errors import DataUnavailableError
from robustbench_dyn.plugins.contract import (
    Control,
    Finding,
    Outcome,
    Rule,
    check_contract,
    with_controls,
)


def positive(number):
    return Outcome(number > 0, f"it is {number}")


def raising(error):
    def test(_subject):
        raise error

    return test


def check(subject, *rules):
    return list(check_contract(subject, rules))


def test_a_rule_is_kept_or_broken_with_its_detail():
    rule = Rule("positive", positive, [("is negative", -1), ("is zero", 0)])
    assert check(2, rule) == [("positive", True, "it is 2", ("is negative", "is zero"))]
    assert check(-3, rule)[0][:3] == ("positive", False, "it is -3")


def test_an_exception_of_the_subject_breaks_the_rule():
    def test(number):
        return positive(1 / number)

    (finding,) = check(0, Rule("positive inverse", test, [("is negative", -1)]))
    assert finding.holds is False
    assert finding.detail == "it raises ZeroDivisionError: division by zero"


def test_a_test_that_passes_a_broken_counterpart_is_wrong():
    rule = Rule("positive", lambda _number: Outcome(True), [("is negative", -1)])
    (finding,) = check(2, rule)
    assert finding.holds is False
    assert finding.detail == "the test is wrong: it passes one that is negative"


def test_a_crash_on_a_counterpart_catches_nothing():
    def test(number):
        return Outcome(1 / number > 0)

    with pytest.raises(ZeroDivisionError):
        check(2, Rule("positive", test, [("is zero", 0)]))


def test_a_rule_may_not_apply():
    rule = Rule("positive", lambda _number: Outcome(None, "no number"), [("is negative", -1)])
    assert check(2, rule) == [("positive", None, "no number", ())]


def test_missing_data_break_no_rule():
    rule = Rule("loads", raising(DataUnavailableError("not here")), [])
    with pytest.raises(DataUnavailableError, match="not here"):
        check(2, rule)


def findings(**holds):
    return [Finding(rule, kept, f"{rule} is {kept}") for rule, kept in holds.items()]


def test_controls_that_are_caught_are_named():
    controls = [
        Control("sound", "grows radii", lambda: findings(sound=False, useful=True)),
        Control("sound", "adds radii", lambda: findings(sound=False, useful=True)),
        Control("useful", "proves nothing", lambda: findings(sound=True, useful=False)),
    ]
    found = list(with_controls(findings(sound=True, useful=False), controls))
    assert found == [
        ("sound", True, "sound is True", ("grows radii", "adds radii")),
        ("useful", False, "useful is False", ("proves nothing",)),
    ]


def test_a_control_that_is_not_caught_fails_its_rule():
    controls = [
        Control("sound", "grows radii", lambda: findings(sound=False)),
        Control("sound", "adds radii", lambda: findings(sound=True)),
    ]
    (found,) = with_controls(findings(sound=True), controls)
    assert found == ("sound", False, "the test is wrong: it passes one that adds radii", ())


def test_a_rule_without_a_control_is_not_kept():
    (found,) = with_controls(findings(sound=True), [])
    assert found.holds is False
    assert found.detail == "the test is wrong: it passes one that breaks the rule"
