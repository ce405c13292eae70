"""Certifier "example": within eps, no logit difference falls by more than its bound times eps."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustbench_dyn import Certifier, Proof, ThreatModel
from robustbench_dyn.certification.proofs.lipschitz import LipschitzState
from robustbench_dyn.certification.rounding.allowance import layer_rounding, margins_of
from robustbench_dyn.lipschitz.bounds import pairwise_lipschitz


@dataclass(frozen=True, kw_only=True)
class Example(Certifier[LipschitzState]):
    """Its fields would be its settings."""

    name: ClassVar = "example"
    description: ClassVar = "global L2 Lipschitz bound of each logit difference, at one eps"
    norms: ClassVar = frozenset({"L2"})

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> LipschitzState:
        """Raise CertificateError where a part of the model has no known bound."""
        return LipschitzState(pairwise_lipschitz(model), layer_rounding(model, strict=True))

    def prove(
        self, state: LipschitzState, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> Proof:
        """Return radii of eps for excluded classes, 0 for others, inf for the label."""
        reach, labels = torch.full((len(x),), threat_model.eps).double(), y.cpu()
        # The proof must hold for the network as it rounds.
        margins = margins_of(logits, y) - state.rounding.allowance(x, logits, y, reach)
        bounds = state.bounds.expand(margins.shape[1], -1)[labels]
        radii = torch.where(margins > bounds * threat_model.eps * (1 + 1e-9), threat_model.eps, 0.0)
        return Proof(radii.double().scatter(1, labels[:, None], math.inf))


CERTIFIERS = (Example,)
