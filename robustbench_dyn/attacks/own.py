"""Our own Auto-PGD, FAB, Square and transfer attack, as entries of the list of attacks.

The members of AutoAttack (arXiv 2003.01690) with their budgets, in loops that keep batches full,
that let decided and hopeless examples go at once, and whose finds do not depend on what else is in
the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from robustbench_dyn.attacks.base import Attack, Problem, searching

if TYPE_CHECKING:
    from torch import Tensor

TRANSFER = "transfer"


def members(*, apgd_restarts: int = 1) -> dict[str, Attack]:
    """Return our attacks by name; apgd_restarts: of Auto-PGD on cross-entropy and on DLR."""

    # Imported at the first search: listing the attacks must not import torch.
    def apgd_ce(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.apgd import apgd  # noqa: PLC0415

        return apgd(problem, loss="ce", n_restarts=apgd_restarts)

    def apgd_dlr(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.apgd import apgd  # noqa: PLC0415

        return apgd(problem, loss="dlr", n_restarts=apgd_restarts)

    def apgd_t(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.apgd import apgd_targeted  # noqa: PLC0415

        return apgd_targeted(problem)

    def fab_t(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.fab import fab_targeted  # noqa: PLC0415

        return fab_targeted(problem)

    def fab_min(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.fab import minimum_norm  # noqa: PLC0415

        return minimum_norm(problem)

    def square(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.square import square  # noqa: PLC0415

        return square(problem)

    def transfer(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.transfer import transfer  # noqa: PLC0415

        return transfer(problem)

    both, all_norms = frozenset({"Linf", "L2"}), frozenset({"Linf", "L2", "L1"})

    def member(
        name: str, norms: frozenset[str], description: str, perturb: Callable[[Problem], Tensor],
        *, min_classes: int = 2, by_rival: bool = False, on_surrogates: bool = False,
    ) -> Attack:  # fmt: skip
        search = searching(perturb, gathers=True)
        return Attack(
            name, norms, "robustbench-dyn", description, min_classes, search, by_rival,
            on_surrogates,
        )  # fmt: skip

    made = (
        member("apgd-ce", both, "Auto-PGD on cross-entropy (arXiv 2003.01690)", apgd_ce),
        # DLR divides by the gap between the first and third logit; the targeted one needs a fourth.
        member("apgd-dlr", both, "Auto-PGD on DLR", apgd_dlr, min_classes=3),
        member("apgd-t", both, "Auto-PGD on targeted DLR", apgd_t, min_classes=4, by_rival=True),
        member(
            "fab-t", all_norms, "FAB towards each target (arXiv 1907.02044)", fab_t, by_rival=True
        ),
        member(
            "fab-min",
            all_norms,
            "FAB-T to the nearest adversarial example there is",
            fab_min,
            by_rival=True,
        ),
        member(
            "square",
            both,
            "random search on scores, up to 5,000 queries (arXiv 1912.00049)",
            square,
        ),
        member(
            TRANSFER,
            both,
            "Auto-PGD on the surrogates that a model names",
            transfer,
            by_rival=True,
            on_surrogates=True,
        ),
    )
    return {attack.name: attack for attack in made}
