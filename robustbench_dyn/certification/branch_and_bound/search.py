"""Branch and bound over the signs of unstable neurons.

A subdomain is the part of the ball where some split neurons are decided to be active or inactive.
It is bounded by a relaxation with slopes of its own and a dual variable for each split decision
(beta-CROWN, Wang et al., arXiv 2103.06624). In a fully split subproblem that is the Lagrangian dual
of a convex program, whose maximum is its minimum: the search is complete. In L2 the maximum is
reached by ascent, and in Linf and L1 by the dual variables of a linear program. Bounds are sound
for any dual variables.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.branch_and_bound.ascent import Ascent, ascend
from robustbench_dyn.certification.branch_and_bound.branching import choose
from robustbench_dyn.certification.branch_and_bound.leaf_lp import solve_leaf
from robustbench_dyn.certification.branch_and_bound.pool import Pool
from robustbench_dyn.certification.branch_and_bound.problem import Problem
from robustbench_dyn.certification.branch_and_bound.relaxation import Functions, Lines, relax
from robustbench_dyn.certification.branch_and_bound.subdomains import Subdomains
from robustbench_dyn.certification.branch_and_bound.tightening import Tightening

# Rows, of a subdomain and a margin each, that are bounded at a time; steps of ascent for each, and
# for the whole ball.
_BATCH, _STEPS, _FIRST_STEPS = 256, 10, 40


class SearchResult(NamedTuple):
    """proved: (margins,) bool, which exceed their thresholds. x: a counterexample, or None.

    n_subdomains: how many were bounded.
    """

    proved: Tensor
    x: Tensor | None
    n_subdomains: int = 0


class Search:
    """The search for several margins over the ball of one example."""

    def __init__(
        self,
        problem: Problem,
        objectives: Tensor,
        thresholds: Tensor,
        values: Callable[[Tensor], Tensor],
    ) -> None:
        self._tightening = Tightening(problem)
        self._objectives, self._thresholds, self._values = objectives, thresholds, values
        self._aim = thresholds + 1e-6 * (1 + thresholds.abs())
        self.log = False

    def run(self, until: float) -> SearchResult:
        tightening = self._tightening
        tightening.over_ball(n_steps=20)
        self._problem = problem = tightening.problem
        pool = Pool(Subdomains.whole(problem, len(self._objectives)))
        n_steps, n_done = _FIRST_STEPS, 0
        t0, last = time.process_time(), 0
        while pool:
            if time.monotonic() > until:
                return SearchResult(pool.unproved == 0, None, n_done)
            domains = pool.pop(_BATCH)
            n_done += len(domains)
            owners, margins = domains.unproved.nonzero(as_tuple=True)
            ascent = self._bound(domains, owners, margins, n_steps)
            domains.slopes[owners, margins] = ascent.slopes
            domains.dual_variables[owners, margins] = ascent.dual_variables
            domains.value[owners, margins] = ascent.value
            x = self._counterexample(ascent, margins)
            if x is not None:
                return SearchResult(~domains.unproved.any(dim=0) & (pool.unproved == 0), x, n_done)
            closed = self._prove(domains, owners, margins, ascent)
            domains.unproved[owners[closed], margins[closed]] = False
            if self.log and (n_steps == _FIRST_STEPS or n_done - last > 1000):
                last = n_done
                print(
                    n_done, len(pool), 'worst %.3f' % min(float(domains.least.min()),pool.least),
                    'closed', int(closed.sum()), 'of', len(closed), '%.1fs' % (time.process_time() - t0), 'splits', int((domains.decisions!=0).sum(1).max()),
                    'und', int(domains.undecided.sum(1).max()), flush=True)
            n_steps = _STEPS
            left = domains.unproved.any(dim=1)
            leaves = left & ~domains.undecided.any(dim=1)
            for k in leaves.nonzero().flatten().tolist():
                x = self._solve(domains, k)
                if domains.unproved[k].any():
                    return SearchResult(~domains.unproved.any(dim=0) & (pool.unproved == 0), x, n_done)
            rows = left & ~leaves
            if rows.any():
                pool.push(self._split(domains, rows, owners, margins, ascent))
        return SearchResult(torch.ones(len(self._objectives), dtype=torch.bool), None, n_done)

    def _lines(self, domains: Subdomains, owners: Tensor, dtype: torch.dtype) -> Lines:
        lines = Lines.of(self._problem, domains.lower, domains.upper, domains.decisions, dtype)
        return lines.at(owners)

    def _bound(self, domains: Subdomains, owners: Tensor, margins: Tensor, n_steps: int) -> Ascent:
        problem, dtype = self._problem, self._problem.fast.dtype
        return ascend(
            problem,
            problem.fast,
            Functions.of(problem.fast, self._objectives[margins]),
            self._lines(domains, owners, dtype),
            domains.slopes[owners, margins],
            domains.dual_variables[owners, margins],
            self._aim[margins].to(dtype),
            n_steps=n_steps,
        )

    def _prove(
        self, domains: Subdomains, owners: Tensor, margins: Tensor, ascent: Ascent
    ) -> Tensor:
        """Say which rows' bounds exceed their thresholds."""
        problem = self._problem
        proved = domains.empty[owners]
        rows = (ascent.value > self._aim[margins]).nonzero().flatten()
        if len(rows):
            slopes = ascent.slopes[rows].double().maximum(problem.min_slope).clamp_max(1.0)
            found = relax(
                problem,
                problem.exact,
                Functions.of(problem.exact, self._objectives[margins[rows]]),
                self._lines(domains, owners[rows], torch.float64),
                slopes,
                ascent.dual_variables[rows].double(),
                proving=True,
            )
            # Written so that NaN stays open.
            proved[rows] |= found.value > self._thresholds[margins[rows]]
        return proved

    def _counterexample(self, ascent: Ascent, margins: Tensor) -> Tensor | None:
        ball = self._problem.ball
        rows = ascent.coefficients.double().view(-1, *ball.shape)
        x = ball.minimiser(rows, torch.zeros(len(rows), dtype=torch.long))
        values = (self._values(x) * self._objectives[margins]).sum(dim=1)
        at = int(values.argmin())
        return x[at] if float(values[at]) <= 0 else None

    def _split(
        self,
        domains: Subdomains,
        rows: Tensor,
        owners: Tensor,
        margins: Tensor,
        ascent: Ascent,
    ) -> Subdomains:
        neurons = choose(self._problem, domains, self._objectives, owners, margins, ascent)
        split = domains.at(rows).split(neurons[rows])
        first = neurons[rows].repeat(2)
        # All that is behind the split neuron may be bounded anew.
        if first.numel():
            self._tightening.tighten(split.lower, split.upper, split.decisions, first)
        return split.at(~split.empty)

    def _solve(self, domains: Subdomains, k: int) -> Tensor:
        raise NotImplementedError
