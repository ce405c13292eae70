"""Branch and bound over the signs of unstable neurons.

A subdomain is the part of the ball where some split neurons are decided to be active or inactive.
It is bounded by a relaxation with slopes of its own and a dual variable for each split decision
(beta-CROWN, Wang et al., arXiv 2103.06624), behind bounds of the neurons that are tightened within
the subdomain. In a fully split subproblem that is the Lagrangian dual of a convex program, whose
maximum is its minimum: the search is complete. In L2 the maximum is reached by ascent, and in Linf
and L1 by the dual variables of a linear program. Bounds are sound for any slopes and dual
variables: these are sought in a quick dtype, and what they prove is computed in float64.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.branch_and_bound.ascent import Ascent, ascend
from robustbench_dyn.certification.branch_and_bound.branching import neurons_to_split
from robustbench_dyn.certification.branch_and_bound.descent import counterexample
from robustbench_dyn.certification.branch_and_bound.giving_up import hopeless
from robustbench_dyn.certification.branch_and_bound.leaf import minimum
from robustbench_dyn.certification.branch_and_bound.pool import Pool
from robustbench_dyn.certification.branch_and_bound.problem import Problem
from robustbench_dyn.certification.branch_and_bound.relaxation import Functions, Lines, relax
from robustbench_dyn.certification.branch_and_bound.subdomains import Subdomains
from robustbench_dyn.certification.branch_and_bound.tightening import Tightening, tightening_cost

# Rows, of a subdomain and a margin each, that are bounded at a time.
_BATCH = 256
# Steps of ascent for each row, for those of the whole ball, and for bounds of neurons.
_STEPS, _FIRST_STEPS, _NEURON_STEPS = 10, 20, 10
# Steps of descent from the centre and from the minimisers of the whole ball, and from a few of each
# batch.
_DESCENT, _LATER_DESCENT, _DESCENDED = 10, 3, 8
# Slopes and dual variables of one subdomain, and the coefficients of one batch, in numbers.
_MOST_SLOPES, _MOST_NUMBERS = 50_000_000, 40_000_000
# What bounding all neurons once may cost: more does not pay in each subdomain.
_MOST_MULTIPLICATIONS = 5_000_000_000


class SearchResult(NamedTuple):
    """What a search decided.

    proved: (margins,) bool, which exceed their thresholds on the whole ball. x: of the input's
    shape, a counterexample, or the minimiser of a subproblem whose bound is exact and not enough;
    None where there is neither. gave_up: it ended since no bound neared a proof. n_subdomains: how
    many were bounded.
    """

    proved: Tensor
    x: Tensor | None = None
    gave_up: bool = False
    n_subdomains: int = 0


class Rows(NamedTuple):
    """Unproved margins of subdomains, a row each, with the ascent on their bounds.

    owners, margins: (rows,), the subdomain and the margin.
    """

    owners: Tensor
    margins: Tensor
    ascent: Ascent


class Search:
    """The search for margins above thresholds over the ball of one example.

    objectives: (margins, classes), float64; thresholds: (margins,), float64. logits: of points, (n,
    *input_shape), float64; differentiable.
    """

    def __init__(
        self,
        problem: Problem,
        objectives: Tensor,
        thresholds: Tensor,
        logits: Callable[[Tensor], Tensor],
    ) -> None:
        self.problem = problem
        self._objectives, self._thresholds, self._logits = objectives, thresholds, logits
        # The search may stop where its own rounding cannot matter.
        self._aim = thresholds + 1e-6 * (1 + thresholds.abs())
        self._tightening: Tightening | None = None

    @torch.no_grad()
    def run(self, until: float, *, most_subdomains: float = torch.inf) -> SearchResult:
        """Search until all is decided, a moment of time.monotonic, or a number of subdomains."""
        if time.monotonic() > until:
            return SearchResult(torch.zeros(len(self._objectives), dtype=torch.bool))
        none = torch.zeros_like(self._thresholds, dtype=torch.bool)
        ball = self.problem.ball
        centre = ball.centre.view(-1, *ball.shape).expand(len(none), *ball.shape)
        x = self._descend(torch.arange(len(none)), centre, _DESCENT)
        too_large = len(self._objectives) * len(self.problem.lower) > _MOST_SLOPES
        if x is not None or too_large:
            return SearchResult(none, x, gave_up=x is None)
        if self.problem.is_dense and tightening_cost(self.problem) < _MOST_MULTIPLICATIONS:
            self._tightening = Tightening(self.problem)
            self._tightening.over_ball(n_steps=_NEURON_STEPS)
            self.problem = self._tightening.problem
        pool = Pool(Subdomains.whole(self.problem, len(self._objectives)))
        n_done = 0
        while len(pool):
            open_margins = pool.unproved > 0
            if time.monotonic() > until or n_done >= most_subdomains:
                return SearchResult(~open_margins, None, n_done >= most_subdomains, n_done)
            domains = pool.pop(_BATCH)
            first, n_done = n_done == 0, n_done + len(domains)
            rows = self._bound(domains, _FIRST_STEPS if first else _STEPS)
            x = self._counterexample(rows, first)
            self._prove(domains, rows)
            left = domains.unproved.any(dim=1)
            leaves = left & ~domains.undecided(self.problem).any(dim=1)
            for k in leaves.nonzero().flatten().tolist():
                x = self._solve(domains, k) if x is None else x
            if x is not None:
                proved = ~domains.unproved.any(dim=0) & (pool.unproved == 0)
                return SearchResult(proved, x, n_subdomains=n_done)
            if first and self._hopeless(domains):
                return SearchResult(~domains.unproved.any(dim=0), None, True, n_done)
            if (left & ~leaves).any():
                pool.push(self._split(domains, left & ~leaves, rows))
        return SearchResult(
            torch.ones_like(self._thresholds, dtype=torch.bool), n_subdomains=n_done
        )

    def _hopeless(self, domains: Subdomains) -> bool:
        """Say whether the bounds of the ball are too far below the margins at its centre."""
        ball = self.problem.ball
        margins = self._logits(ball.centre.view(-1, *ball.shape))[0] @ self._objectives.T
        return hopeless(
            (self._thresholds - domains.value[0])[domains.unproved[0]],
            margins[domains.unproved[0]],
            n_unstable=int(domains.undecided(self.problem).sum()),
        )

    def _lines(self, domains: Subdomains, owners: Tensor, dtype: torch.dtype) -> Lines:
        lines = Lines.of(self.problem, domains.lower, domains.upper, domains.decisions, dtype)
        return lines.at(owners)

    def _bound(self, domains: Subdomains, n_steps: int) -> Rows:
        """Bound the unproved margins, and keep what the bounds are reached by."""
        problem, dtype = self.problem, self.problem.fast.dtype
        owners, margins = domains.unproved.nonzero(as_tuple=True)
        parts = list[Ascent]()
        for of, which in zip(self._chunks(owners), self._chunks(margins), strict=True):
            ascent = ascend(
                problem,
                problem.fast,
                Functions.of(problem.fast, self._objectives[which]),
                self._lines(domains, of, dtype),
                domains.slopes[of, which],
                domains.dual_variables[of, which],
                self._aim[which].to(dtype),
                n_steps=n_steps,
            )
            parts.append(ascent)
        ascent = Ascent(*(torch.cat(column) for column in zip(*parts, strict=True)))
        domains.slopes[owners, margins] = ascent.slopes
        domains.dual_variables[owners, margins] = ascent.dual_variables
        domains.value[owners, margins] = ascent.value
        return Rows(owners, margins, ascent)

    def _chunks(self, rows: Tensor) -> Iterable[Tensor]:
        """Split rows so that their coefficients fit memory."""
        return torch.split(rows, max(1, _MOST_NUMBERS // self.problem.exact.n_numbers))

    def _prove(self, domains: Subdomains, rows: Rows) -> None:
        """Prove what seems to exceed its threshold; rows whose bound does are not unproved."""
        problem, (owners, margins, ascent) = self.problem, rows
        these = (ascent.value > self._aim[margins]).nonzero().flatten()
        if not len(these):
            return
        for some in self._chunks(these):
            of, which = owners[some], margins[some]
            found = relax(
                problem,
                problem.exact,
                Functions.of(problem.exact, self._objectives[which]),
                self._lines(domains, of, torch.float64),
                ascent.slopes[some].double().maximum(problem.min_slope).clamp_max(1.0),
                ascent.dual_variables[some].double(),
                proving=True,
            )
            # Written so that NaN stays open.
            proved = found.value > self._thresholds[which]
            domains.unproved[of[proved], which[proved]] = False

    def _counterexample(self, rows: Rows, first: bool) -> Tensor | None:
        """Search from the minimisers of the relaxations."""
        ball, (_, margins, ascent) = self.problem.ball, rows
        owners = torch.zeros(len(margins), dtype=torch.long)
        x = ball.minimiser(ascent.coefficients.double().view(-1, *ball.shape), owners)
        if first:
            return self._descend(margins, x, _DESCENT)
        values = (self._logits(x) * self._objectives[margins]).sum(dim=1)
        least = (values - self._thresholds[margins].clamp_max(0)).argsort()[:_DESCENDED]
        return self._descend(margins[least], x[least], _LATER_DESCENT)

    def _descend(self, margins: Tensor, x: Tensor, n_steps: int) -> Tensor | None:
        """Search for a counterexample from some points, one for each margin."""
        return counterexample(
            self._logits,
            self.problem.ball,
            self._objectives[margins],
            self._thresholds[margins].clamp_max(0),
            x,
            n_steps=n_steps,
        )

    def _split(self, domains: Subdomains, left: Tensor, rows: Rows) -> Subdomains:
        """Split subdomains in two each, and tighten the bounds behind the split neurons."""
        neurons = neurons_to_split(self.problem, domains, *rows)[left]
        split = domains.at(left).split(neurons)
        if self._tightening is not None:
            self._tightening.tighten(split.lower, split.upper, split.decisions, neurons.repeat(2))
        return split.at(~split.empty)

    def _solve(self, domains: Subdomains, k: int) -> Tensor | None:
        """Bound the margins of a fully split subproblem; return its minimiser where one fails."""
        for margin in domains.unproved[k].nonzero().flatten().tolist():
            leaf = minimum(
                self.problem,
                self._objectives[margin : margin + 1],
                self._lines(domains, torch.tensor([k]), torch.float64),
                domains.dual_variables[k, margin][None].double(),
            )
            if not leaf.lower_bound > self._thresholds[margin]:
                return leaf.x
            domains.unproved[k, margin] = False
        return None
