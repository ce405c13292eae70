"""Interval bound propagation for training: differentiable in the parameters, and fast.

The bounds of the certifier `interval`, but in the dtype of the network and without slack for
rounding errors; consecutive affine maps are bounded one by one. They are no proof.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.intermediate import MOST_KEPT
from robustbench_dyn.certification.network.graph import Affine, Network, Pointwise
from robustbench_dyn.threat_models import Norm, ThreatModel


class Interval(NamedTuple):
    """centre - radius <= value <= centre + radius entrywise; both (batch, *shape)."""

    centre: Tensor
    radius: Tensor


def worst_logits(network: Network, x: Tensor, y: Tensor, threat_model: ThreatModel) -> Tensor:
    """Return upper bounds of F_j - F_y over the ball within [0, 1], (batch, classes); 0 for y.

    x: (batch, *input_shape) in [0, 1], of the network's dtype. The affine maps after the last
    activation are merged with the differences of logits before they are bounded (elision of the
    last layer, arXiv 1810.12715, Section 3).
    """
    rows, offset = head_of(network, x.device)
    intervals = interval_values(network, x, threat_model, upto=max(rows, default=0))
    n_classes = network.n_classes
    centre_logits, spread = offset, x.new_zeros(())
    for source, class_rows in rows.items():
        flat = class_rows.flatten(1)
        differences = (flat[:, None] - flat[None]).flatten(0, 1)
        centre, radius = (part.flatten(1) for part in intervals[source])
        centre_logits = centre_logits + centre @ flat.T
        deviation = radius @ differences.abs().T
        if source == 0 and threat_model.norm != "Linf":
            # The box bounds the difference around its centre, the ball around x; take the smaller.
            shift = (x.flatten(1) - centre) @ differences.T
            dual = _dual_norm(differences.T, threat_model.norm)
            deviation = deviation.minimum(shift + threat_model.eps * dual)
        spread = spread + deviation.view(len(x), n_classes, n_classes)
    # spread[:, j, y] belongs to F_j - F_y.
    label = y[:, None]
    label_spread = spread.gather(2, label[:, :, None].expand(-1, n_classes, 1))[:, :, 0]
    return centre_logits - centre_logits.gather(1, label) + label_spread


def head_of(network: Network, device: torch.device) -> tuple[dict[int, Tensor], Tensor]:
    """Return the logits as an affine map of the input and the last activations: (rows, offset).

    rows: by node, 0 for the input, (classes, *shape of the node's output) each. offset: (classes,).
    """
    identity = torch.eye(network.n_classes, dtype=network.dtype, device=device)
    pending = {len(network.nodes): identity}
    rows: dict[int, Tensor] = {}
    offset = identity.new_zeros(network.n_classes)
    for k in range(len(network.nodes), -1, -1):
        if k not in pending:
            continue
        coefficients = pending.pop(k)
        node = network.nodes[k - 1] if k else None
        if not isinstance(node, Affine):
            rows[k] = coefficients
            continue
        if node.bias is not None:
            offset = offset + (coefficients * node.bias).flatten(1).sum(dim=1)
        for source, part in zip(node.inputs, node.adjoint(coefficients), strict=True):
            pending[source] = pending[source] + part if source in pending else part
    return rows, offset


def interval_values(
    network: Network, x: Tensor, threat_model: ThreatModel, *, upto: int
) -> list[Interval]:
    """Return intervals of the node outputs up to node `upto`, the input first.

    A centre passes through an affine map, a radius through its absolute value. Pre-activations
    that are affine in x are also bounded by the dual norm over the ball.
    """
    low, high = (x - threat_model.eps).clamp_min(0), (x + threat_model.eps).clamp_max(1)
    intervals = [_between(low, high)]
    prefix = {} if threat_model.norm == "Linf" else _affine_prefix(network, x, upto)
    arguments = set(network.arguments)
    for k, node in enumerate(network.nodes[:upto], start=1):
        inputs = [intervals[i] for i in node.inputs]
        if isinstance(node, Pointwise):
            ((centre, radius),) = inputs
            intervals.append(
                _between(node.activation(centre - radius), node.activation(centre + radius))
            )
            continue
        centre = node.linear(*(centre for centre, _ in inputs))
        centre = centre if node.bias is None else centre + node.bias
        radius = node.spread(*(radius for _, radius in inputs))
        if k in prefix and k in arguments:
            at_x, columns = prefix[k]
            deviation = threat_model.eps * _dual_norm(columns, threat_model.norm)
            low = (centre - radius).maximum(at_x - deviation)
            high = (centre + radius).minimum(at_x + deviation)
            intervals.append(_between(low, high))
        else:
            intervals.append(Interval(centre, radius))
    return intervals


def _between(low: Tensor, high: Tensor) -> Interval:
    return Interval((low + high) / 2, (high - low) / 2)


def _affine_prefix(network: Network, x: Tensor, upto: int) -> dict[int, tuple[Tensor, Tensor]]:
    """Return, for each node output that is affine in the input, its value at x and its columns.

    columns: of the linear part, (inputs, *shape of the output).
    """
    identity = torch.eye(math.prod(network.input_shape), dtype=network.dtype, device=x.device)
    prefix = {0: (x, identity.view(-1, *network.input_shape))}
    for k, node in enumerate(network.nodes[:upto], start=1):
        if not isinstance(node, Affine) or not all(i in prefix for i in node.inputs):
            continue
        if math.prod(node.shape) * len(identity) > MOST_KEPT:
            continue
        at_x = node.linear(*(prefix[i][0] for i in node.inputs))
        at_x = at_x if node.bias is None else at_x + node.bias
        prefix[k] = (at_x, node.linear(*(prefix[i][1] for i in node.inputs)))
    return prefix


def _dual_norm(columns: Tensor, norm: Norm) -> Tensor:
    """Return the dual norm of `norm` over dimension 0."""
    if norm == "L2":
        return torch.linalg.vector_norm(columns, dim=0)
    return columns.abs().amax(dim=0)
