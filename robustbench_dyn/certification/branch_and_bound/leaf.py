"""Fully split subproblems, whose relaxation is exact: convex programs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.branch_and_bound.ascent import ascend
from robustbench_dyn.certification.branch_and_bound.leaf_lp import solve
from robustbench_dyn.certification.branch_and_bound.problem import Problem
from robustbench_dyn.certification.branch_and_bound.relaxation import (
    Functions,
    Lines,
    arguments,
    relax,
)

# Steps of ascent where there is no linear program.
_STEPS = 400


class Leaf(NamedTuple):
    """The bound of a fully split subproblem, proved, and its minimiser, of the ball's shape."""

    lower_bound: float
    x: Tensor


def minimum(problem: Problem, objective: Tensor, lines: Lines, dual_variables: Tensor) -> Leaf:
    """Bound one margin in a subdomain where no neuron is relaxed.

    objective: (1, classes); lines: of one row, float64; dual_variables: (1, neurons), where an
    ascent begins.
    """
    network, ball = problem.exact, problem.ball
    functions = Functions.of(network, objective)
    slopes = problem.min_slope[None]
    solution = None
    if ball.norm != "L2":
        split = lines.decisions[0].nonzero().flatten()
        normals, offsets = _split_neurons(problem, lines, split)
        slope = relax(problem, network, functions, lines, slopes).coefficients[0]
        solution = solve(slope, normals, offsets, ball, example=int(lines.example))
    if solution is None:
        aim = torch.full((1,), torch.inf, dtype=torch.float64)
        found = ascend(
            problem, network, functions, lines, slopes, dual_variables, aim, n_steps=_STEPS
        )
        dual_variables, slope = found.dual_variables, found.coefficients
        x = ball.minimiser(slope.view(1, *ball.shape), lines.example)[0]
    else:
        dual_variables = torch.zeros_like(dual_variables)
        dual_variables[0, split] = solution.dual_variables
        x = solution.x.view(ball.shape)
    proof = relax(problem, network, functions, lines, slopes, dual_variables, proving=True)
    return Leaf(float(proof.value), x)


def _split_neurons(problem: Problem, lines: Lines, split: Tensor) -> tuple[Tensor, Tensor]:
    """Return the arguments of split neurons as functions of the input, at least 0 as decided.

    Rows (split, inputs), and offsets (split,).
    """
    d = problem.ball.centre.shape[1]
    rows, offsets = [lines.fixed.new_zeros(0, d)], [lines.fixed.new_zeros(0)]
    for layer in problem.layers:
        columns = split[(split >= layer.columns.start) & (split < layer.columns.stop)]
        if not len(columns):
            continue
        neurons = columns - layer.columns.start
        # As functions of the outputs before; a decision's sign turns them.
        signed = neurons + (lines.decisions[0, columns] < 0) * (
            layer.columns.stop - layer.columns.start
        )
        functions = arguments(problem.exact, layer).at(signed)
        these = lines.at(torch.zeros(len(signed), dtype=torch.long))
        slopes = problem.min_slope.expand(len(signed), -1)
        found = relax(problem, problem.exact, functions, these, slopes)
        rows.append(found.coefficients)
        offsets.append(found.constant)
    return torch.cat(rows), torch.cat(offsets)
