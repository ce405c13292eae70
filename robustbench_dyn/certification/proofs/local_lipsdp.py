"""The certificate of semidefinite Lipschitz bounds that hold within one ball."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import (
    Relaxed,
    interval_bounds,
    relax,
    relaxed_bounds,
)
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.network.graph import Network
from robustbench_dyn.certification.objectives import (
    compared,
    examples_among,
    pairs_to_prove,
    radii_of,
)
from robustbench_dyn.certification.proofs.lipsdp import small_network
from robustbench_dyn.certification.sdp.increments import (
    Sector,
    global_sectors,
    increments,
    local_sectors,
)
from robustbench_dyn.certification.sdp.solver import certified_bound, search
from robustbench_dyn.threat_models import ThreatModel

# A ball around the centre alone: bounds over it are the centre's values with their rounding.
_POINT = 1e-200


@torch.no_grad()
def prove(
    relaxed: Relaxed,
    x: Tensor,
    logits: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    max_unstable: int,
) -> Proof:
    """Exclude each rival whose margin no change within the ball can use up.

    From x to a point of the ball at distance r, F_y - F_j falls by at most L r. L is that of
    LipSDP, where the sector of each activation is that of its secants from x to what it reaches
    in the ball, by a linear relaxation: one that cannot switch has one slope. Where more than
    max_unstable of them can switch, nothing is proved.
    """
    bounds, _ = relaxed_bounds(relaxed, Ball(x, threat_model))
    pairs = pairs_to_prove(x, logits, y)
    pairs = compared(pairs, relaxed, bounds, x, logits, y, threat_model)
    margins = pairs.margin - pairs.allowed(pairs.possible)
    within_rounding = examples_among(margins.isneginf(), pairs, len(x))
    allowed = margins.clamp_min(0.0) / threat_model.eps
    proved = torch.zeros_like(allowed, dtype=torch.bool)
    centre = interval_bounds(relaxed, Ball(x, ThreatModel(threat_model.norm, _POINT)))
    for example in torch.unique(pairs.example).tolist():
        rows = (pairs.example == example).nonzero().flatten()
        proved[rows] = _exclude(
            relaxed.exact,
            centre,
            bounds,
            example,
            pairs.differences[rows],
            allowed[rows],
            max_unstable,
        )
    radii = radii_of(pairs.at(proved), logits, y, threat_model.eps)
    return Proof(radii, within_rounding=within_rounding)


def _exclude(
    network: Network, centre: Bounds, bounds: Bounds, example: int, differences: Tensor,
    allowed: Tensor, max_unstable: int,
) -> Tensor:  # fmt: skip
    """Say which differences have a Lipschitz bound below the one that is allowed, (n,)."""
    nothing = torch.zeros_like(allowed, dtype=torch.bool)
    gradients = differences @ increments(network, _at(network, centre, example)).logits
    sectors = local_sectors(network, centre, bounds, example)
    n_bending = sum(int((sector.high > sector.low).sum()) for sector in sectors.values())
    # No bound is less than the slope at the centre.
    if (gradients.norm(dim=1) >= allowed).any() or n_bending > max_unstable:
        return nothing
    known = increments(network, sectors)
    found = search(known, differences, allowed)
    if found is None:
        return nothing
    return torch.tensor(
        [
            square <= limit**2
            and certified_bound(known, difference, found.multipliers, square) <= limit * (1 - 1e-9)
            for difference, square, limit in zip(
                differences, found.squares.tolist(), allowed.tolist(), strict=True
            )
        ],
        device=allowed.device,
    )


def _at(network: Network, centre: Bounds, example: int) -> dict[int, Sector]:
    """Return sectors of one slope, about that at the centre."""
    slopes = {}
    for k in network.activations:
        node = network.nodes[k - 1]
        z = centre.lower[node.inputs[0]][example].flatten()
        slope = node.activation.derivative(z)  # type: ignore[union-attr]
        slopes[k] = Sector(slope, slope)
    return slopes


def prepare(
    model: nn.Module, input_shape: tuple[int, ...], *, max_units: int, max_inputs: int
) -> Relaxed:
    """Raise CertificateError where model is too large, or has activations without a sector."""
    network = small_network(model, input_shape, max_units=max_units, max_inputs=max_inputs)
    global_sectors(network)
    return relax(model, input_shape)
