"""Bounds of neurons within subdomains, by the relaxation of the layers before them."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_dyn.certification.branch_and_bound.ascent import ascend
from robustbench_dyn.certification.branch_and_bound.problem import Problem
from robustbench_dyn.certification.branch_and_bound.relaxation import Lines, arguments, relax
from robustbench_dyn.certification.branch_and_bound.subdomains import Subdomains

# How many numbers the coefficients of one batch of rows may hold.
_MOST_NUMBERS = 4_000_000


def tightening_cost(problem: Problem) -> int:
    """Return about how many multiplications it takes to bound the arguments of all neurons."""
    network = problem.exact
    return sum(
        2 * (layer.columns.stop - layer.columns.start) * network.n_multiplications(layer.argument)
        for layer in problem.layers
        if not network.is_affine(layer.argument)
    )


class Tightening:
    """Bounds of the arguments of neurons, with slopes that are optimised over the whole ball.

    A decision in an early layer moves the bounds of the neurons behind it. Slopes for each neuron's
    two bounds are found once for each example, and are kept for all subdomains of its ball: bounds
    are sound for any.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        exact = problem.exact
        self._layers = [layer for layer in problem.layers if not exact.is_affine(layer.argument)]
        size = max(exact.shape(k)[0] for k in range(1, len(exact.nodes) + 1))
        n_neurons = len(problem.min_slope)
        numbers = problem.ball.centre.shape[1] + 4 * n_neurons + size
        self._n_neurons = max(1, _MOST_NUMBERS // (2 * numbers))
        # By layer: the arguments as functions of the outputs before, in both dtypes; and the slopes
        # of those before, (examples, 2, neurons, neurons before).
        self._exact = [arguments(exact, layer) for layer in self._layers]
        self._fast = [arguments(problem.fast, layer) for layer in self._layers]
        self._slopes = list[Tensor]()
        for layer in self._layers:
            start, n = layer.columns.start, layer.columns.stop - layer.columns.start
            slopes = problem.start_slopes[:, None, None, :start].to(problem.fast.dtype)
            self._slopes.append(slopes.expand(-1, 2, n, -1).clone())

    @torch.no_grad()
    def over_balls(self, examples: Tensor, *, n_steps: int) -> None:
        """Tighten the problem's bounds over the balls of some examples, and find the slopes."""
        for which, layer in enumerate(self._layers):
            columns, fast = layer.columns, self.problem.fast
            lower, upper = self.problem.lower.clone(), self.problem.upper.clone()
            unknown = ~((lower >= 0) | (upper <= 0))[examples, columns]
            owners, neurons = unknown.nonzero(as_tuple=True)
            for part in torch.split(torch.arange(len(owners)), self._n_neurons):
                of, these = examples[owners[part]], neurons[part]
                slopes = self._slopes[which][of, :, these].transpose(0, 1).flatten(0, 1)
                lines = Lines.over_balls(self.problem, of.repeat(2), fast.dtype)
                ascent = ascend(
                    self.problem,
                    fast,
                    self._fast[which].at(_both(these, columns)),
                    lines.before(columns.start),
                    slopes,
                    torch.zeros_like(slopes),
                    slopes.new_full((len(slopes),), torch.inf),
                    n_steps=n_steps,
                )
                found = ascent.slopes.view(2, len(part), columns.start).transpose(0, 1)
                self._slopes[which][of, :, these] = found
                lines = Lines.over_balls(self.problem, of.repeat(2), torch.float64)
                low, high = self._bounds(which, lines.before(columns.start), these)
                column = columns.start + these
                lower[of, column], upper[of, column] = low, high
            self.problem = self.problem.with_bounds(lower, upper)

    @torch.no_grad()
    def tighten(self, domains: Subdomains, first: Tensor) -> None:
        """Tighten the bounds of subdomains in place.

        first: (subdomains,), the column of the first neuron whose bounds have changed; those of
        later layers may follow.
        """
        lower, upper = domains.lower, domains.upper
        for which, layer in enumerate(self._layers):
            columns = layer.columns
            known = (lower[:, columns] >= 0) | (upper[:, columns] <= 0)
            unknown = (columns.start > first)[:, None] & ~known
            owners, neurons = unknown.nonzero(as_tuple=True)
            for part in torch.split(torch.arange(len(owners)), self._n_neurons):
                rows, column = owners[part], columns.start + neurons[part]
                lines = domains.lines(self.problem, torch.float64).before(columns.start)
                low, high = self._bounds(which, lines.at(rows.repeat(2)), neurons[part])
                lower[rows, column] = lower[rows, column].maximum(low)
                upper[rows, column] = upper[rows, column].minimum(high)

    def _bounds(self, which: int, lines: Lines, neurons: Tensor) -> tuple[Tensor, Tensor]:
        """Return proved bounds of some neurons, (n,) twice.

        lines: of the neurons before, over the subdomain of each, and once more for its upper bound.
        """
        problem, layer = self.problem, self._layers[which]
        slopes = self._slopes[which][lines.example[: len(neurons)], :, neurons]
        slopes = slopes.transpose(0, 1).flatten(0, 1).double()
        slopes = slopes.maximum(problem.min_slope[: slopes.shape[1]]).clamp_max(1.0)
        functions = self._exact[which].at(_both(neurons, layer.columns))
        value = relax(problem, problem.exact, functions, lines, slopes, proving=True).value
        value = value - problem.roundings[layer.argument][lines.example, neurons.repeat(2)]
        return value[: len(neurons)], -value[len(neurons) :]


def _both(neurons: Tensor, columns: slice) -> Tensor:
    """Return the rows of the arguments of neurons, and of their negatives; see arguments."""
    return torch.cat([neurons, neurons + columns.stop - columns.start])
