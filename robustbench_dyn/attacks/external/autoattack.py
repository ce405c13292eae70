"""The members of AutoAttack (arXiv 2003.01690), as their authors' package pyautoattack has them.

The members are called directly, not through the package's own loop: that loop seeds from the
clock unless told otherwise, keeps a count of calls that it never resets, and clears sys.settrace.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from robustbench_dyn.attacks.base import Attack, Problem, searching

if TYPE_CHECKING:
    from torch import Tensor

_NORMS = frozenset({"Linf", "L2", "L1"})
# Tells them from our own attacks of the same kind.
PREFIX = "aa-"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What AutoAttack's versions set differently; the defaults are those of its custom version."""

    apgd_restarts: int = 5
    apgd_targets: int = 9
    fab_restarts: int = 5
    eot_iterations: int = 1
    large_radii: bool = False


def _apgd(problem: Problem, *, loss: str, settings: Settings) -> Tensor:
    from pyautoattack.autopgd_base import APGDAttack  # noqa: PLC0415

    attack = APGDAttack(
        problem.model, n_restarts=settings.apgd_restarts, n_iter=100, loss=loss,
        eot_iter=settings.eot_iterations, rho=0.75, use_largereps=settings.large_radii,
        logger=log, **_common(problem),
    )  # fmt: skip
    return _run(attack, problem)


def _apgd_targeted(problem: Problem, *, settings: Settings) -> Tensor:
    from pyautoattack.autopgd_base import APGDAttack_targeted  # noqa: PLC0415

    attack = APGDAttack_targeted(
        problem.model, n_restarts=1, n_iter=100, eot_iter=settings.eot_iterations, rho=0.75,
        n_target_classes=min(settings.apgd_targets, problem.n_classes - 1),
        use_largereps=settings.large_radii, logger=log, **_common(problem),
    )  # fmt: skip
    return _run(attack, problem)


def _fab(problem: Problem, *, targeted: bool, settings: Settings) -> Tensor:
    from pyautoattack.fab_pt import FABAttack_PT  # noqa: PLC0415

    attack = FABAttack_PT(
        problem.model, n_restarts=1 if targeted else settings.fab_restarts, n_iter=100,
        targeted=targeted, n_target_classes=min(9, problem.n_classes - 1), **_common(problem),
    )  # fmt: skip
    return _run(attack, problem)


def _square(problem: Problem) -> Tensor:
    from pyautoattack.square import SquareAttack  # noqa: PLC0415

    from robustbench_dyn.attacks.square_layout import fold, unfold  # noqa: PLC0415

    class Square(SquareAttack):  # type: ignore[misc]
        """Square with its tiles kept: each query would draw the same few anew."""

        @cache  # noqa: B019  (lives as long as this call)
        def eta_rectangles(self, x: int, y: int) -> Tensor:
            tile: Tensor = super().eta_rectangles(x, y)
            return tile

    folded = problem if problem.threat_model.norm == "Linf" else fold(problem)
    attack = Square(
        folded.model, p_init=0.8, n_queries=5000, n_restarts=1, resc_schedule=False,
        **_common(folded),
    )  # fmt: skip
    found = _run(attack, folded)
    return unfold(found, problem.x.shape[1:])


def _run(attack: Any, problem: Problem) -> Tensor:
    import torch  # noqa: PLC0415

    # As in AutoAttack's own loop; the members enable gradients where they need them.
    with torch.no_grad():
        found: Tensor = attack.perturb(problem.x, problem.y)
    return found


def _common(problem: Problem) -> dict[str, Any]:
    return {
        "eps": problem.threat_model.eps,
        "norm": problem.threat_model.norm,
        "seed": problem.seed,
        "device": problem.x.device,
        "verbose": False,
    }


def members(settings: Settings) -> dict[str, Attack]:
    """Return AutoAttack's members under one choice of settings, by name."""

    def member(
        name: str, description: str, perturb: Callable[..., Tensor], *, min_classes: int = 2
    ) -> Attack:
        search = searching(perturb)
        return Attack(PREFIX + name, _NORMS, "pyautoattack", description, min_classes, search)

    apgd, fab = partial(_apgd, settings=settings), partial(_fab, settings=settings)
    targeted = partial(_apgd_targeted, settings=settings)
    made = (
        member("apgd-ce", "Auto-PGD on cross-entropy", partial(apgd, loss="ce")),
        # DLR divides by the gap between the first and third logit; the targeted one needs a fourth.
        member("apgd-dlr", "Auto-PGD on DLR", partial(apgd, loss="dlr"), min_classes=3),
        member("apgd-t", "Auto-PGD on targeted DLR", targeted, min_classes=4),
        member(
            "fab",
            "fast adaptive boundary, minimum norm (arXiv 1907.02044)",
            partial(fab, targeted=False),
        ),
        member("fab-t", "FAB towards each target", partial(fab, targeted=True)),
        member("square", "random search on scores, 5,000 queries (arXiv 1912.00049)", _square),
    )
    return {attack.name: attack for attack in made}
