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


class Leaves(NamedTuple):
    """Proved bounds of margins in fully split subproblems, (rows,), and their minimisers.

    x: (rows, *ball.shape).
    """

    lower_bound: Tensor
    x: Tensor


def minima(problem: Problem, objectives: Tensor, lines: Lines, dual_variables: Tensor) -> Leaves:
    """Bound margins in subdomains where no neuron is relaxed.

    objectives: (rows, classes); lines: of as many rows, float64; dual_variables: (rows, neurons),
    where an ascent begins.
    """
    network, ball = problem.exact, problem.ball
    functions = Functions.of(network, objectives)
    slopes = problem.min_slope.expand(len(objectives), -1)
    duals = dual_variables.clone()
    x = dual_variables.new_zeros(len(objectives), *ball.shape)
    ascending = list[int]()
    for row in range(len(objectives)):
        if ball.norm == "L2" or not _solved(problem, functions, lines, row, duals, x):
            ascending.append(row)
    if ascending:
        # All at once: a step costs hardly more than that of one.
        rows = torch.tensor(ascending, device=duals.device)
        found = ascend(
            problem,
            network,
            functions.at(rows),
            lines.at(rows),
            slopes[rows],
            dual_variables[rows],
            dual_variables.new_full((len(rows),), torch.inf),
            n_steps=_STEPS,
        )
        duals[rows] = found.dual_variables
        coefficients = found.coefficients.view(-1, *ball.shape)
        x[rows] = ball.minimiser(coefficients, lines.example[rows])
    proof = relax(problem, network, functions, lines, slopes, duals, proving=True)
    return Leaves(proof.value, x)


def _solved(
    problem: Problem, functions: Functions, lines: Lines, row: int, duals: Tensor, x: Tensor
) -> bool:
    """Fill in a row of the dual variables and of the minimisers by a linear program, if it can."""
    ball = problem.ball
    this = torch.tensor([row], device=duals.device)
    one, slopes = lines.at(this), problem.min_slope[None]
    split = one.decisions[0].nonzero().flatten()
    normals, offsets = _split_neurons(problem, one, split)
    slope = relax(problem, problem.exact, functions.at(this), one, slopes).coefficients[0]
    solution = solve(slope, normals, offsets, ball, example=int(one.example))
    if solution is None:
        return False
    duals[row] = 0.0
    duals[row, split] = solution.dual_variables
    x[row] = solution.x.view(ball.shape)
    return True


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
