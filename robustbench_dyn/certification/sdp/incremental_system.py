"""The incremental system of LipSDP: how a change of the input changes the logits.

Each activation lies in a sector: an increase dz of its argument changes it by between low dz and
high dz.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import Activation
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.network.graph import Affine, Network, Pointwise
from robustbench_dyn.errors import CertificateError

# More than the rounding of a slope in [-2, 2].
_SLACK = 2.0**-48
# The steepest activation that is treated.
_MOST = 2.0


class Sector(NamedTuple):
    """low dz <= df <= high dz for an increase dz; flat, float64. Where both are equal, exactly."""

    low: Tensor
    high: Tensor


class IncrementalSystem(NamedTuple):
    """dz = rows (dx, psi) / width and dF = logits (dx, psi), 0 <= psi / dz <= width, of n units.

    Only unstable units, whose sector has a width, are among the n; they are ordered as the network
    computes them, and `layers` says how many each activation has. rows: (n, d + n); logits:
    (classes, d + n). row_magnitudes, logit_magnitudes: the same with all summands' absolute values,
    at least as large as any entry; rounding: what the entries err by, in these units.
    """

    rows: Tensor
    logits: Tensor
    row_magnitudes: Tensor
    logit_magnitudes: Tensor
    rounding: float
    layers: tuple[int, ...]


def global_sectors(network: Network) -> dict[int, Sector]:
    """Return the sectors that hold between any two points, by the output of each activation."""
    sectors = {}
    for k, activation in _activations(network).items():
        one = torch.ones(math.prod(network.shape(k)), dtype=torch.float64)
        sectors[k] = Sector(activation.min_slope * one, activation.max_slope * one)
    return sectors


def local_sectors(
    network: Network, centre: Bounds, bounds: Bounds, example: int
) -> dict[int, Sector]:
    """Return the sectors of changes from the centre of a ball to any of its points.

    centre: bounds of the outputs at the centre, which round; bounds: those over the ball. A stable
    neuron has one slope there.
    """
    sectors = {}
    for k, activation in _activations(network).items():
        (i,) = network.nodes[k - 1].inputs
        ends = (centre.lower[i], centre.upper[i], bounds.lower[i], bounds.upper[i])
        low, high = activation.sector(*(end[example].flatten() for end in ends))
        unstable = high > low
        sectors[k] = Sector(
            torch.where(unstable, (low - _SLACK).clamp_min(activation.min_slope), low),
            torch.where(unstable, high + _SLACK, high),
        )
    return sectors


def incremental_system(network: Network, sectors: Mapping[int, Sector]) -> IncrementalSystem:
    """Return how a change of the input passes through a network of float64.

    An activation's change is split by its sector's lower slope: df = low dz + psi.
    """
    d = math.prod(network.input_shape)
    unstable = {k: (s.high > s.low).nonzero().flatten() for k, s in sectors.items()}
    n = sum(map(len, unstable.values()))
    device = next((s.low.device for s in sectors.values()), torch.device("cpu"))
    units = torch.eye(d, dtype=torch.float64, device=device)
    start = torch.cat([units, units.new_zeros(n, d)]).view(-1, *network.input_shape)
    changes, magnitudes, n_summands, done = [start], [start], 16, 0
    rows, row_magnitudes = [start.new_zeros(d + n, 0)], [start.new_zeros(d + n, 0)]
    for k, node in enumerate(network.nodes, start=1):
        if isinstance(node, Affine):
            changes.append(node.linear(*(changes[i] for i in node.inputs)))
            magnitudes.append(node.abs_linear(*(magnitudes[i] for i in node.inputs)))
            n_summands += node.n_summands + 2
            continue
        (i,) = node.inputs
        units_here, (low, high) = unstable[k], sectors[k]
        width = (high - low)[units_here] * (1 + 2.0**-50)
        psi = torch.zeros(d + n, len(low), dtype=torch.float64, device=device)
        psi[d + done + torch.arange(len(units_here), device=device), units_here] = 1.0
        done += len(units_here)
        z, magnitude = changes[i].flatten(1), magnitudes[i].flatten(1)
        rows.append(z[:, units_here] * width)
        row_magnitudes.append(magnitude[:, units_here] * width)
        changes.append((z * low + psi).view(d + n, *node.shape))
        magnitudes.append((magnitude * low.abs() + psi).view(d + n, *node.shape))
        n_summands += 4
    return IncrementalSystem(
        rows=torch.cat(rows, dim=1).T.contiguous(),
        logits=changes[-1].T.contiguous(),
        row_magnitudes=torch.cat(row_magnitudes, dim=1).T.contiguous(),
        logit_magnitudes=magnitudes[-1].T.contiguous(),
        rounding=2.0**-51 * n_summands,
        layers=tuple(len(units) for units in unstable.values()),
    )


def _activations(network: Network) -> dict[int, Activation]:
    found = {
        k: node.activation
        for k, node in enumerate(network.nodes, start=1)
        if isinstance(node, Pointwise)
    }
    for activation in found.values():
        if max(abs(activation.min_slope), activation.max_slope) > _MOST:
            raise CertificateError(
                f"{type(activation).__name__} has no bound of its slopes up to {_MOST:g}, which "
                "semidefinite bounds need; choose another certifier"
            )
        if activation.deviation:
            raise CertificateError(
                f"{type(activation).__name__} as torch computes it has a jump, and no Lipschitz "
                "constant; choose another certifier"
            )
    return found
