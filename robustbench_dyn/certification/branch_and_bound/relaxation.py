"""The relaxation of subdomains, with linear bounds of neurons and dual variables of splits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.branch_and_bound.problem import UNIT, Layer, Problem
from robustbench_dyn.certification.network.graph import Affine, Network, Pointwise
from robustbench_dyn.certification.patience import look_at_time


class Lines(NamedTuple):
    """The lines around each neuron, (rows, neurons) each, in a subdomain of an example's ball.

    example: (rows,). relaxed: bool, whether it has two lines. fixed: the slope of all others, and 0
    of these. secant, intercept: of the upper lines; fixed and 0 for all others. decisions: the sign
    of each split neuron, 0 for those that are not split.
    """

    example: Tensor
    relaxed: Tensor
    fixed: Tensor
    secant: Tensor
    intercept: Tensor
    decisions: Tensor

    @classmethod
    def of(
        cls,
        problem: Problem,
        example: Tensor,
        lower: Tensor,
        upper: Tensor,
        decisions: Tensor | None,
        dtype: torch.dtype,
    ) -> Lines:
        """Return the lines between bounds of the neurons, (rows, neurons), float64.

        example: (rows,). decisions: (rows, neurons), or None; bounds are 0 at a side that a
        decision excludes.
        """
        a = problem.min_slope
        # Written so that NaN is no sign, and no bound follows from it.
        relaxed = ~((lower >= 0) | (upper <= 0)) & (a < 1)
        fixed = torch.where(lower >= 0, 1.0, a).where(~relaxed, 0.0)
        width = (upper - lower).where(relaxed, 1.0)
        secant = ((upper - a * lower) / width).where(relaxed, fixed)
        intercept = ((1 - a) * upper * -lower / width).where(relaxed, 0.0)
        if decisions is None:
            decisions = torch.zeros_like(lower)
        parts = (part.to(dtype) for part in (fixed, secant, intercept, decisions))
        return cls(example, relaxed, *parts)

    @classmethod
    def over_balls(cls, problem: Problem, examples: Tensor, dtype: torch.dtype) -> Lines:
        """Return the lines over the whole balls of some examples."""
        lower, upper = problem.lower[examples], problem.upper[examples]
        return cls.of(problem, examples, lower, upper, None, dtype)

    def at(self, rows: Tensor) -> Lines:
        """Return those of some rows."""
        return Lines(*(part[rows] for part in self))

    def before(self, column: int) -> Lines:
        """Return those of the first neurons."""
        return Lines(self.example, *(part[:, :column] for part in self[1:]))


class Functions(NamedTuple):
    """Linear functions of a network's outputs, which are to be bounded.

    coefficients: by output, (rows, entries). constant: (rows,).
    """

    coefficients: dict[int, Tensor]
    constant: Tensor

    @classmethod
    def of(cls, network: Network, rows: Tensor) -> Functions:
        """Return linear functions of the logits, (rows, classes)."""
        rows = rows.to(network.dtype)
        return cls({len(network.nodes): rows}, rows.new_zeros(len(rows)))

    def at(self, rows: Tensor) -> Functions:
        """Return some of the functions."""
        return Functions({k: c[rows] for k, c in self.coefficients.items()}, self.constant[rows])


class Relaxation(NamedTuple):
    """Lower bounds by linear functions of the input.

    value: (rows,), less what rounding may change. coefficients: (rows, inputs), constant: (rows,),
    of the function that is minimised. neurons: (rows, neurons), the coefficients of the neurons'
    values.
    """

    value: Tensor
    constant: Tensor
    coefficients: Tensor
    neurons: Tensor


def relax(
    problem: Problem,
    network: Network,
    functions: Functions,
    lines: Lines,
    slopes: Tensor,
    dual_variables: Tensor | None = None,
    *,
    proving: bool = False,
) -> Relaxation:
    """Bound functions from below over a subdomain each; differentiable.

    network: the problem's exact one, in which the bound is proved if `proving`, or the fast one.
    functions: of the network's dtype. slopes: (rows, neurons), of lower lines. dual_variables:
    (rows, neurons), at least 0, of the decisions. Any slopes between min_slope and 1 and any such
    dual variables give a bound.

    The bound is one of what the model computes: each output may differ by problem.roundings from
    what its inputs give, and the coefficients say what that changes.
    """
    layers = {layer.output: layer for layer in problem.layers}
    waiting, value = dict(functions.coefficients), functions.constant
    n, neurons = len(value), dict[int, Tensor]()
    for i in range(max(waiting), 0, -1):
        if i not in waiting:
            continue
        look_at_time()
        coefficients = waiting.pop(i)
        node = network.nodes[i - 1]
        value = value - _products(coefficients.abs(), problem.roundings[i], lines.example)
        if isinstance(node, Pointwise):
            columns = layers[i].columns
            neurons[i] = coefficients
            passed, constant = _through(lines, slopes, dual_variables, columns, coefficients)
            value = value + constant
            parts = [(node.inputs[0], passed)]
        else:
            assert isinstance(node, Affine)
            if node.bias is not None:
                value = value + coefficients @ _bias(node)
            adjoint = node.adjoint(coefficients.view(n, *node.shape))
            parts = [(s, p.flatten(1)) for s, p in zip(node.inputs, adjoint, strict=True)]
        for source, part in parts:
            waiting[source] = waiting[source] + part if source in waiting else part
    last = waiting.pop(0, None)
    if last is None:
        last = value.new_zeros(n, problem.ball.centre.shape[1])
    constant, value = value, value + _minimum(problem.ball, last, lines.example, proving)
    n_neurons = lines.relaxed.shape[1]
    of_layers = [value.new_zeros(n, 0)]
    for layer in problem.layers:
        columns = layer.columns
        if columns.stop <= n_neurons:
            unused = value.new_zeros(n, columns.stop - columns.start)
            of_layers.append(neurons.get(layer.output, unused))
    return Relaxation(value, constant, last, torch.cat(of_layers, dim=1))


def _bias(node: Affine) -> Tensor:
    """Return the bias of each entry; that of a convolution is one for each channel."""
    assert node.bias is not None
    return node.bias.expand(1, *node.shape).flatten()


def _through(
    lines: Lines,
    slopes: Tensor,
    dual_variables: Tensor | None,
    columns: slice,
    coefficients: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the coefficients of the arguments of neurons, and the sum of the lines' intercepts."""
    below = slopes[:, columns].where(lines.relaxed[:, columns], lines.fixed[:, columns])
    positive, negative = coefficients.clamp_min(0), coefficients.clamp_max(0)
    passed = positive * below + negative * lines.secant[:, columns]
    constant = (negative * lines.intercept[:, columns]).sum(dim=1)
    if dual_variables is not None:
        # Where the decision is the sign s of z, s z >= 0, and -b s z is at most 0.
        passed = passed - dual_variables[:, columns] * lines.decisions[:, columns]
    return passed, constant


