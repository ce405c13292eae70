"""The proof by semidefinite Lipschitz bounds that hold within one ball."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import (
    RelaxationState,
    intermediate_bounds,
    interval_bounds,
    relaxation_state,
)
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.network.graph import Network
from robustbench_dyn.certification.objectives import (
    examples_with,
    proved_radii,
)
from robustbench_dyn.certification.proofs.lipsdp import small_network
from robustbench_dyn.certification.proofs.relaxed_objectives import relaxed_objectives
from robustbench_dyn.certification.sdp.incremental_system import (
    Sector,
    global_sectors,
    incremental_system,
    local_sectors,
)
from robustbench_dyn.certification.sdp.solver import certified_bound, optimise_dual
from robustbench_dyn.threat_models import ThreatModel

# A ball that contains its centre alone: bounds over it are the outputs there with their rounding.
_POINT = 1e-200


def prepare(
    model: nn.Module, input_shape: tuple[int, ...], *, max_units: int, max_inputs: int
) -> RelaxationState:
    """Raise CertificateError where model is too large, or has activations without a sector."""
    global_sectors(small_network(model, input_shape, max_units=max_units, max_inputs=max_inputs))
    return relaxation_state(model, input_shape)


@torch.no_grad()
def prove(
    state: RelaxationState,
    x: Tensor,
    logits: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    max_unstable: int,
) -> Proof:
    """Exclude each class whose margin no change within the ball can use up.

    From x to a point of the ball at distance r, F_y - F_j falls by at most L r. L is that of
    LipSDP, where the sector of each activation is that of its secants from x to what it reaches
    in the ball, by a linear relaxation: a stable neuron has one slope. Where more than
    max_unstable neurons are unstable, nothing is proved.
    """
    bounds, _ = intermediate_bounds(state, Ball(x, threat_model))
    objectives = relaxed_objectives(state, bounds, x, logits, y, threat_model)
    margins = objectives.margin - objectives.allowance(objectives.worst_case)
    within_rounding = examples_with(margins.isneginf(), objectives, len(x))
    limits = margins.clamp_min(0.0) / threat_model.eps
    proved = torch.zeros_like(limits, dtype=torch.bool)
    centre = interval_bounds(state, Ball(x, ThreatModel(threat_model.norm, _POINT)))
    for example in torch.unique(objectives.example).tolist():
        rows = (objectives.example == example).nonzero().flatten()
        sectors = local_sectors(state.exact, centre, bounds, example)
        proved[rows] = _below(
            state.exact,
            _at_centre(state.exact, centre, example),
            sectors,
            objectives.coefficients[rows],
            limits[rows],
            max_unstable,
        )
    radii = proved_radii(objectives.at(proved), logits, y, threat_model.eps)
    return Proof(radii, within_rounding=within_rounding)


def _below(
    network: Network,
    at_centre: dict[int, Sector],
    sectors: dict[int, Sector],
    coefficients: Tensor,
    limits: Tensor,
    max_unstable: int,
) -> Tensor:
    """Say which objectives have a Lipschitz bound below their limits, (n,)."""
    nothing = torch.zeros_like(limits, dtype=torch.bool)
    gradients = coefficients @ incremental_system(network, at_centre).logits
    n_unstable = sum(int((sector.high > sector.low).sum()) for sector in sectors.values())
    # No bound is less than the slope at the centre.
    if (gradients.norm(dim=1) >= limits).any() or n_unstable > max_unstable:
        return nothing
    system = incremental_system(network, sectors)
    dual = optimise_dual(system, coefficients, limits)
    if dual is None:
        return nothing
    return torch.tensor(
        [
            square <= limit**2
            and certified_bound(system, row, dual.dual_variables, square) <= limit * (1 - 1e-9)
            for row, square, limit in zip(
                coefficients, dual.squares.tolist(), limits.tolist(), strict=True
            )
        ],
        device=limits.device,
    )


def _at_centre(network: Network, centre: Bounds, example: int) -> dict[int, Sector]:
    """Return sectors of one slope each, about the derivative at the centre."""
    sectors = {}
    for k in network.activations:
        node = network.nodes[k - 1]
        z = centre.lower[node.inputs[0]][example].flatten()
        slope = node.activation.derivative(z)  # type: ignore[union-attr]
        sectors[k] = Sector(slope, slope)
    return sectors
