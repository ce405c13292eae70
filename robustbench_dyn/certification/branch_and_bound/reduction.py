"""A network over some balls with only those neurons whose sign is not the same on all of them.

Neurons that are active on all balls, or inactive, are affine. They are composed with the maps
around them, so that what is left of a network over one ball is small.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import LeakyReLU
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.branch_and_bound.affine import Composition
from robustbench_dyn.certification.branch_and_bound.problem import (
    UNIT,
    Layer,
    Problem,
    layers_of,
    step_units,
    with_margin,
)
from robustbench_dyn.certification.network.graph import Affine, Network, Node, Pointwise


class _Neurons(NamedTuple):
    """The arguments of one activation, or the logits, as an affine function of what is left.

    parts: by source, the input or the activation of neurons that are left, (entries, neurons left).
    errors: by activation, (entries, neurons), the map of what the model's rounding changes in
    arguments that are passed on by affine neurons. own: (examples, entries), what its rounding
    changes in these entries beside. magnitude: (examples, entries), at least the sums of the
    absolute values of all summands, before any of them cancel. kept: (entries,) bool, the neurons
    that are left; slope: (entries,), of the others.
    """

    parts: dict[int, Tensor]
    errors: dict[int, Tensor]
    offset: Tensor
    own: Tensor
    magnitude: Tensor
    kept: Tensor
    slope: Tensor


def reduced(network: Network, composition: Composition, bounds: Bounds, ball: Ball) -> Problem:
    """Return the problem of the examples' balls without the neurons that are affine on all of them.

    network: of float64. bounds: over the balls, of the outputs as the model computes them.
    """
    own = _own_roundings(network, composition, bounds)
    layers = {layer.output: layer for layer in layers_of(network)}
    found = dict[int, _Neurons]()
    for s, layer in layers.items():
        lower, upper = (side[layer.argument].flatten(1) for side in (bounds.lower, bounds.upper))
        # Written so that a neuron whose bounds are NaN is left.
        active, inactive = (lower >= 0).all(dim=0), (upper <= 0).all(dim=0)
        kept = ~(active | inactive) & (layer.a < 1)
        slope = torch.full_like(lower[0], layer.a).where(~active, 1.0).where(~kept, 0.0)
        # The activation rounds what it passes on, at most once.
        passed = network.unit * bounds.magnitudes[layer.argument].flatten(1)
        rounding = own[layer.argument] + (passed if layer.a else 0.0)
        found[s] = _substitute(composition, layer.argument, found, ball, rounding, kept, slope)
    last = len(network.nodes)
    none = torch.zeros_like(own[last][0], dtype=torch.bool)
    logits = _substitute(composition, last, found, ball, own[last], none, own[last][0])
    return _problem(network, bounds, ball, layers, found, logits)


def _substitute(
    composition: Composition,
    k: int,
    found: dict[int, _Neurons],
    ball: Ball,
    own: Tensor,
    kept: Tensor,
    slope: Tensor,
) -> _Neurons:
    """Write output k as a function of what is left; found: the activations before it."""
    offset = composition.offsets[k].clone()
    magnitude = offset.abs().expand_as(own)
    parts, errors = dict[int, Tensor](), dict[int, Tensor]()

    def add(to: dict[int, Tensor], source: int, part: Tensor) -> None:
        to[source] = to[source] + part if source in to else part

    for s, matrix in composition.maps[k].items():
        if s == 0:
            add(parts, 0, matrix)
            magnitude = magnitude + ball.upper.abs() @ matrix.abs().T
            continue
        before = found[s]
        if before.kept.any():
            add(parts, s, matrix[:, before.kept])
        affine = before.slope.nonzero().flatten()
        passed = matrix[:, affine] * before.slope[affine]
        for t, part in before.parts.items():
            add(parts, t, passed @ part[affine])
        for t, part in before.errors.items():
            add(errors, t, passed @ part[affine])
        add(errors, s, matrix * before.slope)
        offset = offset + passed @ before.offset[affine]
        weights = matrix.abs() * before.slope.where(~before.kept, 1.0)
        magnitude = magnitude + before.magnitude @ weights.T
    if not parts:
        parts[0] = offset.new_zeros(len(offset), ball.centre.shape[1])
    return _Neurons(parts, errors, offset, own, magnitude, kept, slope)


def _own_roundings(network: Network, composition: Composition, bounds: Bounds) -> dict[int, Tensor]:
    """Return what the model's rounding since the last activations may change, by output.

    For arguments of activations, and for the logits: (examples, entries). What is rounded before a
    sum is passed on from there by its map, in which terms cancel; else by absolute weights.
    """
    sums = {s for parts in composition.after_sums.values() for s in parts}
    errors, of_sums = [torch.zeros_like(bounds.magnitudes[0])], dict[int, Tensor]()
    for k, node in enumerate(network.nodes, start=1):
        magnitude = bounds.magnitudes[k]
        error = torch.zeros_like(magnitude)
        if isinstance(node, Affine):
            error = node.abs_linear(*(errors[i] for i in node.inputs))
            error = error * (1 + 1e-9) + node.rounding_units * network.unit * magnitude
        if k in sums:
            of_sums[k], error = error.flatten(1), torch.zeros_like(error)
        errors.append(error)
    return {
        k: errors[k].flatten(1)
        + sum(of_sums[s] @ matrix.T * (1 + 1e-9) for s, matrix in parts.items())
        for k, parts in composition.after_sums.items()
    }


def _problem(
    network: Network,
    bounds: Bounds,
    ball: Ball,
    layers: dict[int, Layer],
    found: dict[int, _Neurons],
    logits: _Neurons,
) -> Problem:
    """Return the problem of the neurons that are left, layer after layer."""
    index, values = {0: 0}, [(layers[s], n) for s, n in found.items() if bool(n.kept.any())]
    exact, fast = list[Node](), list[Node]()
    roundings = [torch.zeros_like(ball.centre)]
    lower, upper = [roundings[0][:, :0]], [roundings[0][:, :0]]
    depth = 8 * (len(layers) + 1)

    def add(neurons: _Neurons, rows: Tensor) -> None:
        sources = sorted(neurons.parts)
        maps = [neurons.parts[s][rows] for s in sources]
        inputs = [index[s] for s in sources]
        shapes = [
            network.input_shape if s == 0 else (m.shape[1],)
            for s, m in zip(sources, maps, strict=True)
        ]
        exact.append(_dense(inputs, shapes, maps, neurons.offset[rows]))
        single = [m.float() for m in maps]
        fast.append(_dense(inputs, shapes, single, neurons.offset[rows].float()))
        model = neurons.own + sum(found[s].own @ e.abs().T for s, e in neurons.errors.items())
        n_summands = sum(m.shape[1] for m in maps) + len(rows) + network_width
        # Composition errs by as much as a step does, once for each layer.
        n_units = depth * (n_summands + 16) + step_units(network.nodes, len(rows))
        arithmetic = n_units * UNIT * neurons.magnitude
        roundings.append(with_margin(model + arithmetic)[:, rows])

    network_width = max(len(n.offset) for n in (*found.values(), logits))
    for layer, neurons in values:
        rows = neurons.kept.nonzero().flatten()
        add(neurons, rows)
        for nodes in (exact, fast):
            nodes.append(Pointwise((len(nodes),), (len(rows),), LeakyReLU(layer.a)))
        index[layer.output] = len(exact)
        # The neuron's argument is bounded, and its value is no larger.
        arithmetic = step_units(network.nodes, len(rows)) * UNIT * neurons.magnitude
        model = network.unit * bool(layer.a) * bounds.magnitudes[layer.argument].flatten(1)
        roundings.append(with_margin(model + arithmetic)[:, rows])
        lower.append(bounds.lower[layer.argument].flatten(1)[:, rows])
        upper.append(bounds.upper[layer.argument].flatten(1)[:, rows])
    add(logits, torch.arange(len(logits.offset), device=logits.offset.device))
    networks = [
        Network(network.input_shape, tuple(nodes), dtype, network.model_dtype)
        for nodes, dtype in ((exact, torch.float64), (fast, torch.float32))
    ]
    return Problem.of(
        exact=networks[0],
        fast=networks[1],
        ball=ball,
        roundings=roundings,
        lower=torch.cat(lower, dim=1),
        upper=torch.cat(upper, dim=1),
        is_dense=True,
    )


def _dense(
    inputs: list[int], shapes: list[tuple[int, ...]], maps: list[Tensor], bias: Tensor
) -> Affine:
    """Return the sum of matrices times inputs, plus a bias."""

    def times(matrices: list[Tensor], values: tuple[Tensor, ...]) -> Tensor:
        products = [v.flatten(1) @ m.T for m, v in zip(matrices, values, strict=True)]
        return torch.stack(products).sum(dim=0) if len(products) > 1 else products[0]

    absolute = [m.abs() for m in maps]
    return Affine(
        inputs=tuple(inputs),
        shape=(len(bias),),
        linear=lambda *values: times(maps, values),
        abs_linear=lambda *values: times(absolute, values),
        adjoint=lambda a: tuple(
            (a @ m).view(len(a), *shape) for m, shape in zip(maps, shapes, strict=True)
        ),
        bias=bias,
        n_summands=sum(math.prod(shape) for shape in shapes) + 1,
    )
