"""The members of AutoAttack (arXiv 2003.01690), as their authors' package pyautoattack has them.

The members are called directly, not through the package's own loop: that loop seeds from the
clock unless told otherwise, keeps a count of calls that it never resets, and clears sys.settrace.
By default they have the settings of AutoAttack's custom version. Settings have the library's names,
but for n_iterations (n_iter) and n_targets (n_target_classes).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.attacks.problem import AttackProblem

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AutoAttackMember(Attack):
    """An attack of pyautoattack; aa- in its name tells it from the native one of the same kind."""

    library: ClassVar[str] = "pyautoattack"


@dataclass(frozen=True, kw_only=True)
class AutoAttackAPGD(AutoAttackMember):
    """Auto-PGD on cross-entropy.

    eot_iter: passes that a gradient is a mean of. rho: the share of steps up below which the step
    size is halved. use_largereps: begin in balls of 3 and 2 radii; L1 only.
    """

    name = "aa-apgd-ce"
    description = "Auto-PGD on cross-entropy"
    loss: ClassVar[Literal["ce", "dlr"]] = "ce"

    n_iterations: int = 100
    n_restarts: int = 5
    eot_iter: int = 1
    rho: float = 0.75
    use_largereps: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eot_iter < 1:
            raise InputError(f"eot_iter={self.eot_iter} is below 1; give 1 or more")

    def perturb(self, problem: AttackProblem) -> Tensor:
        from pyautoattack.autopgd_base import APGDAttack

        return _run(APGDAttack(problem.model, loss=self.loss, **self._options(problem)), problem)

    def _options(self, problem: AttackProblem) -> dict[str, Any]:
        if self.use_largereps and problem.threat_model.norm != "L1":
            raise InputError(
                f"use_largereps is for L1, not {problem.threat_model.norm}; leave it out"
            )
        return {
            "n_iter": self.n_iterations,
            "n_restarts": self.n_restarts,
            "eot_iter": self.eot_iter,
            "rho": self.rho,
            "use_largereps": self.use_largereps,
            "logger": log,
            **_common(problem),
        }


@dataclass(frozen=True, kw_only=True)
class AutoAttackAPGDDLR(AutoAttackAPGD):
    """Auto-PGD on the difference of logits ratio (DLR)."""

    name = "aa-apgd-dlr"
    description = "Auto-PGD on DLR"
    # DLR divides by the gap between the first and the third logit.
    min_classes = 3
    loss = "dlr"


@dataclass(frozen=True, kw_only=True)
class AutoAttackAPGDT(AutoAttackAPGD):
    """Auto-PGD on the targeted DLR, towards the likeliest n_targets classes."""

    name = "aa-apgd-t"
    description = "Auto-PGD on targeted DLR"
    # The targeted DLR needs a fourth logit.
    min_classes = 4

    n_restarts: int = 1
    n_targets: int = 9

    def perturb(self, problem: AttackProblem) -> Tensor:
        from pyautoattack.autopgd_base import APGDAttack_targeted

        n_targets = min(self.n_targets, problem.n_classes - 1)
        attack = APGDAttack_targeted(
            problem.model, n_target_classes=n_targets, **self._options(problem)
        )
        return _run(attack, problem)


@dataclass(frozen=True, kw_only=True)
class AutoAttackFAB(AutoAttackMember):
    """FAB, the fast adaptive boundary attack.

    alpha_max: the largest bias towards x. eta: the overshoot. beta: the step back from an
    adversarial example towards x.
    """

    name = "aa-fab"
    description = "fast adaptive boundary, minimum norm (arXiv 1907.02044)"

    n_iterations: int = 100
    n_restarts: int = 5
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def perturb(self, problem: AttackProblem) -> Tensor:
        return self._fab(problem, targeted=False)

    def _fab(self, problem: AttackProblem, **options: Any) -> Tensor:
        from pyautoattack.fab_pt import FABAttack_PT

        attack = FABAttack_PT(
            problem.model,
            n_iter=self.n_iterations,
            n_restarts=self.n_restarts,
            alpha_max=self.alpha_max,
            eta=self.eta,
            beta=self.beta,
            **options,
            **_common(problem),
        )
        return _run(attack, problem)


@dataclass(frozen=True, kw_only=True)
class AutoAttackFABT(AutoAttackFAB):
    """FAB towards the likeliest n_targets classes."""

    name = "aa-fab-t"
    description = "FAB towards each target"

    n_restarts: int = 1
    n_targets: int = 9

    def perturb(self, problem: AttackProblem) -> Tensor:
        n_targets = min(self.n_targets, problem.n_classes - 1)
        return self._fab(problem, targeted=True, n_target_classes=n_targets)


@dataclass(frozen=True, kw_only=True)
class AutoAttackSquare(AutoAttackMember):
    """Square, random search on scores.

    p_init: the share of pixels in the first square. resc_schedule: fit the schedule of sizes to
    n_queries.
    """

    name = "aa-square"
    description = "random search on scores, 5,000 queries (arXiv 1912.00049)"
    gradient_free = True

    n_queries: int = 5000
    n_restarts: int = 1
    p_init: float = 0.8
    resc_schedule: bool = False

    def perturb(self, problem: AttackProblem) -> Tensor:
        from pyautoattack.square import SquareAttack

        from robustbench_dyn.attacks.square_layout import from_squares, to_squares

        class CachedSquare(SquareAttack):  # type: ignore[misc]
            """Square with its tiles kept: each query would make the same few anew."""

            @cache  # noqa: B019  (lives as long as this call)
            def eta_rectangles(self, x: int, y: int) -> Tensor:
                tile: Tensor = super().eta_rectangles(x, y)
                return tile

        squares = problem if problem.threat_model.norm == "Linf" else to_squares(problem)
        attack = CachedSquare(
            squares.model,
            n_queries=self.n_queries,
            n_restarts=self.n_restarts,
            p_init=self.p_init,
            resc_schedule=self.resc_schedule,
            **_common(squares),
        )
        return from_squares(_run(attack, squares), problem.x.shape[1:])


def _run(attack: Any, problem: AttackProblem) -> Tensor:
    import torch

    # As in AutoAttack's own loop; the members enable gradients where they need them.
    with torch.no_grad():
        found: Tensor = attack.perturb(problem.x, problem.y)
    return found


def _common(problem: AttackProblem) -> dict[str, Any]:
    return {
        "eps": problem.threat_model.eps,
        "norm": problem.threat_model.norm,
        "seed": problem.seed,
        "device": problem.x.device,
        "verbose": False,
    }


ATTACKS: tuple[type[Attack], ...] = (
    AutoAttackAPGD,
    AutoAttackAPGDDLR,
    AutoAttackAPGDT,
    AutoAttackFAB,
    AutoAttackFABT,
    AutoAttackSquare,
)
