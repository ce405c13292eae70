"""The certificate of a linear relaxation: every activation lies between two lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from robustbench_dyn.certification.base import Certifier, Phase, Proof, require
from robustbench_dyn.certification.bounds.budgets import BUDGET, N_ITERATIONS
from robustbench_dyn.threat_models import ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.certification.bounds.intermediate import RelaxationState


@dataclass(frozen=True, kw_only=True)
class LinearRelaxation(Certifier["RelaxationState"]):
    """Bound margins by linear bounds of every activation, with optimised slopes (alpha-CROWN).

    n_iterations: steps of gradient ascent on the slopes; 0 keeps the first ones. budget: about how
    many multiplications the intermediate bounds of one example may take.
    """

    name: ClassVar = "linear_relaxation"
    description: ClassVar = "linear bounds of every activation, with optimised slopes (alpha-CROWN)"
    phase: ClassVar = Phase.AFTER_FIRST_ATTACK
    measures_rounding: ClassVar = True
    looks_at_time: ClassVar = True
    version: ClassVar = 4

    n_iterations: int = N_ITERATIONS
    budget: int = BUDGET

    def __post_init__(self) -> None:
        require(self, n_iterations=self.n_iterations, budget=self.budget)

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> RelaxationState:
        """Raise CertificateError, naming the operation, where one has no handler."""
        from robustbench_dyn.certification.bounds.intermediate import relaxation_state

        return relaxation_state(model, input_shape)._replace(strict=strict_rounding)

    def prove(
        self,
        state: RelaxationState,
        x: Tensor,
        logits: Tensor,
        y: Tensor,
        threat_model: ThreatModel,
    ) -> Proof:
        """Exclude classes from one ball."""
        from functools import partial

        from robustbench_dyn.certification.proofs import linear_relaxation
        from robustbench_dyn.certification.proofs.portions import in_portions

        prove = partial(linear_relaxation.prove, n_iterations=self.n_iterations, budget=self.budget)
        return in_portions(prove, state, x, logits, y, threat_model)
