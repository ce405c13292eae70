"""The certificate of semidefinite Lipschitz bounds that hold within one ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from robustbench_dyn.certification.base import Certifier, Phase, Proof, require
from robustbench_dyn.threat_models import Norm, ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.certification.bounds.intermediate import RelaxationState


@dataclass(frozen=True, kw_only=True)
class LocalLipSDP(Certifier["RelaxationState"]):
    """Compare each margin with a semidefinite L2 Lipschitz bound within the ball.

    max_units, max_inputs: the largest network that is treated. max_unstable: how many activations
    may switch within a ball; where more do, nothing is proved of it.
    """

    name: ClassVar = "local_lipsdp"
    description: ClassVar = (
        "semidefinite L2 Lipschitz bound within the ball (local LipSDP), small networks"
    )
    norms: ClassVar[frozenset[Norm]] = frozenset({"L2"})
    phase: ClassVar = Phase.AFTER_FIRST_ATTACK
    version: ClassVar = 3

    max_units: int = 2000
    max_inputs: int = 1024
    max_unstable: int = 256

    def __post_init__(self) -> None:
        require(self, at_least=1, max_units=self.max_units, max_inputs=self.max_inputs)
        require(self, max_unstable=self.max_unstable)

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> RelaxationState:
        """Raise CertificateError where model is too large, or has activations without a sector."""
        from robustbench_dyn.certification.proofs import local_lipsdp

        return local_lipsdp.prepare(
            model, input_shape, max_units=self.max_units, max_inputs=self.max_inputs
        )

    def prove(
        self,
        state: RelaxationState,
        x: Tensor,
        logits: Tensor,
        y: Tensor,
        threat_model: ThreatModel,
    ) -> Proof:
        """Exclude classes from one ball."""
        from robustbench_dyn.certification.proofs import local_lipsdp

        return local_lipsdp.prove(state, x, logits, y, threat_model, max_unstable=self.max_unstable)
