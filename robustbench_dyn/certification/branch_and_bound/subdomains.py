"""Subdomains of balls: where some neurons are decided to be active or inactive."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.branch_and_bound.problem import Problem
from robustbench_dyn.certification.branch_and_bound.relaxation import Lines


class Subdomains(NamedTuple):
    """Subdomains of the balls of some examples, in which several margins are to be bounded.

    example: (subdomains,), of which ball each one is a part. decisions: (subdomains, neurons) int8,
    the sign of each split neuron, 0 for those that are not split. lower, upper: of the same shape,
    float64, proved bounds of the arguments of neurons in the subdomain. unproved: (subdomains,
    margins) bool. slopes, dual_variables: (subdomains, margins, neurons), of the search's dtype.
    value: (subdomains, margins), the bound that was reached before; no proof.
    """

    example: Tensor
    decisions: Tensor
    lower: Tensor
    upper: Tensor
    unproved: Tensor
    slopes: Tensor
    dual_variables: Tensor
    value: Tensor

    @classmethod
    def whole(cls, problem: Problem, examples: Tensor, unproved: Tensor) -> Subdomains:
        """Return the balls of some examples, of which the margins are (examples, margins)."""
        lower, upper = problem.lower[examples], problem.upper[examples]
        n_margins = unproved.shape[1]
        slopes = problem.start_slopes[examples, None].to(problem.fast.dtype)
        slopes = slopes.expand(-1, n_margins, -1).clone()
        return cls(
            example=examples,
            decisions=torch.zeros_like(lower, dtype=torch.int8),
            lower=lower,
            upper=upper,
            unproved=unproved.clone(),
            slopes=slopes,
            dual_variables=torch.zeros_like(slopes),
            value=slopes.new_full(unproved.shape, -torch.inf),
        )

    def at(self, rows: Tensor | slice) -> Subdomains:
        """Return some of the subdomains."""
        return Subdomains(*(part[rows] for part in self))

    def __len__(self) -> int:
        return len(self.decisions)

    @property
    def n_bytes(self) -> int:
        """How many bytes one of them takes."""
        return sum(part[0].numel() * part.element_size() for part in self)

    def lines(self, problem: Problem, dtype: torch.dtype) -> Lines:
        """Return the lines around the neurons in each subdomain."""
        return Lines.of(problem, self.example, self.lower, self.upper, self.decisions, dtype)

    def undecided(self, problem: Problem) -> Tensor:
        """Return whether a neuron can be split, (subdomains, neurons)."""
        # Written so that NaN is undecided.
        return ~((self.lower >= 0) | (self.upper <= 0)) & (problem.min_slope < 1)

    @property
    def empty(self) -> Tensor:
        """Whether the bounds of a neuron contradict each other, (subdomains,)."""
        return (self.lower > self.upper).any(dim=1)

    @property
    def least(self) -> Tensor:
        """The least bound that is unproved, (subdomains,)."""
        return self.value.where(self.unproved, torch.inf).amin(dim=1)

    def split(self, neurons: Tensor) -> Subdomains:
        """Split each subdomain in two, by the sign of one neuron; neurons: (subdomains,)."""
        n = len(self)
        twice = Subdomains(*(torch.cat([part, part]) for part in self))
        rows = torch.arange(n)
        twice.decisions[rows, neurons], twice.decisions[n + rows, neurons] = 1, -1
        twice.lower[rows, neurons] = 0.0
        twice.upper[n + rows, neurons] = 0.0
        return twice
