"""Branch and bound over the signs of unstable neurons.

A subdomain is the part of a ball where some split neurons are decided to be active or inactive.
It is bounded by a relaxation with slopes of its own and a dual variable for each split decision
(beta-CROWN, Wang et al., arXiv 2103.06624), behind bounds of the neurons that are tightened within
the subdomain. In a fully split subproblem that is the Lagrangian dual of a convex program, whose
maximum is its minimum: the search is complete. In L2 the maximum is reached by ascent, and in Linf
and L1 by the dual variables of a linear program. Bounds are sound for any slopes and dual
variables: these are sought in a quick dtype, and what they prove is computed in float64.

The subdomains of many examples are bounded in one pass, which takes hardly longer than those of one
where a network is small. Each example takes as many of its own as it would alone, so that its
search does not depend on the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.branch_and_bound import bounding, descent
from robustbench_dyn.certification.branch_and_bound.branching import neurons_to_split
from robustbench_dyn.certification.branch_and_bound.giving_up import Spent, hopeless
from robustbench_dyn.certification.branch_and_bound.margins import Margins
from robustbench_dyn.certification.branch_and_bound.pool import Pool
from robustbench_dyn.certification.branch_and_bound.problem import Problem
from robustbench_dyn.certification.branch_and_bound.subdomains import Subdomains
from robustbench_dyn.certification.branch_and_bound.tightening import Tightening, tightening_cost
from robustbench_dyn.certification.branch_and_bound.turns import Progress, next_turn

# Rows, of a subdomain and a margin each, that are bounded at a time: of one example; of several, as
# many as these numbers allow: of rows, and of the outputs of the network for all of them.
_BATCH, _TOGETHER, _MOST_NUMBERS = 256, 2048, 4_000_000
# Steps of ascent for each row, for those of the whole ball, and for bounds of neurons.
_STEPS, _FIRST_STEPS, _NEURON_STEPS = 10, 20, 10
# Steps of descent from the centre and from the minimisers of the whole ball, and from a few of each
# example's rows.
_DESCENT, _LATER_DESCENT, _DESCENDED = 10, 3, 8
# Slopes and dual variables of one subdomain, in numbers.
_MOST_SLOPES = 50_000_000
# What bounding all neurons once may cost: more does not pay in each subdomain.
_MOST_MULTIPLICATIONS = 5_000_000_000


class SearchResult(NamedTuple):
    """What the searches of some examples decided.

    proved: (objectives,) bool, which exceed their thresholds on the whole ball. x: by example, of
    the input's shape, a counterexample, or the minimiser of a subproblem whose bound is exact and
    not enough. gave_up: (examples,) bool, whose searches ended since no bound neared a proof.
    n_subdomains, seconds: (examples,), how many were bounded, and the share of the time.
    """

    proved: Tensor
    x: dict[int, Tensor]
    gave_up: Tensor
    n_subdomains: Tensor
    seconds: Tensor


class Search:
    """The search for margins above thresholds over the balls of examples.

    objectives: (n, classes), float64; thresholds: (n,), float64; example: (n,), whose margin each
    is. logits: of points, (n, *input_shape), float64; differentiable.
    """

    def __init__(
        self,
        problem: Problem,
        objectives: Tensor,
        thresholds: Tensor,
        example: Tensor,
        logits: Callable[[Tensor], Tensor],
    ) -> None:
        self.problem, self._logits = problem, logits
        self._margins = Margins.of(objectives, thresholds, example, problem.n_examples)
        self._pool = Pool(*self._margins.exists.shape, device=thresholds.device)
        self._proved = torch.zeros_like(self._margins.exists)
        self._searches = [Progress(number) for number in range(problem.n_examples)]
        self._together = max(_BATCH, min(_TOGETHER, _MOST_NUMBERS // problem.exact.n_numbers))
        self._tightening: Tightening | None = None

    @torch.no_grad()
    def run(self, spent: Spent, *, seconds_per_example: float, seconds: float) -> SearchResult:
        """Search until all is decided, or the time of each or of all together is over.

        spent: by searches before this one; these count their own.
        """
        started = time.monotonic()
        while True:
            over = time.monotonic() - started > seconds
            turn = next_turn(self._searches, spent, seconds_per_example, over=over)
            for number in (*turn.timed_out, *turn.given_up):
                self._end(number, gave_up=number in turn.given_up)
            if not turn.starting and not turn.going_on:
                break
            begun = time.monotonic()
            shares = self._start(turn.starting) if turn.starting else self._go_on(turn.going_on)
            taken = time.monotonic() - begun
            for number, rows in enumerate(shares.tolist()):
                self._searches[number].seconds += taken * rows / max(1, int(shares.sum()))
        for one in self._searches:
            spent.count(seconds=one.seconds, decided=bool(one.decided))
        return self._result()

    def _end(self, number: int, *, gave_up: bool = False, x: Tensor | None = None) -> None:
        """End a search with what is proved so far."""
        one, exists = self._searches[number], self._margins.exists[number]
        if one.n_done:
            self._proved[number] = exists & (self._pool.unproved[number] == 0)
        one.decided = x is not None or bool((self._proved[number] | ~exists).all())
        one.gave_up, one.x = gave_up, x
        self._pool.drop(number)

    def _start(self, new: list[int]) -> Tensor:
        """Search for counterexamples near the centres, and bound the margins of whole balls.

        Returns how many rows each example had in the pass, (examples,).
        """
        margins, ball = self._margins, self.problem.ball
        examples = torch.tensor(new, device=margins.objective.device)
        owners, slots = margins.exists[examples].nonzero(as_tuple=True)
        example = examples[owners]
        centre = ball.centre[example].view(-1, *ball.shape)
        found = descent.from_points(
            self._logits, ball, margins, example, slots, centre, n_steps=_DESCENT
        )
        for number, x in found.items():
            self._end(number, x=x)
        rest = [number for number in new if number not in found]
        if margins.exists.shape[1] * len(self.problem.min_slope) > _MOST_SLOPES:
            for number in rest:
                self._end(number, gave_up=True)
        elif rest:
            self._bound_balls(examples.new_tensor(rest))
        return torch.bincount(example, minlength=len(self._searches))

    def _bound_balls(self, examples: Tensor) -> None:
        if self.problem.is_dense and tightening_cost(self.problem) < _MOST_MULTIPLICATIONS:
            if self._tightening is None:
                self._tightening = Tightening(self.problem)
            self._tightening.over_balls(examples, n_steps=_NEURON_STEPS)
            self.problem = self._tightening.problem
        unproved = self._margins.exists[examples]
        self._bound(Subdomains.whole(self.problem, examples, unproved), first=True)

    def _go_on(self, going: list[int]) -> Tensor:
        """Bound subdomains of as many examples as a pass has room for, as _start does."""
        # Those that had the least so far come first.
        going.sort(key=lambda number: self._searches[number].n_done)
        if self._pool.is_full:
            going = [min(going)]
        unproved = self._pool.unproved.sum(dim=1).clamp_max(_BATCH).tolist()
        taken, n = list[int](), 0
        while going and (not taken or n + unproved[going[0]] <= self._together):
            taken.append(going.pop(0))
            n += unproved[taken[-1]]
        domains = self._pool.pop(taken, _BATCH)
        example = domains.example[domains.unproved.nonzero()[:, 0]]
        self._bound(domains, first=False)
        return torch.bincount(example, minlength=len(self._searches))

    def _bound(self, domains: Subdomains, *, first: bool) -> None:
        """Bound subdomains, split what is unproved, and end searches that are through."""
        problem, margins = self.problem, self._margins
        numbers = domains.example.tolist()
        for number in numbers:
            self._searches[number].n_done += 1
        n_steps = _FIRST_STEPS if first else _STEPS
        rows = bounding.bound(problem, margins, domains, n_steps=n_steps)
        found = descent.from_minimisers(
            self._logits,
            problem.ball,
            margins,
            rows,
            n_steps=_DESCENT if first else _LATER_DESCENT,
            most=None if first else _DESCENDED,
        )
        bounding.prove(problem, margins, domains, rows)
        left = domains.unproved.any(dim=1)
        leaves = left & ~domains.undecided(problem).any(dim=1)
        rest = [k for k in leaves.nonzero().flatten().tolist() if numbers[k] not in found]
        if rest:
            found |= bounding.solve(problem, margins, domains, torch.tensor(rest))
        lost = self._hopeless(domains) if first else set[int]()
        over = torch.tensor([number in found or number in lost for number in numbers])
        # What is left of searches that are over is not split, but is unproved.
        self._pool.push(domains.at(left & over.to(left.device)))
        split = left & ~leaves & ~over.to(left.device)
        if split.any():
            self._pool.push(self._split(domains, split, rows))
        for number in set(numbers):
            if number in found or number in lost or not self._pool.n_waiting(number):
                self._end(number, gave_up=number in lost, x=found.get(number))

    def _hopeless(self, domains: Subdomains) -> set[int]:
        """Return the examples whose balls' bounds are too far below the margins at the centres."""
        ball, margins = self.problem.ball, self._margins
        centre = ball.centre[domains.example].view(-1, *ball.shape)
        values = (self._logits(centre)[:, None] * margins.coefficients[domains.example]).sum(dim=2)
        lacking = margins.thresholds[domains.example] - domains.value
        n_unstable = domains.undecided(self.problem).sum(dim=1).tolist()
        return {
            int(domains.example[k])
            for k, unproved in enumerate(domains.unproved)
            if hopeless(lacking[k, unproved], values[k, unproved], n_unstable=n_unstable[k])
        }

    def _split(self, domains: Subdomains, left: Tensor, rows: bounding.Rows) -> Subdomains:
        """Split subdomains in two each, and tighten the bounds behind the split neurons."""
        neurons = neurons_to_split(self.problem, domains, rows)[left]
        split = domains.at(left).split(neurons)
        if self._tightening is not None:
            self._tightening.tighten(split, neurons.repeat(2))
        return split.at(~split.empty)

    def _result(self) -> SearchResult:
        proved = torch.zeros_like(self._margins.objective[self._margins.exists], dtype=torch.bool)
        proved[self._margins.objective[self._margins.exists]] = self._proved[self._margins.exists]
        return SearchResult(
            proved,
            {one.number: one.x for one in self._searches if one.x is not None},
            gave_up=torch.tensor([one.gave_up for one in self._searches]),
            n_subdomains=torch.tensor([one.n_done for one in self._searches]),
            seconds=torch.tensor([one.seconds for one in self._searches]),
        )
