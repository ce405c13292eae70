"""Bounds of all values: intervals, tightened by back-substitution where an activation bends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.activations import Lines
from robustbench_dyn.certification.bounds.alpha_crown import optimised_bounds
from robustbench_dyn.certification.bounds.back_substitution import (
    chunks,
    concretise,
    substitute,
)
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.budgets import BUDGET
from robustbench_dyn.certification.bounds.intervals import Bounds, propagate
from robustbench_dyn.certification.network.graph import Affine, Network, Pointwise
from robustbench_dyn.certification.network.tracing import trace

# Rows of the affine beginning are kept where they hold at most this many numbers.
MOST_KEPT = 8_000_000
# As many times the budget may be spent on better slopes.
_FOR_SLOPES = 10
# A step of ascent passes back and forth.
_PASSES_A_STEP = 3


class AffineMap(NamedTuple):
    """value = rows x + bias, with |computed - exact| <= error for x in [0, 1]; all float64.

    rows: (n, inputs); bias, error: (n,), of the flattened value. rounding: (n,), what the model's
    own value may differ from it by.
    """

    rows: Tensor
    bias: Tensor
    error: Tensor
    rounding: Tensor


class Relaxed(NamedTuple):
    """A network ready to be relaxed.

    model: what was recorded. exact proves, in float64; fast searches. beginnings: the map of each
    argument of an activation that is affine in the input. strict: whether a relaxation takes off
    the worst case of rounding, or what was measured of it, see rounding.py.
    """

    model: nn.Module

    exact: Network
    fast: Network
    beginnings: dict[int, AffineMap]
    strict: bool = True


def relax(model: nn.Module, input_shape: tuple[int, ...]) -> Relaxed:
    """Trace model; raises CertificateError, naming the operation, where one is not known."""
    exact, fast = trace(model, input_shape)
    d = math.prod(input_shape)
    affine = [k for k in exact.arguments if exact.is_affine(k)]
    small = [k for k in affine if math.prod(exact.shape(k)) * d <= MOST_KEPT]
    beginnings = {k: affine_map(exact, k) for k in small}
    return Relaxed(model, exact, fast, beginnings)


def affine_map(network: Network, value: int) -> AffineMap:
    """Return the map of a value that is affine in the input; network: of float64."""
    device = _device(network)
    zero = torch.zeros(1, *network.input_shape, dtype=network.dtype, device=device)
    sizes, n_terms, rounding = {0: torch.ones_like(zero)}, 4 * zero.numel() + 16, 0
    units = torch.eye(zero.numel(), dtype=network.dtype, device=device)
    # An affine map is cheaper to apply to each input unit than to carry back from each output.
    columns = {0: units.view(-1, *network.input_shape)}
    for k, node in enumerate(network.nodes[:value], start=1):
        if not isinstance(node, Affine) or not all(i in columns for i in node.inputs):
            continue
        columns[k] = node.linear(*(columns[i] for i in node.inputs))
        sizes[k] = node.sizes(*(sizes[i] for i in node.inputs))
        n_terms += node.terms + 2
        if node.terms:
            sizes[k] = sizes[k] + network.flushed[k - 1] * (1 + sizes[k].max())
            rounding += node.rounding
    bias = network.values(zero)[value].flatten()
    rows = columns[value].flatten(1).T.contiguous()
    # (1 + u)^rounding - 1, of which rounding u is the first term.
    own = math.expm1(rounding * network.unit)
    size = sizes[value].flatten()
    return AffineMap(rows, bias, 2.0**-51 * n_terms * size, own * size)


def interval_bounds(relaxed: Relaxed, ball: Ball) -> Bounds:
    """Return interval bounds, those of the affine beginning by the ball's own norm."""

    def refine(k: int, bounds: Bounds) -> None:
        if k in relaxed.beginnings:
            bounds.tighten(k, *_bound_beginning(relaxed, k, ball, bounds))

    return propagate(relaxed.exact, ball, refine)