def _minimum(ball: Ball, rows: Tensor, example: Tensor, proving: bool) -> Tensor:
    """Return the minimum of linear functions over balls, (rows,); rounded down if proving."""
    if ball.norm != "Linf":
        return ball.minimum(rows.double().view(-1, *ball.shape), example).to(rows)
    middle, radius = (ball.upper + ball.lower) / 2, (ball.upper - ball.lower) / 2
    if proving:
        # The sums over the inputs, which are at most 1, and the box itself are rounded.
        radius = radius + 4 * (rows.shape[1] + 16) * UNIT
    return _products(rows, middle, example) - _products(rows.abs(), radius, example)


def _products(rows: Tensor, values: Tensor, example: Tensor) -> Tensor:
    """Return <rows[i], values[example[i]]>, (rows,); values: (examples, entries)."""
    values = values.to(rows)
    if len(values) == 1:
        return rows @ values[0]
    return (rows * values[example]).sum(dim=1)


def arguments(network: Network, layer: Layer) -> Functions:
    """Return the arguments of a layer's neurons, and their negatives, by the outputs before."""
    node = network.nodes[layer.argument - 1]
    assert isinstance(node, Affine)
    n = layer.columns.stop - layer.columns.start
    bias = torch.zeros(n, dtype=network.dtype) if node.bias is None else _bias(node)
    units = torch.eye(n, dtype=network.dtype, device=bias.device)
    parts = dict[int, Tensor]()
    adjoint = node.adjoint(units.view(n, *node.shape))
    for source, part in zip(node.inputs, (p.flatten(1) for p in adjoint), strict=True):
        parts[source] = parts[source] + part if source in parts else part
    # And their negatives, which are bounded from below for an upper bound.
    both = {k: torch.cat([part, -part]) for k, part in parts.items()}
    return Functions(both, torch.cat([bias, -bias]))


def rounding_over_balls(problem: Problem, objectives: Tensor, example: Tensor) -> Tensor:
    """Return what rounding takes off bounds of <objectives[i], logits> over balls, (n,).

    example: (n,), whose ball. The lines are those that a search begins with.
    """
    lines = Lines.over_balls(problem, example, torch.float64)
    slopes = problem.start_slopes[example]
    functions = Functions.of(problem.exact, objectives)
    values = [
        relax(each, problem.exact, functions, lines, slopes, proving=True).value
        for each in (problem.without_rounding(), problem)
    ]
    return values[0] - values[1]
