"""Complete verification by branch and bound, over neurons (beta-CROWN) or over few inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from robustbench_dyn.certification.base import Certifier, Phase, Proof, require
from robustbench_dyn.errors import CertificateError, InputError, shown
from robustbench_dyn.threat_models import ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.certification.proofs.complete import BranchAndBoundState
    from robustbench_dyn.certification.proofs.input_splitting import InputSplittingState

    State = BranchAndBoundState | InputSplittingState

_SPLITS = ("auto", "neurons", "inputs")
# How many examples are taken together where they are searched in one pass, or where there are so
# few neurons that each search takes a moment.
_AT_ONCE, _FEW_NEURONS = 64, 256


@dataclass(frozen=True, kw_only=True)
class Complete(Certifier["State"]):
    """Split the ball until each class is excluded, or an input is found.

    split: by the signs of "neurons", which are ReLU or leaky ReLU; or by "inputs", at most four,
    for any activation that can be relaxed. "auto" splits inputs where there are one or two, or
    where neurons cannot be split. seconds_per_example: after that long, an example stays undecided.
    seconds: that the searches of a run may take all together, at each eps.
    """

    name: ClassVar = "complete"
    description: ClassVar = "branch and bound on ReLU or on few inputs: exact, given the time"
    phase: ClassVar = Phase.LAST
    looks_at_time: ClassVar = True
    version: ClassVar = 4

    seconds_per_example: float = 60.0
    seconds: float = 1800.0
    split: str = "auto"

    def __post_init__(self) -> None:
        if self.split not in _SPLITS:
            raise InputError(
                f"split={shown(self.split)} is not one of {', '.join(_SPLITS)}; choose one of them"
            )
        require(self, seconds_per_example=self.seconds_per_example, seconds=self.seconds)

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> State:
        """Raise CertificateError where neither neurons nor inputs of model can be split."""
        from robustbench_dyn.certification.proofs import complete, input_splitting

        if self.split == "inputs":
            return input_splitting.prepare(model, input_shape)
        few = self.split == "auto" and input_splitting.supports(input_shape)
        if few and input_splitting.prefers(input_shape):
            return input_splitting.prepare(model, input_shape)
        try:
            return complete.prepare(model, input_shape)
        except CertificateError:
            if not few:
                raise
            return input_splitting.prepare(model, input_shape)

    def at_once(self, state: State) -> int:
        """Return how many examples are taken together: many where a search takes a moment."""
        from robustbench_dyn.certification.proofs import complete, input_splitting

        if isinstance(state, input_splitting.InputSplittingState):
            return _AT_ONCE
        few = state.relaxation.exact.n_neurons <= _FEW_NEURONS
        return _AT_ONCE if few or complete.shares_a_network(state) else super().at_once(state)

    def prove(
        self,
        state: State,
        x: Tensor,
        logits: Tensor,
        y: Tensor,
        threat_model: ThreatModel,
    ) -> Proof:
        """Exclude classes from one ball, or return adversarial examples as candidates."""
        from robustbench_dyn.certification.proofs import complete, input_splitting

        each, together = self.seconds_per_example, self.seconds
        if isinstance(state, input_splitting.InputSplittingState):
            return input_splitting.prove(
                state, x, logits, y, threat_model, seconds_per_example=each, seconds=together
            )
        return complete.prove(
            state, x, logits, y, threat_model, seconds_per_example=each, seconds=together
        )
