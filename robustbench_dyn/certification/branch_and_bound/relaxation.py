"""The relaxation of subdomains, with linear bounds of neurons and dual variables of splits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import LeakyReLU
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.branch_and_bound.affine import Composition
from robustbench_dyn.certification.network.graph import Network, Pointwise

_UNIT = 2.0**-53


class Layer(NamedTuple):
    """The neurons of one activation: y = max(z, a z), z = sum of maps[s] y_s + offset.

    output: the index of the activation's output. columns: of its neurons among those of all layers.
    maps: from each source, the input (0) or an earlier activation, (neurons, entries of s).
    magnitude: (neurons,), at least the sum of the absolute values of the summands of z.
    """

    output: int
    columns: slice
    maps: dict[int, Tensor]
    offset: Tensor
    a: float
    lower: Tensor
    upper: Tensor
    magnitude: Tensor

    def slopes(self, decisions: Tensor) -> Tensor:
        """Return the slopes of stable and of split neurons; decisions: of all neurons."""
        active = (self.lower >= 0) | (decisions[..., self.columns] > 0)
        return torch.where(active, 1.0, self.a)


class Neurons(NamedTuple):
    """All neurons of a network over the ball of one example, layer after layer.

    logits, offset: the logits as an affine map of their sources. lower, upper: (neurons,), bounds
    of the pre-activations. unstable: (neurons,) bool, whether a neuron may be active or not.
    min_slope, secant_slope, intercept: of the lines around each unstable neuron.
    """

    layers: list[Layer]
    logits: dict[int, Tensor]
    offset: Tensor
    lower: Tensor
    upper: Tensor
    unstable: Tensor
    min_slope: Tensor
    secant_slope: Tensor
    intercept: Tensor


class Subdomains(NamedTuple):
    """Subdomains of the ball, (subdomains, neurons) each.

    decisions: the sign of each split neuron, 0 for those that are not split. slopes: of lower
    lines. dual_variables: of the decisions, at least 0.
    """

    decisions: Tensor
    slopes: Tensor
    dual_variables: Tensor

    def at(self, rows: Tensor | slice) -> Subdomains:
        """Return some of the subdomains."""
        return Subdomains(*(part[rows] for part in self))


class Relaxation(NamedTuple):
    """The relaxation of each subdomain.

    value: (subdomains,), before rounding; rounding: (subdomains,), what value may be too large by.
    losses: (subdomains, neurons), what the lines of each neuron lose at most. coefficients:
    (subdomains, inputs), of the linear function of the input that is minimised.
    """

    value: Tensor
    losses: Tensor
    coefficients: Tensor
    rounding: Tensor


def neurons_of(network: Network, composition: Composition, bounds: Bounds) -> Neurons:
    """Return the neurons of a network with the bounds of one example's ball."""
    largest = {0: torch.ones(bounds.lower[0][0].numel(), dtype=torch.float64)}
    layers, end = list[Layer](), 0
    for k in network.activations:
        node = network.nodes[k - 1]
        assert isinstance(node, Pointwise)
        assert isinstance(node.activation, LeakyReLU)
        (i,) = node.inputs
        maps, offset = composition.maps[i], composition.offsets[i]
        magnitude = offset.abs() + sum(m.abs() @ largest[s] for s, m in maps.items())
        lower, upper = (side[i][0].flatten().cpu() for side in (bounds.lower, bounds.upper))
        columns, a = slice(end, end + len(lower)), node.activation.a
        layers.append(Layer(k, columns, maps, offset, a, lower, upper, magnitude))
        end = columns.stop
        largest[k] = magnitude
    none = torch.zeros(0, dtype=torch.float64)
    lower = torch.cat([none, *(layer.lower for layer in layers)])
    upper = torch.cat([none, *(layer.upper for layer in layers)])
    slopes = (torch.full_like(layer.lower, layer.a) for layer in layers)
    min_slope = torch.cat([none, *slopes])
    unstable = (lower < 0) & (upper > 0) & (min_slope < 1)
    width = (upper - lower).where(unstable, 1.0)
    intercept = (1 - min_slope) * upper * -lower / width
    last = len(network.nodes)
    return Neurons(
        layers=layers,
        logits=composition.maps[last],
        offset=composition.offsets[last],
        lower=lower,
        upper=upper,
        unstable=unstable,
        min_slope=min_slope,
        secant_slope=(upper - min_slope * lower) / width,
        intercept=intercept.where(unstable, 0.0),
    )


def relax(neurons: Neurons, ball: Ball, subdomains: Subdomains, objective: Tensor) -> Relaxation:
    """Bound <objective, logits> from below over each subdomain; differentiable.

    objective: (classes,), float64. ball: of one example.
    """
    decisions, slopes, dual_variables = subdomains
    n = len(decisions)
    value = (objective @ neurons.offset).expand(n)
    # Beside all coefficients, sums of the absolute values of their summands.
    total = (objective.abs() @ neurons.offset.abs()).expand(n)
    waiting, magnitudes = dict[int, Tensor](), dict[int, Tensor]()
    for s, matrix in neurons.logits.items():
        waiting[s] = (objective @ matrix).expand(n, -1)
        magnitudes[s] = (objective.abs() @ matrix.abs()).expand(n, -1)
    losses = [decisions.new_zeros(n, 0)]
    for layer in reversed(neurons.layers):
        columns = layer.columns
        if layer.output not in waiting:
            losses.append(decisions.new_zeros(n, len(layer.lower)))
            continue
        coefficients, magnitude = waiting.pop(layer.output), magnitudes.pop(layer.output)
        relaxed = neurons.unstable[columns] & (decisions[:, columns] == 0)
        fixed = coefficients * layer.slopes(decisions)
        positive, negative = coefficients.clamp_min(0), coefficients.clamp_max(0)
        bounded = positive * slopes[:, columns] + negative * neurons.secant_slope[columns]
        # Where the decision is the sign s of z, s z >= 0, and -b s z is at most 0.
        dual_terms = dual_variables[:, columns] * decisions[:, columns]
        passed = torch.where(relaxed, bounded, fixed) - dual_terms
        intercept = neurons.intercept[columns]
        constant = (negative * intercept).where(relaxed, 0.0)
        losses.append((coefficients.abs() * intercept).where(relaxed, 0.0))
        value = value + constant.sum(dim=1) + passed @ layer.offset
        magnitude = magnitude + dual_terms.detach().abs()
        total = total + magnitude @ (layer.magnitude + intercept)
        for s, matrix in layer.maps.items():
            part, part_magnitude = passed @ matrix, magnitude @ matrix.abs()
            waiting[s] = waiting[s] + part if s in waiting else part
            magnitudes[s] = magnitudes[s] + part_magnitude if s in magnitudes else part_magnitude
    coefficients = waiting[0]
    owners = torch.zeros(n, dtype=torch.long)
    value = value + ball.minimum(coefficients.view(-1, *ball.shape), owners)
    n_summands = len(neurons.unstable) + coefficients.shape[1] + len(objective) + 16
    total = total + magnitudes[0].sum(dim=1)
    rounding = 4 * (len(neurons.layers) + 1) * n_summands * _UNIT * total
    return Relaxation(value, torch.cat(losses[::-1], dim=1), coefficients, rounding)
