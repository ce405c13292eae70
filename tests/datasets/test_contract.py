"""The contract of data sets: the built-in ones keep it, and each fault is caught by its rule."""

from dataclasses import replace

import numpy as np
import pytest

from robustbench_dyn.datasets import contract, dataset_info
from robustbench_dyn.errors import DataUnavailableError

FAULTS = [(rule.name, fault) for rule in contract.rules() for fault, _ in rule.broken]


@pytest.mark.parametrize("name", ["fashion_mnist", "digits", "moons", "spirals"])
def test_built_in_data_sets_keep_the_contract(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    findings = list(contract.check_dataset(dataset_info(name)))
    assert [finding.rule for finding in findings if finding.holds is False] == []
    assert len(findings) == 7


@pytest.mark.parametrize(("rule", "fault"), FAULTS)
def test_each_fault_is_caught_by_its_rule(rule, fault):
    (broken,) = (
        dict(r.broken)[fault]
        for r in contract.rules()
        if r.name == rule and fault in dict(r.broken)
    )
    (finding,) = (f for f in contract.check_dataset(broken.info) if f.rule == rule)
    assert finding.holds is False
    assert "the test is wrong" not in finding.detail


def test_one_damaged_split_is_named():
    moons = dataset_info("moons")

    def load_raw(split, folder):
        raw = moons.load_raw(split, folder)
        return raw._replace(x=raw.x * np.float32(255)) if split == "test" else raw

    (finding,) = (
        f for f in contract.check_dataset(replace(moons, load_raw=load_raw)) if f.holds is False
    )
    assert finding.rule == "x / white lies in [0, 1] and is not scaled twice"
    assert finding.detail == "test: x / white goes from 0.198441 to 252.739"


def test_a_training_split_that_is_not_here_is_left_out():
    moons = dataset_info("moons")

    def load_raw(split, folder):
        if split == "train":
            raise DataUnavailableError("not here")
        return moons.load_raw(split, folder)

    findings = list(contract.check_dataset(replace(moons, load_raw=load_raw)))
    assert findings[0].detail == "read: test"
    assert findings[-1].holds is None


def test_a_test_split_that_is_not_here_cannot_be_checked():
    def load_raw(_split, _folder):
        raise DataUnavailableError("not here")

    with pytest.raises(DataUnavailableError, match="not here"):
        list(contract.check_dataset(replace(dataset_info("moons"), load_raw=load_raw)))


def test_a_control_that_is_not_caught_fails_the_check(monkeypatch):
    monkeypatch.setattr(contract, "_LEAST_MAXIMUM", 0)
    (finding,) = (f for f in contract.check_dataset(dataset_info("moons")) if f.holds is False)
    assert finding.detail == "the test is wrong: it passes one that is scaled twice"
