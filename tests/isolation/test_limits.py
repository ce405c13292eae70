"""Limits of the processes of plugins, and how a user gives them."""

import pytest

from robustbench_dyn.cli.callbacks import use_limits
from robustbench_dyn.errors import InputError
from robustbench_dyn.isolation.limits import Limits
from robustbench_dyn.plugins import discovery, limits_in_use


@pytest.mark.parametrize(
    "limits",
    [
        {"memory_gib": 0},
        {"memory_gib": float("nan")},
        {"memory_gib": float("inf")},
        {"seconds_per_call": -1},
        {"seconds_per_call": True},
        {"open_files": 3},
    ],
)
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(InputError, match="makes no sense"):
        Limits(**limits)


def test_the_option_sets_the_limits(monkeypatch):
    monkeypatch.setattr(discovery, "_limits", [Limits()])
    use_limits("memory_gib=2,seconds_per_call=3")
    assert limits_in_use() == Limits(memory_gib=2, seconds_per_call=3)


@pytest.mark.parametrize("text", ["memory=2", "memory_gib=2,square", "memory_gib=much", "2"])
def test_a_bad_option_is_refused(text, monkeypatch):
    monkeypatch.setattr(discovery, "_limits", [Limits()])
    with pytest.raises(InputError):
        use_limits(text)
    assert limits_in_use() == Limits()
