"""FGSM, PGD, CW and DeepFool, as the library torchattacks has them (arXiv 2010.01950)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from robustbench_dyn.attacks.base import Attack, Problem, searching

if TYPE_CHECKING:
    from torch import Tensor, nn

PGD_STEPS = 20
# The library does not search for CW's constant: each of these is tried, the nearest success kept.
CW_CONSTANTS = (0.1, 1.0, 10.0, 100.0)
CW_STEPS, CW_LEARNING_RATE = 100, 0.01
# CW works in arctanh(2x - 1), whose gradient is zero at 0 and 1: there no pixel would ever move.
CW_INSET = 1e-3


def _fgsm(problem: Problem) -> Tensor:
    from torchattacks import FGSM  # noqa: PLC0415

    return _run(FGSM(problem.model, eps=problem.threat_model.eps), problem, problem.x)


def _pgd(problem: Problem) -> Tensor:
    from torchattacks import PGD, PGDL2  # noqa: PLC0415

    eps = problem.threat_model.eps
    kind = {"Linf": PGD, "L2": PGDL2}[problem.threat_model.norm]
    # The steps together are 2.5 radii long: from any start to any point of the ball (1706.06083).
    attack = kind(problem.model, eps=eps, alpha=2.5 * eps / PGD_STEPS, steps=PGD_STEPS)
    return _run(attack, problem, problem.x)


def _cw(problem: Problem) -> Tensor:
    import torch  # noqa: PLC0415
    from torchattacks import CW  # noqa: PLC0415

    shifted = _nonnegative(problem.model)
    inset = problem.x.clamp(CW_INSET, 1 - CW_INSET)
    best = problem.x.clone()
    nearest = torch.full((len(best),), torch.inf, device=best.device)
    for c in CW_CONSTANTS:
        found = _run(CW(shifted, c=c, steps=CW_STEPS, lr=CW_LEARNING_RATE), problem, inset)
        with torch.no_grad():
            fooled = problem.model(found).argmax(dim=1) != problem.y
        size = (found - problem.x).flatten(1).norm(dim=1)
        better = fooled & (size < nearest)
        best[better], nearest[better] = found[better], size[better]
    return best


def _nonnegative(model: nn.Module) -> nn.Module:
    """Shift each example's logits to a minimum of 0, which changes no margin.

    The library's CW masks logits by multiplying with 0 before it takes their maximum, so that a
    negative logit loses to the mask, and its gradient with it.
    """
    from torch import nn  # noqa: PLC0415

    class Nonnegative(nn.Module):
        """The model with shifted logits."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.model(images)
            return logits - logits.detach().amin(dim=1, keepdim=True)

    return Nonnegative().eval()


def _deepfool(problem: Problem) -> Tensor:
    from torchattacks import DeepFool  # noqa: PLC0415

    return _run(DeepFool(problem.model, steps=50, overshoot=0.02), problem, problem.x)


def _run(attack: Any, problem: Problem, x: Tensor) -> Tensor:
    import torch  # noqa: PLC0415

    torch.manual_seed(problem.seed)
    with torch.enable_grad():
        found: Tensor = attack(x, problem.y)
    return found


def _attack(
    name: str, norms: set[str], description: str, perturb: Callable[[Problem], Tensor]
) -> Attack:
    return Attack(name, frozenset(norms), "torchattacks", description, 2, searching(perturb))


ATTACKS = (
    _attack("fgsm", {"Linf"}, "fast gradient sign method, one step (arXiv 1412.6572)", _fgsm),
    _attack("pgd", {"Linf", "L2"}, "projected gradient descent, 20 steps (arXiv 1706.06083)", _pgd),
    _attack("cw", {"L2"}, "Carlini and Wagner, minimum norm (arXiv 1608.04644)", _cw),
    _attack("deepfool", {"L2"}, "DeepFool, minimum norm (arXiv 1511.04599)", _deepfool),
)
