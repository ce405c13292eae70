"""A user's attack: a class with settings and one method, in less than 30 lines."""

from dataclasses import dataclass

import pytest
import torch
from oracles import halfspaces, points

from robustbench_dyn import InputError, ThreatModel, evaluate
from robustbench_dyn.attacks import PGD, Attack, AttackProblem, resolve_attacks


@dataclass(frozen=True, kw_only=True)
class GradientStep(Attack):
    """Steps of equal length along the gradient of the margin, in L2."""

    name = "gradient-step"
    norms = frozenset({"L2"})
    description = "steps along the gradient"

    n_steps: int = 1

    def perturb(self, problem: AttackProblem) -> torch.Tensor:
        x, y = problem.x.clone().requires_grad_(), problem.y[:, None]
        for _ in range(self.n_steps):
            with torch.enable_grad():
                logits = problem.model(x)
                others = logits.scatter(1, y, -torch.inf).amax(dim=1)
                lead = others - logits.gather(1, y).squeeze(1)
                (gradient,) = torch.autograd.grad(lead.sum(), x)
            length = problem.threat_model.eps / self.n_steps
            unit = gradient / gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            x = (x + length * unit).detach().requires_grad_()
        return x.detach()


DISTANCES = (0.1, 0.2, 0.3)


def test_it_breaks_what_lies_within_eps_and_is_named_with_its_settings():
    evaluation = evaluate(
        halfspaces(),
        points(DISTANCES),
        ThreatModel("L2", 0.25),
        attacks=[GradientStep(n_steps=2), "square:n_queries=10"],
        certifiers=[],
    )
    assert list(evaluation.examples["status"]) == ["broken", "broken", "undecided"]
    assert list(evaluation.examples["attack"][:2]) == ["gradient-step"] * 2
    attacks = "gradient-step(n_steps=2)+square(n_queries=10)"
    assert evaluation.summary["attacks"] == attacks


def test_other_settings_make_another_evaluation():
    data, threat_model = points(DISTANCES), ThreatModel("L2", 0.25)
    keys = [
        evaluate(halfspaces(), data, threat_model, attacks=attacks, certifiers=[]).key
        for attacks in (GradientStep(), [GradientStep(n_steps=1)], GradientStep(n_steps=2))
    ]
    assert keys[0] == keys[1] != keys[2]


def test_an_object_obeys_the_same_rules_as_a_name():
    with pytest.raises(InputError, match="'gradient-step' supports L2, not Linf"):
        resolve_attacks(GradientStep(), "Linf", 10)
    with pytest.raises(InputError, match="n_steps=0 is below 1"):
        GradientStep(n_steps=0)
    with pytest.raises(InputError, match=r"PGD.* is neither a name nor an attack; give an object"):
        resolve_attacks(PGD, "L2", 10)


def test_a_class_cannot_take_the_name_of_a_built_in_attack():
    class Tuned(PGD):
        pass

    with pytest.raises(InputError, match="Tuned is called 'pgd', as a built-in attack is"):
        resolve_attacks(Tuned(), "L2", 10)
