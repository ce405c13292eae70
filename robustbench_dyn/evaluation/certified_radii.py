"""The largest certified radius of each example, at any eps of a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.base import PreparedCertifier, radii
from robustbench_dyn.models.forward import call_without_graph
from robustbench_dyn.threat_models import Norm, ThreatModel, widest_eps

# The grid starts here and rises by 9 % a step. Shorter radii are vacuous.
SMALLEST_EPS: Final[Mapping[Norm, float]] = {"Linf": 5e-5, "L2": 6e-4, "L1": 2.5e-3}
OCTAVES: Final = 13
STEPS_PER_OCTAVE: Final = 8


def eps_grid(norm: Norm, input_shape: tuple[int, ...]) -> list[float]:
    """Return the rising eps at which certifiers of one ball are run, in raw input units."""
    steps = (
        SMALLEST_EPS[norm] * 2 ** (k / STEPS_PER_OCTAVE) for k in range(OCTAVES * STEPS_PER_OCTAVE)
    )
    return [eps for eps in steps if eps <= widest_eps(norm, input_shape)]


@torch.no_grad()
def certified_radii(
    model: nn.Module,
    prepared: PreparedCertifier,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    *,
    batch_size: int = 250,
) -> Tensor:
    """Return the certified radius of each example, (n,) float64 on the CPU; NaN where none.

    model: frozen, in eval mode. x: (n, *input_shape); y: (n,). A certifier of one ball is run by
    bisection on eps_grid: the result is the largest eps of the bisection that it proved, and the
    next eps of the grid was not proved.
    """
    logits = torch.cat([call_without_graph(model, batch) for batch in torch.split(x, batch_size)])
    grid = eps_grid(norm, tuple(x.shape[1:]))
    if prepared.certifier.radius_based:
        return radii(prepared.prove(x, logits, y, ThreatModel(norm, grid[-1]))).cpu()
    # Positions on the grid: of the largest eps that is proved, and of the smallest that is not.
    proved, unproved = torch.full((len(x),), -1), torch.full((len(x),), len(grid))
    while bool((unproved - proved > 1).any()):
        middle = ((proved + unproved) // 2).where(unproved - proved > 1, -1)
        for k in sorted(set(middle.tolist()) - {-1}):
            for rows in (middle == k).nonzero().flatten().split(batch_size):
                threat_model = ThreatModel(norm, grid[k])
                proof = prepared.prove(x[rows], logits[rows], y[rows], threat_model)
                holds = (radii(proof) >= grid[k]).cpu()
                proved[rows[holds]], unproved[rows[~holds]] = k, k
    return torch.tensor([math.nan, *grid], dtype=torch.float64)[proved + 1]
