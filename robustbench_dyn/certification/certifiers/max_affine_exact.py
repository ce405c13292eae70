"""The exact certificate of affine pieces of the input, by convex programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from robustbench_dyn.certification.base import Certifier, Phase, Proof, require
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.threat_models import ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.certification.proofs.affine_pieces import PiecesState


@dataclass(frozen=True, kw_only=True)
class MaxAffineExact(Certifier["PiecesState"]):
    """Prove or refute that a piece of another class overtakes all those of the label in a ball.

    n_steps: of the ascent for each piece in L2; in Linf and L1 linear programs are solved.
    """

    name: ClassVar = "max_affine_exact"
    description: ClassVar = "convex programs over affine pieces of the input: exact in one ball"
    phase: ClassVar = Phase.AFTER_FIRST_ATTACK
    measures_rounding: ClassVar = True
    n_steps: int = 400

    def __post_init__(self) -> None:
        require(self, at_least=1, n_steps=self.n_steps)

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> PiecesState:
        """Raise CertificateError where the logits are no maxima of affine pieces of the input."""
        from robustbench_dyn.certification.proofs import affine_pieces

        state = affine_pieces.prepare(model, strict_rounding=strict_rounding)
        if not state.split.on_inputs:
            raise CertificateError(
                "the head's pieces are functions of features, not of the input itself, so that "
                "there is no exact distance; choose max_affine"
            )
        return state

    def prove(
        self, state: PiecesState, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> Proof:
        """Exclude classes from one ball, or return candidates; exact up to rounding."""
        from robustbench_dyn.certification.proofs import max_affine_exact

        return max_affine_exact.prove(state, x, logits, y, threat_model, n_steps=self.n_steps)
