"""FGSM, PGD, CW and DeepFool, as the library torchattacks has them (arXiv 2010.01950).

Settings have the library's names, but for n_steps.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.attacks.problem import AttackProblem

# CW works in arctanh(2x - 1), whose gradient is zero at 0 and 1: there no pixel would ever move.
CW_INSET = 1e-3


@dataclass(frozen=True, kw_only=True)
class TorchattacksAttack(Attack):
    """An attack of torchattacks."""

    library: ClassVar[str] = "torchattacks"


@dataclass(frozen=True, kw_only=True)
class FGSM(TorchattacksAttack):
    """The fast gradient sign method."""

    name = "fgsm"
    norms = frozenset({"Linf"})
    description = "fast gradient sign method, one step (arXiv 1412.6572)"

    def perturb(self, problem: AttackProblem) -> Tensor:
        return _run(
            _library().FGSM(problem.model, eps=problem.threat_model.eps), problem, problem.x
        )


@dataclass(frozen=True, kw_only=True)
class PGD(TorchattacksAttack):
    """Projected gradient descent; alpha: the length of a step, by default 2.5 eps / n_steps."""

    name = "pgd"
    norms = frozenset({"Linf", "L2"})
    description = "projected gradient descent, 20 steps (arXiv 1706.06083)"

    n_steps: int = 20
    alpha: float | None = None
    random_start: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha is not None and not self.alpha > 0:
            raise InputError(f"alpha={self.alpha} is not positive; give the length of a step")

    def perturb(self, problem: AttackProblem) -> Tensor:
        library, eps = _library(), problem.threat_model.eps
        kind = {"Linf": library.PGD, "L2": library.PGDL2}[problem.threat_model.norm]
        # The steps together are 2.5 radii long: from any start to any point of the ball
        # (arXiv 1706.06083).
        alpha = 2.5 * eps / self.n_steps if self.alpha is None else self.alpha
        attack = kind(
            problem.model, eps=eps, alpha=alpha, steps=self.n_steps, random_start=self.random_start
        )
        return _run(attack, problem, problem.x)


@dataclass(frozen=True, kw_only=True)
class CW(TorchattacksAttack):
    """Carlini and Wagner's attack with n_constants constants: c, 10 c, 100 c, ...

    The library does not search for the constant: each is tried, and the nearest success is kept.
    kappa: the margin by which another class has to lead. lr: the learning rate.
    """

    name = "cw"
    norms = frozenset({"L2"})
    description = "Carlini and Wagner, minimum norm (arXiv 1608.04644)"

    n_steps: int = 100
    c: float = 0.1
    n_constants: int = 4
    kappa: float = 0.0
    lr: float = 0.01

    def perturb(self, problem: AttackProblem) -> Tensor:
        import torch

        shifted = _nonnegative(problem.model)
        inset = problem.x.clamp(CW_INSET, 1 - CW_INSET)
        best = problem.x.clone()
        nearest = torch.full((len(best),), torch.inf, device=best.device)
        for k in range(self.n_constants):
            attack = _library().CW(
                shifted, c=self.c * 10**k, kappa=self.kappa, steps=self.n_steps, lr=self.lr
            )
            found = _run(attack, problem, inset)
            with torch.no_grad():
                fooled = problem.model(found).argmax(dim=1) != problem.y
            size = (found - problem.x).flatten(1).norm(dim=1)
            better = fooled & (size < nearest)
            best[better], nearest[better] = found[better], size[better]
        return best


@dataclass(frozen=True, kw_only=True)
class DeepFool(TorchattacksAttack):
    """DeepFool."""

    name = "deepfool"
    norms = frozenset({"L2"})
    description = "DeepFool, minimum norm (arXiv 1511.04599)"

    n_steps: int = 50
    overshoot: float = 0.02

    def perturb(self, problem: AttackProblem) -> Tensor:
        attack = _library().DeepFool(problem.model, steps=self.n_steps, overshoot=self.overshoot)
        return _run(attack, problem, problem.x)


def _library() -> ModuleType:
    """Import torchattacks, but not yet scipy.stats, which takes half a second.

    One of its attacks, which is none of these, imports it at the top of its module.
    """
    if "scipy.stats" not in sys.modules:
        scipy: Any = importlib.import_module("scipy")
        spec: Any = importlib.util.find_spec("scipy.stats")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        scipy.stats = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(scipy.stats)
    return importlib.import_module("torchattacks")


def _nonnegative(model: nn.Module) -> nn.Module:
    """Shift each example's logits to a minimum of 0, which changes no margin.

    The library's CW masks logits by multiplying with 0 before it takes their maximum, so that a
    negative logit loses to the mask, and its gradient with it.
    """
    from torch import nn

    class Nonnegative(nn.Module):
        """The model with shifted logits."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.model(images)
            return logits - logits.detach().amin(dim=1, keepdim=True)

    return Nonnegative().eval()


def _run(attack: Any, problem: AttackProblem, x: Tensor) -> Tensor:
    import torch

    torch.manual_seed(problem.seed)
    with torch.enable_grad():
        found: Tensor = attack(x, problem.y)
    return found


ATTACKS: tuple[type[Attack], ...] = (FGSM, PGD, CW, DeepFool)
