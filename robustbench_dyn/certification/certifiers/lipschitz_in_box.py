"""The global Lipschitz bound from the middle of an Linf ball within [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from robustbench_dyn.certification.base import Certifier, Proof
from robustbench_dyn.threat_models import Norm, ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.certification.proofs.lipschitz import LipschitzState


@dataclass(frozen=True, kw_only=True)
class LipschitzInBox(Certifier["LipschitzState"]):
    """Compare the margins at the middle of the box with L times half its diagonal."""

    name: ClassVar = "lipschitz_in_box"
    # 2: the rounding of networks with layers of uneven scales is bounded more sharply.
    version: ClassVar = 3
    description: ClassVar = (
        "global L2 Lipschitz bound from the middle of the Linf ball within [0, 1]"
    )
    norms: ClassVar[frozenset[Norm]] = frozenset({"Linf"})
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
        """Exclude classes from one ball; takes one forward pass of the model."""
        from robustbench_dyn.certification.proofs import lipschitz_in_box

        return lipschitz_in_box.prove(state, x, logits, y, threat_model)
