"""Bounds of neurons within subdomains, by the relaxation of the layers before them."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_dyn.certification.branch_and_bound.ascent import ascend
from robustbench_dyn.certification.branch_and_bound.problem import Layer, Problem
from robustbench_dyn.certification.branch_and_bound.relaxation import Functions, Lines, relax
from robustbench_dyn.certification.network.graph import Affine, Network

# How many numbers the coefficients of one batch of rows may hold.
_MOST_NUMBERS = 4_000_000


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
        self._n_rows = max(1, _MOST_NUMBERS // numbers)
        # By layer: the arguments as functions of the outputs before, in both dtypes.
        self._exact = [_arguments(exact, layer) for layer in self._layers]
        self._fast = [_arguments(problem.fast, layer) for layer in self._layers]
        self._slopes = list[Tensor]()

    @torch.no_grad()
    def over_ball(self, *, n_steps: int) -> None:
        """Tighten the problem's bounds, and find the slopes."""
        for which, layer in enumerate(self._layers):
            problem = self.problem
            neurons = torch.arange(layer.columns.stop - layer.columns.start)
            bounds = problem.lower[None], problem.upper[None], torch.zeros_like(problem.lower)[None]
            owners = torch.zeros_like(neurons)
            slopes = list[Tensor]()
            for part in neurons.split(max(1, self._n_rows // 2)):
                twice = torch.cat([part, part + len(neurons)])
                lines = Lines.of(problem, *bounds, problem.fast.dtype).at(owners[: len(twice)].new_zeros(len(twice)))
                start = _initial(problem, len(twice))
                found = ascend(
                    problem,
                    problem.fast,
                    self._fast[which].at(twice),
                    lines,
                    start,
                    torch.zeros_like(start),
                    start.new_full((len(twice),), torch.inf),
                    n_steps=n_steps,
                )
                slopes.append(found.slopes.view(2, len(part), -1))
            self._slopes.append(torch.cat(slopes, dim=1))
            lower, upper = self._bounds(which, *bounds, owners, neurons)
            both = problem.lower.clone(), problem.upper.clone()
            both[0][layer.columns], both[1][layer.columns] = lower, upper
            self.problem = problem.with_bounds(*both)

    @torch.no_grad()
    def tighten(self, lower: Tensor, upper: Tensor, decisions: Tensor, first: Tensor) -> None:
        """Tighten bounds of subdomains in place, (subdomains, neurons), float64.

        decisions: of the same shape. first: (subdomains,), the column of the first
        neuron whose bounds have changed.
        """
        for which, layer in enumerate(self._layers):
            columns = layer.columns
            unknown = (columns.start > first)[:, None] & ~((lower[:, columns] >= 0) | (upper[:, columns] <= 0))
            owners, neurons = unknown.nonzero(as_tuple=True)
            for part in torch.arange(len(owners)).split(max(1, self._n_rows // 2)):
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
        lines = Lines.of(problem, lower, upper, decisions, torch.float64).at(owners.repeat(2))
        slopes = self._slopes[which][:, neurons].flatten(0, 1).double()
        slopes = slopes.maximum(problem.min_slope).clamp_max(1.0)
        functions = self._exact[which].at(twice)
        value = relax(problem, problem.exact, functions, lines, slopes, proving=True).value
        value = value - problem.roundings[layer.argument][neurons.repeat(2)]
        return value[: len(neurons)], -value[len(neurons) :]


def _arguments(network: Network, layer: Layer) -> Functions:
    """Return the arguments of a layer's neurons, and their negatives, by the outputs before."""
    node = network.nodes[layer.argument - 1]
    assert isinstance(node, Affine)
    n = layer.columns.stop - layer.columns.start
    bias = torch.zeros(n, dtype=network.dtype) if node.bias is None else node.bias.flatten()
    units = torch.eye(n, dtype=network.dtype, device=bias.device)
    parts = dict[int, Tensor]()
    for source, part in zip(node.inputs, node.adjoint(units.view(n, *node.shape)), strict=True):
        part = part.flatten(1)
        parts[source] = parts[source] + part if source in parts else part
    # And their negatives, which are bounded from below for an upper bound.
    both = {k: torch.cat([part, -part]) for k, part in parts.items()}
    return Functions(both, torch.cat([bias, -bias]))




def _initial(problem: Problem, n: int) -> Tensor:
    slopes = torch.where(problem.upper > -problem.lower, 1.0, problem.min_slope)
    return slopes.to(problem.fast.dtype).expand(n, -1).clone()
