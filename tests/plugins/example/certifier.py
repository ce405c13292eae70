"""Certifier "bound": within eps, no margin falls by more than its Lipschitz bound times eps."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustbench_dyn import Certifier, Proof, ThreatModel
from robustbench_dyn.certification.proofs.lipschitz import LipschitzState, prepare
from robustbench_dyn.certification.rounding.allowance import margins_of


@dataclass(frozen=True, kw_only=True)
class Bound(Certifier[LipschitzState]):
    """Its fields would be its settings."""

    name: ClassVar = "bound"
    description: ClassVar = "global L2 Lipschitz bound of each logit difference, at one eps"
    norms: ClassVar = frozenset({"L2"})

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> LipschitzState:
        """Raise CertificateError where a part of the model has no known bound."""
        return prepare(model, strict_rounding=True)

    def prove(
        self, state: LipschitzState, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> Proof:
        """Return radii of eps for excluded classes, 0 for others, inf for the label."""
        eps = torch.full((len(x),), threat_model.eps, dtype=torch.float64)
        # The proof must hold for the network as it rounds.
        margins = margins_of(logits, y) - state.rounding.allowance(x, logits, y, eps)
        bounds = state.bounds.expand(margins.shape[1], -1)[y.cpu()]
        radii = (margins > bounds * threat_model.eps * (1 + 1e-9)) * eps[:, None]
        return Proof(radii.scatter(1, y.cpu()[:, None], torch.inf))


CERTIFIERS = (Bound,)
