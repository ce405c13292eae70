"""The certificate of interval bounds: the cheapest bounds over the ball, and the widest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from robustbench_dyn.certification.base import Certifier, Proof
from robustbench_dyn.threat_models import ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.certification.bounds.intermediate import RelaxationState


@dataclass(frozen=True, kw_only=True)
class Interval(Certifier["RelaxationState"]):
    """Bound margins by interval arithmetic, with elision of the last layer (arXiv 1810.12715)."""

    name: ClassVar = "interval"
    description: ClassVar = "interval bounds of every neuron over the ball and [0, 1]"
    looks_at_time: ClassVar = True
    version: ClassVar = 3

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> RelaxationState:
        """Raise CertificateError, naming the operation, where one has no handler."""
        from robustbench_dyn.certification.bounds.intermediate import relaxation_state

        return relaxation_state(model, input_shape)

    def prove(
        self,
        state: RelaxationState,
        x: Tensor,
        logits: Tensor,
        y: Tensor,
        threat_model: ThreatModel,
    ) -> Proof:
        """Exclude classes from one ball."""
        from robustbench_dyn.certification.proofs import interval
        from robustbench_dyn.certification.proofs.portions import in_portions

        return in_portions(interval.prove, state, x, logits, y, threat_model)
