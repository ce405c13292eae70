"""The part of a network before its first activations, composed into one affine map."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.network.graph import Affine, Network

# Affine prefixes are composed where the matrix holds at most this many numbers.
MAX_ENTRIES = 8_000_000


class AffineMap(NamedTuple):
    """An output rows x + bias, for x in [0, 1].

    rows: (n, inputs); bias: (n,), of the flattened output. magnitude: (n,), at least the sum of the
    absolute values of all summands. slack: (n,), how far the output as the model computes it may be
    from what `bounds` computes of the map.
    """

    rows: Tensor
    bias: Tensor
    magnitude: Tensor
    slack: Tensor

    def to(self, dtype: torch.dtype) -> AffineMap:
        """Return the map in a narrower dtype; its slack grows by the rounding there."""
        if dtype is self.rows.dtype:
            return self
        # Rows are rounded, and sums of so many products: twice what they may err by.
        units = 2 * (self.rows.shape[1] + 16) * torch.finfo(dtype).eps / 2
        rows, bias, magnitude = (part.to(dtype) for part in self[:3])
        slack = (self.slack + units * self.magnitude) * (1 + 1e-6)
        return AffineMap(rows, bias, magnitude, slack.to(dtype))

    def bounds(self, ball: Ball, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Bound the output, of this shape: by the box, and by the norm dual to the ball's."""
        rows, bias, _, slack = self
        low, high = ball.box(rows.dtype)
        low, high = low.flatten(1), high.flatten(1)
        middle = (low + high) / 2 @ rows.T + bias
        radius = (high - low) / 2 @ rows.abs().T
        lower, upper = middle - radius, middle + radius
        if ball.norm != "Linf":
            dual = rows.norm(dim=1) if ball.norm == "L2" else rows.abs().amax(dim=1)
            dual = dual * (ball.eps * (1 + (rows.shape[1] + 16) * torch.finfo(rows.dtype).eps))
            at_centre = ball.centre.to(rows.dtype) @ rows.T + bias
            lower = lower.maximum(at_centre - dual)
            upper = upper.minimum(at_centre + dual)
        return (lower - slack).view(shape), (upper + slack).view(shape)


def affine_prefixes(network: Network) -> dict[int, AffineMap]:
    """Return the map of each pre-activation that is affine in the input, if it is small enough."""
    d = math.prod(network.input_shape)
    return {
        k: affine_map(network, k)
        for k in network.preactivations
        if network.is_affine(k) and math.prod(network.shape(k)) * d <= MAX_ENTRIES
    }


def affine_map(network: Network, k: int) -> AffineMap:
    """Return the map of an output k that is affine in the input; network: of float64."""
    device = network.device
    zero = torch.zeros(1, *network.input_shape, dtype=network.dtype, device=device)
    magnitudes, n_summands, rounding = {0: torch.ones_like(zero)}, 4 * zero.numel() + 16, 0
    units = torch.eye(zero.numel(), dtype=network.dtype, device=device)
    # An affine map is cheaper to apply to each input unit than to carry back from each output.
    columns = {0: units.view(-1, *network.input_shape)}
    for i, node in enumerate(network.nodes[:k], start=1):
        if not isinstance(node, Affine) or not all(j in columns for j in node.inputs):
            continue
        columns[i] = node.linear(*(columns[j] for j in node.inputs))
        magnitudes[i] = node.magnitude(*(magnitudes[j] for j in node.inputs))
        n_summands += node.n_summands + 2
        if node.n_summands:
            dropped = network.flush_errors[i - 1] * (1 + magnitudes[i].max())
            magnitudes[i] = magnitudes[i] + dropped
            rounding += node.rounding_units
    bias = network.outputs(zero)[k].flatten()
    rows = columns[k].flatten(1).T.contiguous()
    # (1 + u)^rounding - 1, of which rounding u is the first term.
    own = math.expm1(rounding * network.unit)
    magnitude = magnitudes[k].flatten()
    # The map and its bounds err by at most a few times this many units.
    return AffineMap(rows, bias, magnitude, (2.0**-49 * n_summands + own) * magnitude)
