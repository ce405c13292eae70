"""Linear maps that bring a state into and out of a flow, with known norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.flows.frozen import Derived


class UnitRowLinear(Derived):
    """A linear head whose rows have unit norm, so that each logit by itself is 1-Lipschitz.

    Not spectrally 1-Lipschitz: certificates use the norms of differences of rows.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.orthogonal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def derive(self) -> Tensor:
        """Return the rows divided by their norms, (out_features, in_features)."""
        return F.normalize(self.weight, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_features) to logits, (batch, out_features)."""
        return F.linear(x, self.derived(), self.bias)


class ZeroPadChannels(nn.Module):
    """Lift (batch, c, h, w) to more channels by zeros: an isometry."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Append zero channels."""
        return F.pad(x, (0, 0, 0, 0, 0, self.channels - x.shape[1]))

    def lipschitz_bound(self) -> float:
        """Return 1."""
        return 1.0
