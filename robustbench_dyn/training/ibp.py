"""Interval bounds as training needs them: differentiable in the parameters, and fast.

The same bounds as those of the certifier `interval`, but in the network's own dtype and without
the slack for rounding; where several affine maps follow one another directly, each is bounded by
itself. They train and prove nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.affine_prefixes import MAX_ENTRIES
from robustbench_dyn.certification.network.graph import Affine, Network, Pointwise
from robustbench_dyn.threat_models import Norm, ThreatModel


class Interval(NamedTuple):
    """centre - radius <= value <= centre + radius, entry by entry, (batch, *shape) each."""

    centre: Tensor
    radius: Tensor


def worst_logits(network: Network, x: Tensor, y: Tensor, threat_model: ThreatModel) -> Tensor:
    """Return upper bounds of F_j - F_y over the ball within [0, 1], (batch, classes); 0 for y.

    x: (batch, *input_shape) in [0, 1], of the network's dtype. The maps after the last activation
    are bounded together with the difference of classes (elision of the last layer, arXiv
    1810.12715, Section 3).
    """
    rows, offset = head_of(network, x.device)
    intervals = interval_values(network, x, threat_model, up_to=max(rows, default=0))
    n_classes = network.n_classes
    at_centre, spread = offset, x.new_zeros(())
    for source, of_classes in rows.items():
        flat = of_classes.flatten(1)
        between = (flat[:, None] - flat[None]).flatten(0, 1)
        centre, radius = (part.flatten(1) for part in intervals[source])
        at_centre = at_centre + centre @ flat.T
        reach = radius @ between.abs().T
        if source == 0 and threat_model.norm != "Linf":
            # By the box the difference moves with its centre, by the ball from x itself.
            moved = (x.flatten(1) - centre) @ between.T
            dual = _dual_norm(between.T, threat_model.norm)
            reach = reach.minimum(moved + threat_model.eps * dual)
        spread = spread + reach.view(len(x), n_classes, n_classes)
    # Row j, y of the spread belongs to F_j - F_y.
    own = y[:, None]
    against_own = spread.gather(2, own[:, :, None].expand(-1, n_classes, 1))[:, :, 0]
    return at_centre - at_centre.gather(1, own) + against_own


def head_of(network: Network, device: torch.device) -> tuple[dict[int, Tensor], Tensor]:
    """Return the logits as an affine map of activations and the input: rows by value, and offset.

    rows: (classes, *shape of the value) each; offset: (classes,).
    """
    units = torch.eye(network.n_classes, dtype=network.dtype, device=device)
    waiting = {len(network.nodes): units}
    rows: dict[int, Tensor] = {}
    offset = units.new_zeros(network.n_classes)
    for k in range(len(network.nodes), -1, -1):
        if k not in waiting:
            continue
        coefficients = waiting.pop(k)
        node = network.nodes[k - 1] if k else None
        if not isinstance(node, Affine):
            rows[k] = coefficients
            continue
        if node.bias is not None:
            offset = offset + (coefficients * node.bias).flatten(1).sum(dim=1)
        for source, part in zip(node.inputs, node.adjoint(coefficients), strict=True):
            waiting[source] = waiting[source] + part if source in waiting else part
    return rows, offset


def interval_values(
    network: Network, x: Tensor, threat_model: ThreatModel, *, up_to: int
) -> list[Interval]:
    """Return intervals of the values up to `up_to`: centres through weights, radii through abs.

    The argument of an activation that is affine in x is also bounded by the ball's own norm.
    """
    low, high = (x - threat_model.eps).clamp_min(0), (x + threat_model.eps).clamp_max(1)
    intervals = [_between(low, high)]
    prefixes = {} if threat_model.norm == "Linf" else _affine_prefixes(network, x, up_to)
    preactivations = set(network.preactivations)
    for k, node in enumerate(network.nodes[:up_to], start=1):
        inputs = [intervals[i] for i in node.inputs]
        if isinstance(node, Pointwise):
            ((centre, radius),) = inputs
            intervals.append(_between(*node.activation.interval(centre - radius, centre + radius)))
            continue
        centre = node.linear(*(centre for centre, _ in inputs))
        centre = centre if node.bias is None else centre + node.bias
        radius = node.abs_linear(*(radius for _, radius in inputs))
        if k in prefixes and k in preactivations:
            at_x, columns = prefixes[k]
            reach = threat_model.eps * _dual_norm(columns, threat_model.norm)
            low = (centre - radius).maximum(at_x - reach)
            high = (centre + radius).minimum(at_x + reach)
            intervals.append(_between(low, high))
        elif node.direct is not None:
            ends = [intervals[i] for i in node.direct.inputs]
            lows, highs = [c - r for c, r in ends], [c + r for c, r in ends]
            low, high = node.direct.interval(lows, highs)
            intervals.append(_between(low.maximum(centre - radius), high.minimum(centre + radius)))
        else:
            intervals.append(Interval(centre, radius))
    return intervals


def _between(low: Tensor, high: Tensor) -> Interval:
    return Interval((low + high) / 2, (high - low) / 2)


def _affine_prefixes(network: Network, x: Tensor, up_to: int) -> dict[int, tuple[Tensor, Tensor]]:
    """Return, for each value affine in the input, the value at x and its linear part by columns.

    columns: (inputs, *shape of the value).
    """
    units = torch.eye(math.prod(network.input_shape), dtype=network.dtype, device=x.device)
    found = {0: (x, units.view(-1, *network.input_shape))}
    for k, node in enumerate(network.nodes[:up_to], start=1):
        if not isinstance(node, Affine) or not all(i in found for i in node.inputs):
            continue
        if math.prod(node.shape) * len(units) > MAX_ENTRIES:
            continue
        at_x = node.linear(*(found[i][0] for i in node.inputs))
        at_x = at_x if node.bias is None else at_x + node.bias
        found[k] = (at_x, node.linear(*(found[i][1] for i in node.inputs)))
    return found


def _dual_norm(columns: Tensor, norm: Norm) -> Tensor:
    """Return the norm dual to the ball's over dimension 0."""
    if norm == "L2":
        return torch.linalg.vector_norm(columns, dim=0)
    return columns.abs().amax(dim=0)
