"""Intermediate bounds: intervals, tightened by back-substitution where neurons are unstable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.activations import LinearBounds
from robustbench_dyn.certification.bounds.affine_prefixes import AffineMap, affine_prefixes
from robustbench_dyn.certification.bounds.allotment import Allotment, relaxation_gap
from robustbench_dyn.certification.bounds.alpha_crown import optimised_bounds
from robustbench_dyn.certification.bounds.back_substitution import chunks
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.budgets import BUDGET
from robustbench_dyn.certification.bounds.entry_bounds import entry_bounds, unit_rows
from robustbench_dyn.certification.bounds.intervals import Bounds, largest_numbers, propagate
from robustbench_dyn.certification.bounds.traced_network import traced_network
from robustbench_dyn.certification.bounds.windows import WindowsOfOutputs
from robustbench_dyn.certification.network.graph import Affine, Network, Pointwise
from robustbench_dyn.certification.network.lowering import Handlers

# As many times the budget may be spent on better slopes.
_FOR_SLOPES = 2
# A step of ascent passes back and forth.
_PASSES_A_STEP = 3
# Slopes are optimised for a few entries of a layer first, those of largest gap, and for the others
# of an example where that narrows one of them by this share: in many layers they gain nothing.
_FIRST, _PAYS = 4, 0.01
# Intervals of a sum of n terms are wider than those by back-substitution by about the root of n.
# By so many times that, they have grown along skip connections, from layer to layer.
_GROWN = 4.0


class RelaxationState(NamedTuple):
    """A network ready to be relaxed.

    model: the module that was traced. exact, fast: see TracedNetwork. affine_prefixes: the map of
    each pre-activation that is affine in the input. fast_prefixes: the same in the fast dtype.
    windows: of the fast network. strict: whether a relaxation subtracts the worst case of rounding,
    or what was measured of it; see rounding.allowance.
    """

    model: nn.Module
    exact: Network
    fast: Network
    affine_prefixes: dict[int, AffineMap]
    fast_prefixes: dict[int, AffineMap]
    windows: WindowsOfOutputs
    strict: bool = True


# The states that are shared, by the identity of the model and the input shape.
_States = dict[tuple[int, tuple[int, ...]], RelaxationState]
_shared: ContextVar[_States | None] = ContextVar("_shared", default=None)


@contextmanager
def shared_states() -> Iterator[None]:
    """Trace each model once while a block runs, in which no model may change."""
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def relaxation_state(
    model: nn.Module, input_shape: tuple[int, ...], handlers: Handlers | None = None
) -> RelaxationState:
    """Trace model; raises CertificateError, naming the operation, where one has no handler.

    handlers: in place of those of OPERATIONS.
    """
    states, key = _shared.get(), (id(model), input_shape)
    if states is None or handlers is not None:
        return _relaxation_state(model, input_shape, handlers)
    if key not in states:
        states[key] = _relaxation_state(model, input_shape, handlers)
    return states[key]


def _relaxation_state(
    model: nn.Module, input_shape: tuple[int, ...], handlers: Handlers | None
) -> RelaxationState:
    exact, fast = traced_network(model, input_shape, handlers)
    prefixes = affine_prefixes(exact)
    in_fast_dtype = {k: prefix.to(fast.dtype) for k, prefix in prefixes.items()}
    return RelaxationState(model, exact, fast, prefixes, in_fast_dtype, WindowsOfOutputs(fast))


def interval_bounds(state: RelaxationState, ball: Ball, *, fast: bool = False) -> Bounds:
    """Return interval bounds, with those of affine prefixes by the ball's own norm.

    fast: in the fast dtype, whose rounding widens them.
    """
    network, prefixes = state.exact, state.affine_prefixes
    if fast:
        network, prefixes = state.fast, state.fast_prefixes

    def refine(k: int, bounds: Bounds) -> None:
        if k in prefixes:
            bounds.tighten(k, *prefixes[k].bounds(ball, bounds.lower[k].shape))

    return propagate(network, ball, refine)


def intermediate_bounds(
    state: RelaxationState, ball: Ball, *, budget: int = BUDGET, n_iterations: int = 0
) -> tuple[Bounds, dict[int, LinearBounds]]:
    """Return bounds tightened by back-substitution where neurons are unstable, and linear bounds.

    budget: multiplications an example, of which each pre-activation may take an equal share of what
    those before it left; where it does not pay for all neurons, those with the largest relaxation
    gap come first. n_iterations: steps of ascent on the slopes behind each of these bounds, which
    cost several times as much; they are taken in the layers where a few neurons gain by them. The
    linear bounds, by the output of an activation, are those of its initial slopes.

    Where intervals grow along skip connections, sums that no activation reads are tightened, too:
    the model's rounding is a multiple of their size.
    """
    network = state.exact
    linear_bounds: dict[int, LinearBounds] = {}
    consumers = network.consumers
    deep = [k for k in consumers if k not in state.affine_prefixes]
    sums = {k for k in network.sums if k not in consumers and k not in state.affine_prefixes}
    n = len(ball.centre)
    passes, passes_of_sums = (Allotment(network, some, budget, n) for some in (deep, sums))
    budget_of_slopes = _FOR_SLOPES * budget // (_PASSES_A_STEP * max(1, n_iterations))
    steps = Allotment(network, deep, budget_of_slopes, n)
    grown = torch.zeros(n, dtype=torch.bool, device=ball.centre.device)

    def refine(k: int, bounds: Bounds) -> None:
        if k in state.affine_prefixes:
            bounds.tighten(k, *state.affine_prefixes[k].bounds(ball, bounds.lower[k].shape))
        elif k in consumers:
            activations = [node.activation for _, node in consumers[k]]
            gap = relaxation_gap(activations, *_sides(bounds, k))
            _tighten(state, ball, bounds, k, passes.widest(k, gap), linear_bounds)
            if n_iterations and linear_bounds:
                gap = relaxation_gap(activations, *_sides(bounds, k))
                _optimise(state, ball, bounds, k, gap, linear_bounds, steps, n_iterations)
            if sums:
                grown.logical_or_(_has_grown(network, bounds, k))
        elif k in sums and grown.any():
            width = _width(bounds, k)
            gap = width.where(grown[:, None] & width.isfinite(), 0.0)
            _tighten(state, ball, bounds, k, passes_of_sums.widest(k, gap), linear_bounds)
        node = network.nodes[k - 1]
        if isinstance(node, Pointwise):
            (i,) = node.inputs
            linear_bounds[k] = node.activation.linear_bounds(bounds.lower[i], bounds.upper[i])

    return propagate(network, ball, refine), linear_bounds


def _sides(bounds: Bounds, k: int) -> tuple[Tensor, Tensor]:
    """Return copies of the bounds of output k, (batch, entries) each."""
    return bounds.lower[k].flatten(1).clone(), bounds.upper[k].flatten(1).clone()


def _has_grown(network: Network, bounds: Bounds, k: int) -> Tensor:
    """Return for which examples intervals are far wider than tightened bounds, (batch,) bool.

    k: an output that was tightened. The magnitudes of its summands are those of intervals.
    """
    n_summands = max(node.n_summands for node in network.nodes[:k] if isinstance(node, Affine))
    low, high = _sides(bounds, k)
    size = largest_numbers(torch.maximum(low.abs(), high.abs()))
    return largest_numbers(bounds.magnitudes[k]) > _GROWN * n_summands**0.5 * size


def _optimise(
    state: RelaxationState,
    ball: Ball,
    bounds: Bounds,
    k: int,
    gap: Tensor,
    linear_bounds: Mapping[int, LinearBounds],
    allotment: Allotment,
    n_iterations: int,
) -> None:
    """Tighten the entries of output k that are paid by slopes of their own, where that pays.

    gap: (batch, entries), 0 where there is nothing to gain.
    """
    paid = allotment.widest(k, gap)
    _, largest = gap.topk(min(_FIRST, gap.shape[1]), dim=1)
    first = paid & torch.zeros_like(paid).scatter(1, largest, value=True)
    before = _width(bounds, k)
    _tighten(state, ball, bounds, k, first, linear_bounds, n_iterations)
    narrowed = (1 - _width(bounds, k) / before).where(first, 0.0).amax(dim=1)
    # Written so that NaN does not pay.
    rest = paid & ~first & (narrowed > _PAYS)[:, None]
    _tighten(state, ball, bounds, k, rest, linear_bounds, n_iterations)
    allotment.give_back(k, paid & ~first & ~rest)


def _width(bounds: Bounds, k: int) -> Tensor:
    """Return upper less lower bounds of output k, (batch, entries)."""
    low, high = _sides(bounds, k)
    return high - low


def _tighten(
    state: RelaxationState,
    ball: Ball,
    bounds: Bounds,
    k: int,
    chosen: Tensor,
    linear_bounds: Mapping[int, LinearBounds],
    n_iterations: int = 0,
) -> None:
    """Bound some entries of output k by back-substitution; chosen: (batch, entries) bool.

    n_iterations: steps of ascent on the slopes of each; 0 keeps the initial ones.
    """
    low, high = _sides(bounds, k)
    owners, entries = chosen.nonzero(as_tuple=True)
    if not len(owners):
        return
    network = state.fast
    both_owners, both_entries = owners.repeat_interleave(2), entries.repeat_interleave(2)
    signs = torch.ones(len(both_owners), dtype=network.dtype, device=low.device)
    signs[1::2] = -1
    if n_iterations:
        found = torch.empty(len(signs), dtype=torch.float64, device=low.device)
        for chunk in chunks(network, len(signs), k):
            value, rounding = optimised_bounds(
                network,
                network,
                bounds,
                ball,
                k,
                unit_rows(both_entries[chunk], signs[chunk], low.shape[1]),
                both_owners[chunk],
                linear_bounds,
                n_iterations=n_iterations,
            )
            found[chunk] = value - rounding
    else:
        found = entry_bounds(
            network,
            ball,
            bounds,
            k,
            both_owners,
            both_entries,
            signs,
            linear_bounds,
            windows=state.windows.of(k),
        )
    low[owners, entries] = low[owners, entries].maximum(found[0::2])
    high[owners, entries] = high[owners, entries].minimum(-found[1::2])
    bounds.tighten(k, low.view_as(bounds.lower[k]), high.view_as(bounds.upper[k]))
