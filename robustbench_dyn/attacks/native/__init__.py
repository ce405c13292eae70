"""Our own attacks, as entries of the list of attacks.

The members of AutoAttack (arXiv 2003.01690) with their budgets, a transfer attack, and one on
predictions alone, in loops that keep batches full,
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
# What joins a suite for the examples that are left where there are signs of masked gradients.
ON_SIGNS = ("rays", "hop-skip-jump", "square-long")
_LONG = 20_000


def members(*, apgd_restarts: int = 1) -> dict[str, Attack]:
    """Return our attacks by name; apgd_restarts: of Auto-PGD on cross-entropy and on DLR."""

    # Imported at the first search: listing the attacks must not import torch.
    def apgd_ce(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.native.apgd import apgd  # noqa: PLC0415

        return apgd(problem, loss="ce", n_restarts=apgd_restarts)

    def apgd_dlr(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.native.apgd import apgd  # noqa: PLC0415

        return apgd(problem, loss="dlr", n_restarts=apgd_restarts)

    def eot_apgd_ce(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.native.eot import eot_apgd  # noqa: PLC0415

        return eot_apgd(problem, loss="ce", n_restarts=apgd_restarts)

    def eot_apgd_dlr(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.native.eot import eot_apgd  # noqa: PLC0415

        return eot_apgd(problem, loss="dlr", n_restarts=apgd_restarts)

    def apgd_t(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.native.apgd import apgd_targeted  # noqa: PLC0415

        return apgd_targeted(problem)

    def fab_t(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.native.fab import fab_targeted  # noqa: PLC0415

        return fab_targeted(problem)

    def fab_min(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.native.fab import minimum_norm  # noqa: PLC0415

        return minimum_norm(problem)

    def square(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.native.square import square  # noqa: PLC0415

        return square(problem)

    def square_long(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.native.square import square  # noqa: PLC0415

        return square(problem, n_queries=_LONG, gives_up=False)

    def hop_skip_jump(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.native.hop_skip_jump import hop_skip_jump  # noqa: PLC0415

        return hop_skip_jump(problem)

    def rays(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.native.rays import rays  # noqa: PLC0415

        return rays(problem)

    def transfer(problem: Problem) -> Tensor:
        from robustbench_dyn.attacks.native.transfer import transfer  # noqa: PLC0415

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
            "square-long",
            both,
            f"Square with {_LONG:,} queries, none given up",
            square_long,
        ),
        member(
            "rays",
            frozenset({"Linf"}),
            "search on predictions, up to 10,000 queries (arXiv 2006.12792)",
            rays,
        ),
        member(
            "hop-skip-jump",
            all_norms,
            "walk on predictions, up to 25,000 queries (arXiv 1904.02144)",
            hop_skip_jump,
        ),
        member(
            "eot-apgd-ce",
            both,
            "apgd-ce in expectation over 20 passes, for randomised models",
            eot_apgd_ce,
        ),
        member(
            "eot-apgd-dlr",
            both,
            "apgd-dlr in expectation over 20 passes, for randomised models",
            eot_apgd_dlr,
            min_classes=3,
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
