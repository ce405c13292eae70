"""The choice of the neuron that a subdomain is split by."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_dyn.certification.branch_and_bound.bounding import Rows
from robustbench_dyn.certification.branch_and_bound.problem import Problem
from robustbench_dyn.certification.branch_and_bound.subdomains import Subdomains


def neurons_to_split(problem: Problem, domains: Subdomains, bounded: Rows) -> Tensor:
    """Return a neuron for each subdomain, (subdomains,), by the bounds of its margins.

    It is the one whose upper line costs the unproved margins most: the intercept, times the
    coefficient where it is negative (the second term of BaBSR, Bunel et al., arXiv 1909.06588,
    Section 5). What a lower line costs is left out, since its slope was optimised.
    """
    # To bound the children of the three best neurons, and take the one of the best bounds, does not
    # pay: it took 8,600 subdomains in place of 7,400 for an example of a dense network of 256
    # neurons in L2, and the time of other networks changed by no more than it varies. Eight neurons
    # took a quarter longer.
    owners, ascent = bounded.owners, bounded.ascent
    lines = domains.lines(problem, ascent.neurons.dtype)
    intercept = lines.intercept
    rows = domains.unproved[owners, bounded.margins]
    losses = (-ascent.neurons[rows]).clamp_min(0) * intercept[owners[rows]]
    total = torch.zeros_like(intercept).index_add_(0, owners[rows], losses)
    # Where no upper line is used, the coefficients say what matters; where there are none, the
    # widest neuron is as good as any.
    rest = ascent.neurons[rows].abs() * intercept[owners[rows]]
    total = total + 1e-6 * torch.zeros_like(total).index_add_(0, owners[rows], rest)
    total = total + 1e-12 * intercept
    return total.where(lines.relaxed, -1.0).argmax(dim=1)
