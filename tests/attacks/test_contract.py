"""The contract of attacks: real attacks keep it, and each fault is caught by its rule."""

import math

import pytest
import torch

from robustbench_dyn.attacks import ATTACKS, contract
from robustbench_dyn.attacks.halfspaces import Halfspaces, examples_at_distance, step_across
from robustbench_dyn.threat_models import NORMS, ThreatModel, distance

FAULTS = [(rule.name, fault) for rule in contract.rules("L2") for fault, _ in rule.broken]


@pytest.mark.parametrize("norm", NORMS)
def test_distances_to_halfspaces_are_exact(norm):
    model = Halfspaces(4)
    x, y = examples_at_distance(model, 6, norm, 0.03)
    model.eval()
    assert len(x) == 6
    assert (x - 0.5).abs().max() <= 0.25
    assert torch.equal(model(x).argmax(dim=1), y)
    for eps, crossed in ((0.0299, 0), (0.0301, 6)):
        moved = step_across(model, x, y, ThreatModel(norm, eps))
        assert distance(moved, x, norm).tolist() == pytest.approx([eps] * 6, rel=1e-4)
        assert int((model(moved).argmax(dim=1) != y).sum()) == crossed
    # No other step of that length crosses a boundary either.
    generator = torch.Generator().manual_seed(0)
    p = {"Linf": math.inf, "L2": 2, "L1": 1}[norm]
    steps = torch.randn(500, 1, 1, 4, 4, generator=generator)
    steps = 0.0299 * steps / steps.flatten(2).norm(p=p, dim=2)[..., None, None, None]
    assert all(torch.equal(model(x + step).argmax(dim=1), y) for step in steps)


@pytest.mark.parametrize(
    ("name", "norm"),
    [("fab-t", "L1"), ("apgd-t", "L2"), ("square", "Linf"), ("fgsm", "Linf"), ("deepfool", "L2")],
)
def test_built_in_attacks_keep_the_contract(name, norm):
    findings = list(contract.check_attack(ATTACKS.create(name), norm))
    assert [finding.rule for finding in findings if finding.holds is False] == []
    assert len(findings) == 8


def test_attacks_of_libraries_may_look_at_their_batch():
    (finding,) = (
        f for f in contract.check_attack(ATTACKS.create("fgsm"), "Linf") if f.holds is None
    )
    assert finding.rule == "each example has the same candidate alone as among others"
    assert finding.detail == "torchattacks draws for a batch as a whole"


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("rule", "fault"), FAULTS)
def test_each_fault_is_caught_by_its_rule(rule, fault, norm):
    rules = contract.rules(norm)
    (broken,) = (dict(r.broken)[fault] for r in rules if r.name == rule)
    findings = list(contract.check_contract(broken, rules))
    assert next(f for f in findings if f.rule == rule).holds is False
    assert not any("the test is wrong" in finding.detail for finding in findings)


@pytest.mark.parametrize("norm", NORMS)
def test_the_undamaged_attack_keeps_the_contract(norm):
    sound = contract.Subject(contract.Damaged(lambda x_adv, *_: x_adv), norm, 3)
    findings = list(contract.check_contract(sound, contract.rules(norm)))
    # It runs the model in the mode that it comes in, and gradients are off.
    assert [finding.rule for finding in findings if not finding.holds] == []


def test_a_control_that_is_not_caught_fails_the_check(monkeypatch):
    monkeypatch.setattr(contract, "_LEAST_FOUND", 0)
    (finding,) = (f for f in contract.check_attack(ATTACKS.create("pgd"), "L2") if f.holds is False)
    assert finding.detail == "the test is wrong: it passes one that does nothing"