def relaxed_bounds(
    relaxed: Relaxed, ball: Ball, *, budget: int = BUDGET, n_iterations: int = 0
) -> tuple[Bounds, dict[int, Lines]]:
    """Return interval bounds, tightened by back-substitution where an activation bends, and lines.

    budget: multiplications an example, shared equally between the activations' arguments; where
    it does not pay for all entries, those whose lines lie furthest apart come first. n_iterations:
    steps of ascent on the slopes behind each of these bounds, which cost several times as much.
    lines: of good slopes, by activation value.
    """
    network = relaxed.exact
    lines: dict[int, Lines] = {}
    users: dict[int, list[Pointwise]] = {}
    for node in network.nodes:
        if isinstance(node, Pointwise):
            users.setdefault(node.inputs[0], []).append(node)
    deep = users.keys() - relaxed.beginnings.keys()

    def refine(k: int, bounds: Bounds) -> None:
        if k in relaxed.beginnings:
            bounds.tighten(k, *_bound_beginning(relaxed, k, ball, bounds))
        elif k in users:
            n_rows = int(budget / len(deep) / (2 * network.cost(k)))
            _tighten(relaxed, ball, bounds, k, users[k], lines, n_rows)
            if n_iterations and lines:
                n_rows = int(n_rows * _FOR_SLOPES / (_PASSES_A_STEP * n_iterations))
                _tighten(relaxed, ball, bounds, k, users[k], lines, n_rows, n_iterations)
        node = network.nodes[k - 1]
        if isinstance(node, Pointwise):
            (i,) = node.inputs
            lines[k] = node.activation.lines(bounds.lower[i], bounds.upper[i])

    return propagate(network, ball, refine), lines


def _bound_beginning(relaxed: Relaxed, k: int, ball: Ball, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """Bound a value affine in the input: by the box, and by the norm dual to the ball's."""
    rows, bias, error, rounding = relaxed.beginnings[k]
    # What is added below is at most a few times the sizes that the error is made of.
    slack = 4 * error + rounding
    low, high = ball.lower, ball.upper
    middle = (low + high) / 2 @ rows.T + bias
    radius = (high - low) / 2 @ rows.abs().T
    lower, upper = middle - radius, middle + radius
    if ball.norm != "Linf":
        dual = rows.norm(dim=1) if ball.norm == "L2" else rows.abs().amax(dim=1)
        at_centre = ball.centre @ rows.T + bias
        lower = lower.maximum(at_centre - ball.eps * dual)
        upper = upper.minimum(at_centre + ball.eps * dual)
    shape = bounds.lower[k].shape
    return (lower - slack).view(shape), (upper + slack).view(shape)


def _tighten(
    relaxed: Relaxed, ball: Ball, bounds: Bounds, k: int, users: list[Pointwise],
    lines: Mapping[int, Lines], n_rows: int, n_iterations: int = 0,
) -> None:  # fmt: skip
    """Bound the entries of value k that bend by back-substitution, n_rows an example at most."""
    low, high = bounds.lower[k].flatten(1).clone(), bounds.upper[k].flatten(1).clone()
    loose = torch.stack([user.activation.looseness(low, high) for user in users]).amax(dim=0)
    n_rows = min(n_rows, loose.shape[1])
    if not n_rows:
        return
    worst, entries = loose.topk(n_rows, dim=1)
    owner, place = (worst > 0).nonzero(as_tuple=True)
    entries = entries[owner, place]
    network = relaxed.fast
    for chunk in chunks(network, 2 * len(owner), upto=k):
        which = torch.arange(2 * len(owner), device=owner.device)[chunk]
        sign = (1 - 2 * (which % 2)).to(network.dtype)
        which = which // 2
        of_rows, entry = owner[which], entries[which]
        units = torch.zeros(len(which), low.shape[1], dtype=network.dtype, device=low.device)
        units[torch.arange(len(which)), entry] = sign
        functions = units.view(-1, *network.shape(k))
        if n_iterations:
            exactly, rounding = optimised_bounds(
                network, network, bounds, ball, k, functions, of_rows, lines,
                n_iterations=n_iterations,
            )  # fmt: skip
            least = exactly - rounding
        else:
            bound = substitute(network, bounds, k, functions, of_rows, lines, shared=True)
            least = concretise(bound, ball, bounds, of_rows) - bound.rounding
        is_lower = sign > 0
        low[of_rows[is_lower], entry[is_lower]] = torch.maximum(
            low[of_rows[is_lower], entry[is_lower]], least[is_lower]
        )
        high[of_rows[~is_lower], entry[~is_lower]] = torch.minimum(
            high[of_rows[~is_lower], entry[~is_lower]], -least[~is_lower]
        )
    bounds.tighten(k, low.view_as(bounds.lower[k]), high.view_as(bounds.upper[k]))


def _device(network: Network) -> torch.device:
    for node in network.nodes:
        bias = getattr(node, "bias", None)
        if bias is not None:
            return bias.device
    return torch.device("cpu")
