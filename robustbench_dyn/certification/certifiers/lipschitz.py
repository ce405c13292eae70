"""The certificate of a global Lipschitz bound: a margin cannot vanish closer than margin / L."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from robustbench_dyn.certification.base import Certifier, Phase, Proof
from robustbench_dyn.threat_models import ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.certification.proofs.lipschitz import LipschitzState


@dataclass(frozen=True, kw_only=True)
class Lipschitz(Certifier["LipschitzState"]):
    """Divide each margin by a global L2 Lipschitz bound of its logit difference."""

    name: ClassVar = "lipschitz"
    # 2: the rounding of networks with layers of uneven scales is bounded more sharply.
    version: ClassVar = 3
    description: ClassVar = "global L2 Lipschitz bound of each logit difference"
    phase: ClassVar = Phase.CLEAN
    radii_from_l2: ClassVar = True
    measures_rounding: ClassVar = True
    rests_on_bounds: ClassVar = True

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> LipschitzState:
        """Raise CertificateError where a part of model has no known bound."""
        from robustbench_dyn.certification.proofs import lipschitz

        return lipschitz.prepare(model, strict_rounding=strict_rounding)

    def prove(
        self, state: LipschitzState, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> Proof:
        """Return radii that hold at any eps."""
        from robustbench_dyn.certification.proofs import lipschitz

        return lipschitz.prove(state, x, logits, y, threat_model)
