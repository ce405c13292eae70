"""The relaxation of subdomains, with linear bounds of neurons and dual variables of splits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.branch_and_bound.problem import UNIT, Problem
from robustbench_dyn.certification.network.graph import Affine, Network, Pointwise


class Lines(NamedTuple):
    """The lines around each neuron, (rows, neurons) each.

    relaxed: bool, whether it has two lines. fixed: the slope of all others, and 0 of these. secant,
    intercept: of the upper lines; fixed and 0 for all others. decisions: the sign of each split
    neuron, 0 for those that are not split.
    """

    relaxed: Tensor
    fixed: Tensor
    secant: Tensor
    intercept: Tensor
    decisions: Tensor

    @classmethod
    def of(
        cls,
        problem: Problem,
        lower: Tensor,
        upper: Tensor,
        decisions: Tensor,
        dtype: torch.dtype,
    ) -> Lines:
        """Return the lines between bounds of the neurons, (rows, neurons), float64.

        decisions: (rows, neurons); bounds are 0 at a side that a decision excludes.
        """
        a = problem.min_slope
        # Written so that NaN is no sign, and no bound follows from it.
        relaxed = ~((lower >= 0) | (upper <= 0)) & (a < 1)
        fixed = torch.where(lower >= 0, 1.0, a).where(~relaxed, 0.0)
        width = (upper - lower).where(relaxed, 1.0)
        secant = ((upper - a * lower) / width).where(relaxed, fixed)
        intercept = ((1 - a) * upper * -lower / width).where(relaxed, 0.0)
        return cls(relaxed, *(part.to(dtype) for part in (fixed, secant, intercept, decisions)))

    def at(self, rows: Tensor) -> Lines:
        """Return those of some rows."""
        return Lines(*(part[rows] for part in self))


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

    value: (rows,), what rounding may change is subtracted, in a proof. coefficients: (rows,
    inputs), of the function that is minimised. neurons: (rows, neurons), the coefficients of the
    neurons' values.
    """

    value: Tensor
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
        coefficients = waiting.pop(i)
        node = network.nodes[i - 1]
        value = value - coefficients.abs() @ problem.roundings[i].to(coefficients)
        if isinstance(node, Pointwise):
            columns = layers[i].columns
            neurons[columns.start] = coefficients
            passed, constant = _through(lines, slopes, dual_variables, columns, coefficients)
            value = value + constant
            parts = [(node.inputs[0], passed)]
        else:
            assert isinstance(node, Affine)
            if node.bias is not None:
                value = value + coefficients @ node.bias.flatten()
            adjoint = node.adjoint(coefficients.view(n, *node.shape))
            parts = [(s, p.flatten(1)) for s, p in zip(node.inputs, adjoint, strict=True)]
        for source, part in parts:
            waiting[source] = waiting[source] + part if source in waiting else part
    last = waiting.pop(0, None)
    if last is None:
        last = value.new_zeros(n, problem.ball.centre.shape[1])
    value = value + _minimum(problem.ball, last, proving)
    none = value.new_zeros(n, 0)
    found = [
        neurons.get(layer.columns.start, none.new_zeros(n, layer.columns.stop - layer.columns.start))
        for layer in problem.layers
    ]
    return Relaxation(value, last, torch.cat([none, *found], dim=1))


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


def _minimum(ball: Ball, rows: Tensor, proving: bool) -> Tensor:
    """Return the minimum of linear functions over the ball, (rows,); rounded down if proving."""
    if ball.norm != "Linf":
        owners = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        return ball.minimum(rows.double().view(-1, *ball.shape), owners).to(rows)
    middle, radius = (ball.upper + ball.lower)[0] / 2, (ball.upper - ball.lower)[0] / 2
    if proving:
        # The sums over the inputs, which are at most 1, and the box itself are rounded.
        radius = radius + 4 * (rows.shape[1] + 16) * UNIT
    return rows @ middle.to(rows) - rows.abs() @ radius.to(rows)
