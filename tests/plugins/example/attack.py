"""Attack "ascent": steps along the normalised gradient of the cross-entropy, each projected."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from robustbench_dyn import Attack
from robustbench_dyn.attacks.problem import AttackProblem
from robustbench_dyn.threat_models import project


@dataclass(frozen=True, kw_only=True)
class Ascent(Attack):
    """Its fields are its settings; step_size is a share of eps."""

    name: ClassVar = "ascent"
    description: ClassVar = "normalised gradient steps on the cross-entropy"
    norms: ClassVar = frozenset({"L2"})
    n_steps: int = 20
    step_size: float = 0.25

    def perturb(self, problem: AttackProblem) -> Tensor:
        """Return candidates of x's shape; the evaluation projects and predicts them again."""
        x_adv, step = problem.x, self.step_size * problem.threat_model.eps
        for _ in range(self.n_steps):
            x_adv = x_adv.detach().requires_grad_()
            loss = cross_entropy(problem.model(x_adv), problem.y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x_adv)
            moved = x_adv + step * normalize(gradient.flatten(1)).view_as(x_adv)
            x_adv = project(moved, problem.x, problem.threat_model)
        return x_adv


ATTACKS = (Ascent,)
