"""Bounds of the margins of subdomains: by ascent, in float64 as a proof, and where all is split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.branch_and_bound.ascent import Ascent, ascend
from robustbench_dyn.certification.branch_and_bound.leaf import minima
from robustbench_dyn.certification.branch_and_bound.margins import Margins
from robustbench_dyn.certification.branch_and_bound.problem import Problem
from robustbench_dyn.certification.branch_and_bound.relaxation import Functions, relax
from robustbench_dyn.certification.branch_and_bound.subdomains import Subdomains

# The coefficients of one batch, in numbers.
_MOST_NUMBERS = 40_000_000


class Rows(NamedTuple):
    """Unproved margins of subdomains, a row each, with the ascent on their bounds.

    owners, margins, example: (rows,), the subdomain, the margin and the example.
    """

    owners: Tensor
    margins: Tensor
    example: Tensor
    ascent: Ascent


def bound(problem: Problem, margins: Margins, domains: Subdomains, *, n_steps: int) -> Rows:
    """Bound the unproved margins, and keep what the bounds are reached by."""
    dtype = problem.fast.dtype
    owners, slots = domains.unproved.nonzero(as_tuple=True)
    example = domains.example[owners]
    lines, parts = domains.lines(problem, dtype), list[Ascent]()
    for some in _chunks(problem, torch.arange(len(owners), device=owners.device)):
        of, which = owners[some], slots[some]
        ascent = ascend(
            problem,
            problem.fast,
            Functions.of(problem.fast, margins.coefficients[example[some], which]),
            lines.at(of),
            domains.slopes[of, which],
            domains.dual_variables[of, which],
            margins.aims[example[some], which].to(dtype),
            n_steps=n_steps,
        )
        parts.append(ascent)
    ascent = Ascent(*(torch.cat(column) for column in zip(*parts, strict=True)))
    domains.slopes[owners, slots] = ascent.slopes
    domains.dual_variables[owners, slots] = ascent.dual_variables
    domains.value[owners, slots] = ascent.value
    return Rows(owners, slots, example, ascent)


def prove(problem: Problem, margins: Margins, domains: Subdomains, rows: Rows) -> None:
    """Prove what seems to exceed its threshold; rows whose bound does are not unproved."""
    owners, slots, example, ascent = rows
    seems = (ascent.value > margins.aims[example, slots]).nonzero().flatten()
    if not len(seems):
        return
    lines = domains.lines(problem, torch.float64)
    for some in _chunks(problem, seems):
        of, which = owners[some], slots[some]
        found = relax(
            problem,
            problem.exact,
            Functions.of(problem.exact, margins.coefficients[example[some], which]),
            lines.at(of),
            ascent.slopes[some].double().maximum(problem.min_slope).clamp_max(1.0),
            ascent.dual_variables[some].double(),
            proving=True,
        )
        # Written so that NaN stays open.
        proved = found.value > margins.thresholds[example[some], which]
        domains.unproved[of[proved], which[proved]] = False


def solve(
    problem: Problem, margins: Margins, domains: Subdomains, leaves: Tensor
) -> dict[int, Tensor]:
    """Bound the margins of fully split subproblems; leaves: (n,), which ones are.

    Returns the minimiser of one that fails, by example.
    """
    found = dict[int, Tensor]()
    split, by_ascent = domains.at(leaves), problem.ball.norm == "L2"
    owners, slots = split.unproved.nonzero(as_tuple=True)
    lines, rows = split.lines(problem, torch.float64), torch.arange(len(owners))
    # Linear programs are solved one by one anyway, and none for an example that is decided.
    for some in _chunks(problem, rows) if by_ascent else torch.split(rows, 1):
        of, which = owners[some], slots[some]
        example = split.example[of]
        if not by_ascent and int(example[0]) in found:
            continue
        bounded = minima(
            problem,
            margins.coefficients[example, which],
            lines.at(of),
            split.dual_variables[of, which].double(),
        )
        # Written so that NaN stays open.
        proved = bounded.lower_bound > margins.thresholds[example, which]
        domains.unproved[leaves[of[proved]], which[proved]] = False
        for row in (~proved).nonzero().flatten().tolist():
            found.setdefault(int(example[row]), bounded.x[row])
    return found


def _chunks(problem: Problem, rows: Tensor) -> Iterable[Tensor]:
    """Split rows so that their coefficients fit memory."""
    if not len(rows):
        return []
    return torch.split(rows, max(1, _MOST_NUMBERS // problem.exact.n_numbers))
