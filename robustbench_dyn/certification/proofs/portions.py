"""Proofs of a batch in portions, where the bounds of all its examples would not fit memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.intermediate import RelaxationState
from robustbench_dyn.certification.network.graph import Network
from robustbench_dyn.threat_models import ThreatModel

# How many numbers the outputs of a network may have for all examples of a portion. Of each there
# are four float64, and a few more for a while: some 3 GB.
_NUMBERS = 40_000_000

_Prove = Callable[[RelaxationState, Tensor, Tensor, Tensor, ThreatModel], Proof]


def in_portions(
    prove: _Prove,
    state: RelaxationState,
    x: Tensor,
    logits: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
) -> Proof:
    """Return the proof of a batch, made of those of portions of it where it is large."""
    size = portion_size(state.exact)
    if len(x) <= size:
        return prove(state, x, logits, y, threat_model)
    radii, rounded, margins = list[Tensor](), list[Tensor](), list[Tensor]()
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        part = prove(state, x[rows], logits[rows], y[rows], threat_model)
        assert part.within_rounding is not None and part.margins is not None
        radii.append(part.class_radii)
        rounded.append(part.within_rounding)
        margins.append(part.margins)
    return Proof(torch.cat(radii), within_rounding=torch.cat(rounded), margins=torch.cat(margins))


def portion_size(network: Network) -> int:
    """Return how many examples are bounded at a time."""
    return max(1, _NUMBERS // network.n_numbers)
