"""A first CROWN pass, over a sample of the neurons: how near a relaxation can come to a proof."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import LinearBounds
from robustbench_dyn.certification.bounds.allotment import Allotment, relaxation_gap
from robustbench_dyn.certification.bounds.back_substitution import (
    back_substitute,
    chunks,
    concretise,
)
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.entry_bounds import entry_bounds
from robustbench_dyn.certification.bounds.groups import of_examples
from robustbench_dyn.certification.bounds.intermediate import RelaxationState
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.network.graph import Network

# Entries of each pre-activation that are bounded, where the budget pays for this part of it.
_SAMPLE, _WORTH = 4, 0.25
# Where pre-activations vary by more than so many times their mean size, their lines hold nothing:
# what follows multiplies the width of each layer.
_EXPLODED = 20.0


def estimated_bounds(
    state: RelaxationState,
    ball: Ball,
    bounds: Bounds,
    x: Tensor,
    coefficients: Tensor,
    *,
    budget: int,
) -> Tensor:
    """Estimate the CROWN bound of <coefficients[i], logits> over the ball of example i, (n,).

    bounds: by intervals. x: (n, *input_shape); coefficients: (n, classes). budget: what
    intermediate_bounds may spend; the estimate is of what it comes to. Back-substitution with the
    initial slopes bounds a few entries of each pre-activation; the others that the budget pays for
    are taken to come nearer to their value at x, from their intervals, by the same share, and those
    that it does not pay for by that of the layer before. The estimate proves nothing: it says, for
    a few rows a layer instead of all of them, where a relaxation is worth its price. -inf where the
    bounds of a layer explode.
    """
    network = state.fast
    n, device = len(x), x.device
    at_x = network.outputs(x.to(network.dtype))
    consumers = network.consumers
    deep = [k for k in consumers if k not in state.affine_prefixes]
    allotment = Allotment(network, deep, budget, n)
    linear_bounds: dict[int, LinearBounds] = {}
    share = torch.ones(n, 1, dtype=network.dtype, device=device)
    open_ = torch.arange(n, device=device)
    for k, activations in consumers.items():
        z = at_x[k].flatten(1)
        low, high = (end[k].to(network.dtype).flatten(1) for end in (bounds.lower, bounds.upper))
        below, above = (z - low).clamp_min(0) * share, (high - z).clamp_min(0) * share
        if k in deep:
            gap = relaxation_gap([node.activation for _, node in activations], z - below, z + above)
            paid = allotment.widest(k, gap)
            sampled = open_[paid.sum(dim=1)[open_] > _WORTH * (gap > 0).sum(dim=1)[open_]]
            widths = (z, below, above)
            if len(sampled):
                n_rows = min(_SAMPLE, z.shape[1])
                left = _share(network, bounds, ball, k, sampled, linear_bounds, widths, n_rows)
                left = torch.ones_like(share).index_copy(0, sampled, left[:, None])
                left = left.where(paid, 1.0)
                before = (below + above).sum(dim=1, keepdim=True)
                below, above = below * left, above * left
                share = share * (below + above).sum(dim=1, keepdim=True) / before.clamp_min(1e-30)
        # Written so that NaN counts as exploded.
        holds = (below + above).mean(dim=1) <= _EXPLODED * z.abs().mean(dim=1)
        open_ = open_[holds[open_]]
        if not len(open_):
            break
        shape = (n, *network.shape(k))
        for i, node in activations:
            linear_bounds[i] = node.activation.linear_bounds(
                (z - below).view(shape), (z + above).view(shape)
            )
    estimate = ball.centre.new_full((n,), -math.inf)
    last = len(network.nodes)
    for chunk in chunks(network, len(open_), last):
        owners = open_[chunk]
        rows, pick = coefficients[owners][:, None].to(network.dtype), of_examples(owners)
        bound = back_substitute(network, bounds, last, rows, pick, linear_bounds, rounded=False)
        estimate[owners] = concretise(bound, ball, bounds, pick)[:, 0]
    return estimate.nan_to_num(nan=-math.inf)


def _share(
    network: Network,
    bounds: Bounds,
    ball: Ball,
    k: int,
    examples: Tensor,
    linear_bounds: dict[int, LinearBounds],
    widths: tuple[Tensor, Tensor, Tensor],
    n_rows: int,
) -> Tensor:
    """Return the part of their intervals that back-substitution leaves to entries of output k.

    widths: the values at x, and how far below and above them the intervals reach, (n, entries).
    The entries are spread over the output; every other one is bounded from above. (examples,).
    """
    z, below, above = widths
    entries = (torch.arange(n_rows, device=z.device) * z.shape[1]) // n_rows
    entries = entries + z.shape[1] // (2 * n_rows)
    sign = (1 - 2 * (torch.arange(n_rows, device=z.device) % 2)).to(z)
    reached = entry_bounds(
        network,
        ball,
        bounds,
        k,
        examples.repeat_interleave(n_rows),
        entries.repeat(len(examples)),
        sign.repeat(len(examples)),
        linear_bounds,
        rounded=False,
    ).to(z)
    left = (sign * z[examples][:, entries] - reached.view(-1, n_rows)).clamp_min(0)
    whole = torch.where(sign > 0, below[examples][:, entries], above[examples][:, entries])
    return (left.minimum(whole).sum(dim=1) / whole.sum(dim=1).clamp_min(1e-30)).clamp(0, 1)
