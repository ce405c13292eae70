"""The certificate of semidefinite Lipschitz bounds, for small networks without a structure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from robustbench_dyn.certification.base import Certifier, Phase, Proof, require
from robustbench_dyn.threat_models import ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.certification.proofs.lipschitz import LipschitzState


@dataclass(frozen=True, kw_only=True)
class LipSDP(Certifier["LipschitzState"]):
    """Divide each margin by a semidefinite L2 Lipschitz bound of its logit difference.

    LipSDP with diagonal dual variables (arXiv 1906.04893). max_units, max_inputs: the largest
    network that is treated; one step of the optimisation costs the cube of the activations.
    """

    name: ClassVar = "lipsdp"
    # 2: the rounding of networks with layers of uneven scales is bounded more sharply.
    version: ClassVar = 3
    description: ClassVar = (
        "semidefinite L2 Lipschitz bound of each logit difference (LipSDP), small networks"
    )
    phase: ClassVar = Phase.CLEAN
    radii_from_l2: ClassVar = True

    max_units: int = 400
    max_inputs: int = 1024

    def __post_init__(self) -> None:
        require(self, at_least=1, max_units=self.max_units, max_inputs=self.max_inputs)

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> LipschitzState:
        """Raise CertificateError where model is too large, or has activations without a sector."""
        from robustbench_dyn.certification.proofs import lipsdp

        return lipsdp.prepare(
            model, input_shape, max_units=self.max_units, max_inputs=self.max_inputs
        )

    def prove(
        self, state: LipschitzState, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> Proof:
        """Return radii that hold at any eps."""
        from robustbench_dyn.certification.proofs import lipschitz

        return lipschitz.prove(state, x, logits, y, threat_model)
