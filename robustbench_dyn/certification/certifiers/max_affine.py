"""The certificate of a head of affine pieces, by pairs of a label's and a competing piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from robustbench_dyn.certification.base import Certifier, Phase, Proof
from robustbench_dyn.threat_models import ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.certification.proofs.affine_pieces import PiecesState


@dataclass(frozen=True, kw_only=True)
class MaxAffine(Certifier["PiecesState"]):
    """Divide the margins between affine pieces by the norms of the differences of their slopes."""

    name: ClassVar = "max_affine"
    description: ClassVar = "pairs of affine pieces, where each logit is the maximum of some"
    phase: ClassVar = Phase.CLEAN
    measures_rounding: ClassVar = True
    rests_on_bounds: ClassVar = True

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> PiecesState:
        """Raise CertificateError where model does not end with a head of affine pieces."""
        from robustbench_dyn.certification.proofs import affine_pieces

        return affine_pieces.prepare(model, strict_rounding=strict_rounding)

    def prove(
        self, state: PiecesState, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> Proof:
        """Return radii that hold at any eps."""
        from robustbench_dyn.certification.proofs import max_affine

        return max_affine.prove(state, x, logits, y, threat_model)
