"""The budget of intermediate bounds: which neurons of which layer it pays for."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import Activation
from robustbench_dyn.certification.network.graph import Network


def relaxation_gap(activations: Iterable[Activation], low: Tensor, high: Tensor) -> Tensor:
    """Return the largest relaxation gap of the activations of one output, entry by entry."""
    gaps = [activation.relaxation_gap(low, high) for activation in activations]
    return torch.stack(gaps).amax(dim=0)


class Allotment:
    """Multiplications of each example, spent layer by layer; what one leaves, later ones share."""

    def __init__(self, network: Network, layers: Collection[int], budget: int, n: int) -> None:
        """Allot budget multiplications to each of n examples, for some outputs of network."""
        self.n = n
        self._network, self._n_layers = network, len(layers)
        self._left = torch.full((n,), float(budget), dtype=torch.float64)

    def widest(self, k: int, gap: Tensor) -> Tensor:
        """Return which entries of output k are bounded, (n, entries) bool: those of largest gap.

        gap: (n, entries); where it is 0, there is nothing to gain.
        """
        price = self._price(k)
        share = self._left / self._n_layers
        n_rows = (share / price).long().clamp(max=gap.shape[1]).to(gap.device)
        chosen = gap > 0
        short = chosen.sum(dim=1) > n_rows
        if short.any():
            most = max(1, int(n_rows[short].max()))
            widest, entries = gap[short].topk(most, dim=1)
            paid = (widest > 0) & (torch.arange(most, device=gap.device) < n_rows[short, None])
            chosen[short] = torch.zeros_like(chosen[short]).scatter(1, entries, paid)
        self._n_layers -= 1
        self._left -= chosen.sum(dim=1).cpu() * price
        return chosen

    def give_back(self, k: int, unspent: Tensor) -> None:
        """Return what entries of output k were allotted and did not take; unspent: (n, entries)."""
        self._left += unspent.sum(dim=1).cpu() * self._price(k)

    def _price(self, k: int) -> float:
        """Return the multiplications of bounding one entry of output k from both sides."""
        return 2.0 * self._network.n_multiplications(k)
