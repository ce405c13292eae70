"""Native attacks: their names, facts and settings; what they run is imported at the first search.

The members of AutoAttack (arXiv 2003.01690) with its budgets, a transfer attack, attacks in
expectation, and attacks on predictions alone. They keep batches full and drop decided examples at
once, and what they return for one example does not depend on what else is in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from robustbench_dyn.attacks.base import Attack

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.attacks.problem import AttackProblem
    from robustbench_dyn.threat_models import Norm

_L2_LINF: frozenset[Norm] = frozenset({"Linf", "L2"})


@dataclass(frozen=True, kw_only=True)
class NativeAttack(Attack):
    """An attack of this package."""

    library: ClassVar[str] = "robustbench-dyn"
    batches_itself: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class APGD(NativeAttack):
    """Auto-PGD on cross-entropy (arXiv 2003.01690)."""

    name = "apgd-ce"
    norms = _L2_LINF
    description = "Auto-PGD on cross-entropy (arXiv 2003.01690)"
    loss: ClassVar[Literal["ce", "dlr"]] = "ce"

    n_iterations: int = 100
    n_restarts: int = 1

    def perturb(self, problem: AttackProblem) -> Tensor:
        from robustbench_dyn.attacks.native.apgd import apgd

        return apgd(
            problem, loss=self.loss, n_restarts=self.n_restarts, n_iterations=self.n_iterations
        )


@dataclass(frozen=True, kw_only=True)
class APGDDLR(APGD):
    """Auto-PGD on the difference of logits ratio (DLR)."""

    name = "apgd-dlr"
    description = "Auto-PGD on DLR"
    # DLR divides by the gap between the first and the third logit.
    min_classes = 3
    loss = "dlr"


@dataclass(frozen=True, kw_only=True)
class APGDT(NativeAttack):
    """Auto-PGD on the targeted DLR, towards the likeliest n_targets classes.

    gives_up: on searches whose loss has risen far too little after a fifth of the iterations.
    """

    name = "apgd-t"
    norms = _L2_LINF
    description = "Auto-PGD on targeted DLR"
    # The targeted DLR needs a fourth logit.
    min_classes = 4
    per_class = True

    n_iterations: int = 100
    n_targets: int = 9
    gives_up: bool = False

    def expected_passes(self, n_classes: int) -> float:
        """Return the passes of searches that may give up early."""
        from robustbench_dyn.attacks.native.apgd import expected_iterations

        iterations = expected_iterations(self.n_iterations, gives_up=self.gives_up)
        return 2 * min(self.n_targets, n_classes - 1) * iterations

    def perturb(self, problem: AttackProblem) -> Tensor:
        from robustbench_dyn.attacks.native.apgd import apgd_targeted

        return apgd_targeted(
            problem,
            n_targets=self.n_targets,
            n_iterations=self.n_iterations,
            gives_up=self.gives_up,
        )


@dataclass(frozen=True, kw_only=True)
class FABT(NativeAttack):
    """FAB, the fast adaptive boundary attack, towards the likeliest n_targets classes."""

    name = "fab-t"
    description = "FAB towards each target (arXiv 1907.02044)"
    per_class = True

    n_iterations: int = 100
    n_targets: int = 9

    def expected_passes(self, n_classes: int) -> float:
        """Return the passes of searches that mostly give up early."""
        from robustbench_dyn.attacks.native.fab import expected_iterations

        return 2 * min(self.n_targets, n_classes - 1) * expected_iterations(self.n_iterations)

    def perturb(self, problem: AttackProblem) -> Tensor:
        from robustbench_dyn.attacks.native.fab import fab_targeted

        return fab_targeted(problem, n_targets=self.n_targets, n_iterations=self.n_iterations)


@dataclass(frozen=True, kw_only=True)
class FABMin(FABT):
    """FAB-T to the nearest adversarial example at any distance, for upper bounds of the radius.

    gives_up: on targets that are much farther than the likeliest class was found.
    """

    name = "fab-min"
    description = "FAB-T to the nearest adversarial example there is"
    version = 2

    gives_up: bool = True

    def expected_passes(self, n_classes: int) -> float:
        """Return the passes of a search towards each target."""
        from robustbench_dyn.attacks.native.fab import expected_of_minimum_norm

        n_targets = min(self.n_targets, n_classes - 1)
        return 2 * expected_of_minimum_norm(n_targets, self.n_iterations, gives_up=self.gives_up)

    def perturb(self, problem: AttackProblem) -> Tensor:
        from robustbench_dyn.attacks.native.fab import minimum_norm

        return minimum_norm(
            problem,
            n_targets=self.n_targets,
            n_iterations=self.n_iterations,
            gives_up=self.gives_up,
        )


@dataclass(frozen=True, kw_only=True)
class Square(NativeAttack):
    """Square, random search on scores; gives_up: on examples whose margin falls far too slowly."""

    name = "square"
    norms = _L2_LINF
    description = "random search on scores, up to 5,000 queries (arXiv 1912.00049)"
    gradient_free = True

    n_queries: int = 5000
    gives_up: bool = True

    def expected_passes(self, n_classes: int) -> float:
        """Return the queries of an example, which mostly gives up early."""
        from robustbench_dyn.attacks.native.square import expected_queries

        del n_classes
        return expected_queries(self.n_queries, gives_up=self.gives_up)

    def perturb(self, problem: AttackProblem) -> Tensor:
        from robustbench_dyn.attacks.native.square import square

        return square(problem, n_queries=self.n_queries, gives_up=self.gives_up)


@dataclass(frozen=True, kw_only=True)
class SquareLong(Square):
    """Square with more queries, that gives up on no example."""

    name = "square-long"
    description = "Square with 20,000 queries for each example"

    n_queries: int = 20_000
    gives_up: bool = False


@dataclass(frozen=True, kw_only=True)
class RayS(NativeAttack):
    """RayS, search on predictions alone in Linf (arXiv 2006.12792)."""

    name = "rays"
    norms = frozenset({"Linf"})
    description = "search on predictions, up to 10,000 queries (arXiv 2006.12792)"
    gradient_free = True

    n_queries: int = 10_000

    def perturb(self, problem: AttackProblem) -> Tensor:
        from robustbench_dyn.attacks.native.rays import rays

        return rays(problem, n_queries=self.n_queries)


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(NativeAttack):
    """HopSkipJump, a walk along the boundary on predictions alone (arXiv 1904.02144)."""

    name = "hop-skip-jump"
    description = "walk on predictions, up to 25,000 queries (arXiv 1904.02144)"
    gradient_free = True

    n_queries: int = 25_000

    def perturb(self, problem: AttackProblem) -> Tensor:
        from robustbench_dyn.attacks.native.hop_skip_jump import hop_skip_jump

        return hop_skip_jump(problem, n_queries=self.n_queries)


@dataclass(frozen=True, kw_only=True)
class EOTAPGD(APGD):
    """Auto-PGD in expectation: losses and gradients are means over n_passes (arXiv 1707.07397)."""

    name = "eot-apgd-ce"
    description = "apgd-ce in expectation over 20 passes, for randomised models"

    n_passes: int = 20

    def perturb(self, problem: AttackProblem) -> Tensor:
        from robustbench_dyn.attacks.native.eot import eot_apgd

        return eot_apgd(
            problem,
            loss=self.loss,
            n_restarts=self.n_restarts,
            n_iterations=self.n_iterations,
            n_passes=self.n_passes,
        )


@dataclass(frozen=True, kw_only=True)
class EOTAPGDDLR(EOTAPGD):
    """Auto-PGD on DLR in expectation."""

    name = "eot-apgd-dlr"
    description = "apgd-dlr in expectation over 20 passes, for randomised models"
    min_classes = 3
    loss = "dlr"


@dataclass(frozen=True, kw_only=True)
class Transfer(NativeAttack):
    """Auto-PGD on the surrogates that a model names; n_targets: on each of them."""

    name = "transfer"
    norms = _L2_LINF
    description = "Auto-PGD on the surrogates that a model names"
    gradient_free = True
    per_class = True
    needs_surrogates = True

    n_iterations: int = 100
    n_targets: int = 3

    def expected_passes(self, n_classes: int) -> float:
        """Return the passes on one surrogate, and of the model that each iterate is tried on."""
        targets = min(self.n_targets, n_classes - 1) if n_classes >= 4 else 4
        return 3.0 * (1 + targets) * self.n_iterations

    def perturb(self, problem: AttackProblem) -> Tensor:
        from robustbench_dyn.attacks.native.transfer import transfer

        return transfer(problem, n_targets=self.n_targets, n_iterations=self.n_iterations)


ATTACKS: tuple[type[Attack], ...] = (
    APGD,
    APGDDLR,
    APGDT,
    FABT,
    FABMin,
    Square,
    SquareLong,
    RayS,
    HopSkipJump,
    EOTAPGD,
    EOTAPGDDLR,
    Transfer,
)
