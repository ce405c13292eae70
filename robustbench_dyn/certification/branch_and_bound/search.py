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
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.branch_and_bound.affine import Composition
from robustbench_dyn.certification.branch_and_bound.leaf_lp import solve
from robustbench_dyn.certification.branch_and_bound.relaxation import (
    Neurons,
    Relaxation,
    Subdomains,
    neurons_of,
    relax,
)
from robustbench_dyn.certification.network.graph import Network

# Subdomains that are bounded at a time; steps of ascent for each, and for fully split ones.
_BATCH, _STEPS, _LAST_STEPS = 64, 20, 400
_RATE = 0.1


class SearchResult(NamedTuple):
    """proved: whether the bound holds. Otherwise x, (inputs,), is a counterexample, or None.

    x: None on timeout.
    """

    proved: bool
    x: Tensor | None


class Ascent(NamedTuple):
    """Subdomains after ascent on their slopes and dual variables.

    lower_bound: (subdomains,), proven. losses: (subdomains, neurons), of the last relaxation. x:
    (subdomains, inputs), its minimiser.
    """

    lower_bound: Tensor
    subdomains: Subdomains
    losses: Tensor
    x: Tensor


class BranchAndBound:
    """The search on a network of ReLU and leaky ReLU over the ball of one example."""

    def __init__(
        self, network: Network, composition: Composition, bounds: Bounds, ball: Ball
    ) -> None:
        self.network, self.ball = network, ball
        self.neurons: Neurons = neurons_of(network, composition, bounds)

    def prove_above(self, objective: Tensor, threshold: float, *, seconds: float) -> SearchResult:
        """Prove that <objective, logits> exceeds the threshold on the ball, or find an input.

        objective: (classes,), float64. An input that is returned has a value of at most 0 and the
        threshold, or is the minimiser of a fully split subproblem; None: the time ran out.
        """
        until = time.monotonic() + seconds
        neurons = self.neurons
        undecided = torch.zeros(1, len(neurons.unstable), dtype=torch.float64)
        slopes = torch.where(neurons.upper > -neurons.lower, 1.0, neurons.min_slope)
        stack = [Subdomains(undecided, slopes[None], undecided)]
        while stack:
            if time.monotonic() > until:
                return SearchResult(False, None)
            subdomains = stack.pop()
            if len(subdomains.decisions) > _BATCH:
                stack.append(subdomains.at(slice(_BATCH, None)))
                subdomains = subdomains.at(slice(_BATCH))
            ascent = self._ascend(subdomains, objective, threshold, _STEPS)
            values = self._values(ascent.x, objective)
            if bool((values <= min(threshold, 0.0)).any()):
                return SearchResult(False, ascent.x[values.argmin()])
            # Written so that NaN stays open.
            left = ~(ascent.lower_bound > threshold)
            fully_split = ((subdomains.decisions != 0) | ~neurons.unstable).all(dim=1)
            for k in (left & fully_split).nonzero().flatten().tolist():
                one = ascent.subdomains.at(slice(k, k + 1))
                lower_bound, x = self._solve_fully_split(one, objective, threshold)
                if not lower_bound > threshold:
                    return SearchResult(False, x)
            if (left & ~fully_split).any():
                rows = left & ~fully_split
                stack.append(self._split(ascent.subdomains.at(rows), ascent.losses[rows]))
        return SearchResult(True, None)

    def relaxation(self, subdomains: Subdomains, objective: Tensor) -> Relaxation:
        """Bound <objective, logits> from below over each subdomain; differentiable."""
        return relax(self.neurons, self.ball, subdomains, objective)

    def _values(self, x: Tensor, objective: Tensor) -> Tensor:
        """Return <objective, logits> at x, (points, inputs)."""
        logits = self.network.outputs(x.view(-1, *self.network.input_shape))[-1]
        return logits.flatten(1) @ objective

    def _solve_fully_split(
        self, subdomain: Subdomains, objective: Tensor, threshold: float
    ) -> tuple[float, Tensor]:
        """Return the lower bound of one fully split subproblem, and its minimiser."""
        solution = None
        if self.ball.norm != "L2":
            normals, offsets, slope = self._affine_pieces(subdomain.decisions[0], objective)
            split = self.neurons.unstable.nonzero().flatten()
            decisions = subdomain.decisions[0, split]
            solution = solve(
                slope, decisions[:, None] * normals[split], decisions * offsets[split], self.ball
            )
        if solution is None:
            last = self._ascend(subdomain, objective, threshold, _LAST_STEPS)
            return float(last.lower_bound), last.x[0]
        dual_variables = torch.zeros_like(subdomain.dual_variables)
        dual_variables[0, split] = solution.dual_variables
        found = self.relaxation(subdomain._replace(dual_variables=dual_variables), objective)
        return float(found.value - found.rounding), solution.x

    def _affine_pieces(self, decisions: Tensor, objective: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pre-activations and <objective, logits> as functions of the input.

        They are those wherever the decisions hold: rows (neurons, inputs) and offsets (neurons,) of
        the pre-activations, and the slope (inputs,) of the objective.
        """
        d = self.ball.centre.shape[1]
        outputs = {0: torch.eye(d, dtype=torch.float64)}
        constants = {0: torch.zeros(d, dtype=torch.float64)}
        rows, offsets = [decisions.new_zeros(0, d)], [decisions.new_zeros(0)]
        for layer in self.neurons.layers:
            row = decisions.new_zeros(len(layer.lower), d)
            offset = layer.offset
            for s, matrix in layer.maps.items():
                row, offset = row + matrix @ outputs[s], offset + matrix @ constants[s]
            slopes = layer.slopes(decisions)
            outputs[layer.output], constants[layer.output] = slopes[:, None] * row, slopes * offset
            rows.append(row)
            offsets.append(offset)
        slope = decisions.new_zeros(d)
        for s, matrix in self.neurons.logits.items():
            slope = slope + objective @ matrix @ outputs[s]
        return torch.cat(rows), torch.cat(offsets), slope

    def _split(self, subdomains: Subdomains, losses: Tensor) -> Subdomains:
        """Split each subdomain in two, by the sign of the neuron whose relaxation loses most."""
        n = len(subdomains.decisions)
        candidates = self.neurons.unstable & (subdomains.decisions == 0)
        neuron = losses.where(candidates, -torch.inf).argmax(dim=1)
        twice = Subdomains(*(torch.cat([part, part]) for part in subdomains))
        rows = torch.arange(n)
        twice.decisions[rows, neuron], twice.decisions[n + rows, neuron] = 1.0, -1.0
        return twice

    @torch.enable_grad()
    def _ascend(
        self, subdomains: Subdomains, objective: Tensor, threshold: float, steps: int
    ) -> Ascent:
        slopes = subdomains.slopes.clone().requires_grad_()
        dual_variables = subdomains.dual_variables.clone().requires_grad_()
        current = Subdomains(subdomains.decisions, slopes, dual_variables)
        found = self.relaxation(current, objective)
        lower_bound = (found.value - found.rounding).detach()
        # Dual variables have the scale of the coefficients that they balance.
        rates = (_RATE, _RATE * max(1.0, float(found.coefficients.detach().abs().max())))
        parameters = zip((slopes, dual_variables), rates, strict=True)
        optimizer = torch.optim.Adam([{"params": [p], "lr": rate} for p, rate in parameters])
        # So that the last step is a hundredth of the first.
        decay = 0.01 ** (1 / steps)
        for _ in range(steps):
            # Without neurons there is nothing to optimise.
            if bool((lower_bound > threshold).all()) or not found.value.requires_grad:
                break
            slopes.grad, dual_variables.grad = torch.autograd.grad(
                -found.value.sum(), (slopes, dual_variables)
            )
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] *= decay
            with torch.no_grad():
                slopes.copy_(slopes.maximum(self.neurons.min_slope).clamp_max(1.0))
                dual_variables.clamp_min_(0)
            found = self.relaxation(current, objective)
            lower_bound = lower_bound.maximum((found.value - found.rounding).detach())
        owners = torch.zeros(len(lower_bound), dtype=torch.long)
        rows = found.coefficients.detach().view(-1, *self.network.input_shape)
        x = self.ball.minimiser(rows, owners).flatten(1)
        left = Subdomains(subdomains.decisions, slopes.detach(), dual_variables.detach())
        return Ascent(lower_bound, left, found.losses.detach(), x)
