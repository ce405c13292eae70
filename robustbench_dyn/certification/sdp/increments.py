"""What a network makes of a change of its input, where activations lie in sectors."""

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

# More than the rounding of a slope in [0, 1].
_SLACK = 2.0**-48


class Sector(NamedTuple):
    """low dz <= df <= high dz for an increase dz; flat, float64. Where both are equal, exactly."""

    low: Tensor
    high: Tensor


class Increments(NamedTuple):
    """dz = rows (dx, psi) / width and dF = logits (dx, psi), 0 <= psi / dz <= width, of n units.

    Only units whose sector has a width are among the n; they are ordered as the network computes
    them, and `layers` says how many each activation has. rows: (n, d + n), (classes, d + n)
    logits. row_sizes, logit_sizes: the same with all terms' absolute values, at least as large as
    any entry; rounding: what the entries err by, in these units.
    """

    rows: Tensor
    logits: Tensor
    row_sizes: Tensor
    logit_sizes: Tensor
    rounding: float
    layers: tuple[int, ...]


def global_sectors(network: Network) -> dict[int, Sector]:
    """Return the sectors that hold between any two points, by activation value."""
    sectors = {}
    for k, activation in _activations(network).items():
        one = torch.ones(math.prod(network.shape(k)), dtype=torch.float64)
        sectors[k] = Sector(activation.flattest * one, activation.steepest * one)
    return sectors


def local_sectors(
    network: Network, centre: Bounds, bounds: Bounds, example: int
) -> dict[int, Sector]:
    """Return the sectors of changes from the centre of a ball to any of its points.

    centre: bounds of the values at the centre, which round; bounds: those over the ball. An
    activation that cannot switch there has one slope.
    """
    sectors = {}
    for k, activation in _activations(network).items():
        (i,) = network.nodes[k - 1].inputs
        ends = (centre.lower[i], centre.upper[i], bounds.lower[i], bounds.upper[i])
        low, high = activation.secants(*(end[example].flatten() for end in ends))
        bends = high > low
        sectors[k] = Sector(
            torch.where(bends, (low - _SLACK).clamp_min(0.0), low),
            torch.where(bends, high + _SLACK, high),
        )
    return sectors


def increments(network: Network, sectors: Mapping[int, Sector]) -> Increments:
    """Return how a change of the input goes through a network of float64.

    An activation's change is that of its sector's lower slope and of psi: df = low dz + psi.
    """
    d = math.prod(network.input_shape)
    bending = {k: (s.high > s.low).nonzero().flatten() for k, s in sectors.items()}
    n = sum(map(len, bending.values()))
    device = next((s.low.device for s in sectors.values()), torch.device("cpu"))
    units = torch.eye(d, dtype=torch.float64, device=device)
    start = torch.cat([units, units.new_zeros(n, d)]).view(-1, *network.input_shape)
    values, sizes, n_terms, done = [start], [start], 16, 0
    rows, row_sizes = [start.new_zeros(d + n, 0)], [start.new_zeros(d + n, 0)]
    for k, node in enumerate(network.nodes, start=1):
        if isinstance(node, Affine):
            values.append(node.linear(*(values[i] for i in node.inputs)))
            sizes.append(node.spread(*(sizes[i] for i in node.inputs)))
            n_terms += node.terms + 2
            continue
        (i,) = node.inputs
        here, (low, high) = bending[k], sectors[k]
        width = (high - low)[here] * (1 + 2.0**-50)
        psi = torch.zeros(d + n, len(low), dtype=torch.float64, device=device)
        psi[d + done + torch.arange(len(here), device=device), here] = 1.0
        done += len(here)
        z, size = values[i].flatten(1), sizes[i].flatten(1)
        rows.append(z[:, here] * width)
        row_sizes.append(size[:, here] * width)
        values.append((z * low + psi).view(-1, *node.shape))
        sizes.append((size * low + psi).view(-1, *node.shape))
        n_terms += 4
    return Increments(
        torch.cat(rows, dim=1).T.contiguous(), values[-1].T.contiguous(),
        torch.cat(row_sizes, dim=1).T.contiguous(), sizes[-1].T.contiguous(),
        2.0**-51 * n_terms, tuple(len(here) for here in bending.values()),
    )  # fmt: skip


def _activations(network: Network) -> dict[int, Activation]:
    found = {
        k: node.activation
        for k, node in enumerate(network.nodes, start=1)
        if isinstance(node, Pointwise)
    }
    for activation in found.values():
        if activation.error:
            raise CertificateError(
                f"{type(activation).__name__} as torch computes it has a jump, and no Lipschitz "
                "constant; choose another certifier"
            )
    return found
