"""Bounds of neurons within subdomains, by the relaxation of the layers before them."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_dyn.certification.branch_and_bound.ascent import ascend
from robustbench_dyn.certification.branch_and_bound.problem import Problem
from robustbench_dyn.certification.branch_and_bound.relaxation import Lines, arguments, relax

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
    two bounds are found once, and are kept for all subdomains: bounds are sound for any.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        exact = problem.exact
        self._layers = [layer for layer in problem.layers if not exact.is_affine(layer.argument)]
        size = max(exact.shape(k)[0] for k in range(1, len(exact.nodes) + 1))
        numbers = problem.ball.centre.shape[1] + 4 * len(problem.lower) + size
        self._n_neurons = max(1, _MOST_NUMBERS // (2 * numbers))
        # By layer: the arguments as functions of the outputs before, in both dtypes.
        self._exact = [arguments(exact, layer) for layer in self._layers]
        self._fast = [arguments(problem.fast, layer) for layer in self._layers]
        self._slopes = list[Tensor]()

    @torch.no_grad()
    def over_ball(self, *, n_steps: int) -> None:
        """Tighten the problem's bounds, and find the slopes."""
        for which, layer in enumerate(self._layers):
            problem, start = self.problem, layer.columns.start
            neurons = torch.arange(layer.columns.stop - start)
            whole = problem.start()
            lines = Lines.of(problem, *whole, problem.fast.dtype).before(start)
            first = problem.start_slopes[:start].to(problem.fast.dtype)
            found = list[Tensor]()
            for part in torch.split(neurons, self._n_neurons):
                rows = torch.cat([part, part + len(neurons)])
                slopes = first.expand(len(rows), -1)
                ascent = ascend(
                    problem,
                    problem.fast,
                    self._fast[which].at(rows),
                    lines.at(torch.zeros_like(rows)),
                    slopes,
                    torch.zeros_like(slopes),
                    slopes.new_full((len(rows),), torch.inf),
                    n_steps=n_steps,
                )
                found.append(ascent.slopes.view(2, len(part), start))
            self._slopes.append(torch.cat(found, dim=1))
            lower, upper = problem.lower.clone(), problem.upper.clone()
            owners = torch.zeros_like(neurons)
            lower[layer.columns], upper[layer.columns] = self._bounds(
                which, *whole, owners, neurons
            )
            self.problem = problem.with_bounds(lower, upper)

    @torch.no_grad()
    def tighten(self, lower: Tensor, upper: Tensor, decisions: Tensor, first: Tensor) -> None:
        """Tighten bounds of subdomains in place, (subdomains, neurons), float64.

        decisions: of the same shape. first: (subdomains,), the column of the first neuron whose
        bounds have changed; those of later layers may follow.
        """
        for which, layer in enumerate(self._layers):
            columns = layer.columns
            known = (lower[:, columns] >= 0) | (upper[:, columns] <= 0)
            unknown = (columns.start > first)[:, None] & ~known
            owners, neurons = unknown.nonzero(as_tuple=True)
            for part in torch.split(torch.arange(len(owners)), self._n_neurons):
                rows, column = owners[part], columns.start + neurons[part]
                found = self._bounds(which, lower, upper, decisions, rows, neurons[part])
                lower[rows, column] = lower[rows, column].maximum(found[0])
                upper[rows, column] = upper[rows, column].minimum(found[1])

    def _bounds(
        self,
        which: int,
        lower: Tensor,
        upper: Tensor,
        decisions: Tensor,
        owners: Tensor,
        neurons: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return proved bounds of some neurons over the subdomains that own them, (n,) twice."""
        problem, layer = self.problem, self._layers[which]
        n = layer.columns.stop - layer.columns.start
        twice = torch.cat([neurons, neurons + n])
        lines = Lines.of(problem, lower, upper, decisions, torch.float64)
        lines = lines.before(layer.columns.start).at(owners.repeat(2))
        slopes = self._slopes[which][:, neurons].flatten(0, 1).double()
        slopes = slopes.maximum(problem.min_slope[: slopes.shape[1]]).clamp_max(1.0)
        functions = self._exact[which].at(twice)
        value = relax(problem, problem.exact, functions, lines, slopes, proving=True).value
        value = value - problem.roundings[layer.argument][neurons.repeat(2)]
        return value[: len(neurons)], -value[len(neurons) :]
