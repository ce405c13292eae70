"""Complete verification of ReLU networks by branch and bound (beta-CROWN)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from robustbench_dyn.certification.base import Certifier, Phase, Proof, require
from robustbench_dyn.threat_models import ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.certification.proofs.complete import BranchAndBoundState


@dataclass(frozen=True, kw_only=True)
class Complete(Certifier["BranchAndBoundState"]):
    """Split the ball by the signs of neurons until each class is excluded or an input is found.

    seconds_per_example: after that long, an example stays undecided. seconds: that the searches of
    a run may take all together, at each eps.
    """

    name: ClassVar = "complete"
    description: ClassVar = "branch and bound on ReLU networks: exact, given the time"
    phase: ClassVar = Phase.LAST
    version: ClassVar = 2

    seconds_per_example: float = 60.0
    seconds: float = 1800.0

    def __post_init__(self) -> None:
        require(self, seconds_per_example=self.seconds_per_example, seconds=self.seconds)

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> BranchAndBoundState:
        """Raise CertificateError where a network has other activations than ReLU."""
        from robustbench_dyn.certification.proofs import complete

        return complete.prepare(model, input_shape)

    def prove(
        self,
        state: BranchAndBoundState,
        x: Tensor,
        logits: Tensor,
        y: Tensor,
        threat_model: ThreatModel,
    ) -> Proof:
        """Exclude classes from one ball, or return adversarial examples as candidates."""
        from robustbench_dyn.certification.proofs import complete

        return complete.prove(
            state,
            x,
            logits,
            y,
            threat_model,
            seconds_per_example=self.seconds_per_example,
            seconds=self.seconds,
        )
