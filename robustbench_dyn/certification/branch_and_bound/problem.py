"""The network that is searched, over the balls of examples, with the rounding of its outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import LeakyReLU
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.network.graph import Affine, Network, Node, Pointwise

UNIT = 2.0**-53


class Layer(NamedTuple):
    """The neurons of one activation, max(z, a z), among those of all layers.

    output: the index of the activation's output. argument: that of z.
    """

    output: int
    argument: int
    columns: slice
    a: float


class Problem(NamedTuple):
    """A network of ReLU and leaky ReLU over the balls of some examples.

    exact, fast: the same network, in float64 for proofs and in the dtype in which a search is
    fastest. layers: in the order in which they are computed. roundings: by output, (examples,
    entries) float64: what the output, as the model computes it, may differ by from what its inputs,
    as computed, give in exact arithmetic; and what a proof's arithmetic errs by in a step of
    back-substitution from it, for coefficients of 1. lower, upper: (examples, neurons), of the
    arguments of activations, as the model computes them. min_slope: (neurons,). is_dense: its maps
    are matrices, of which few rows are quickly bounded.
    """

    exact: Network
    fast: Network
    ball: Ball
    layers: tuple[Layer, ...]
    roundings: list[Tensor]
    lower: Tensor
    upper: Tensor
    min_slope: Tensor
    is_dense: bool

    @classmethod
    def of(
        cls,
        *,
        exact: Network,
        fast: Network,
        ball: Ball,
        roundings: list[Tensor],
        lower: Tensor,
        upper: Tensor,
        is_dense: bool,
    ) -> Problem:
        """Return the problem of two networks that are the same but for the dtype."""
        layers = layers_of(exact)
        slopes = torch.zeros_like(lower[0])
        for layer in layers:
            slopes[layer.columns] = layer.a
        return cls(exact, fast, ball, layers, roundings, lower, upper, slopes, is_dense)

    @property
    def n_examples(self) -> int:
        """Over how many balls the network is searched."""
        return len(self.lower)

    @property
    def start_slopes(self) -> Tensor:
        """The slopes of lower lines that an ascent begins with, (examples, neurons)."""
        # Those of the lines that leave less area below the upper ones.
        return torch.where(self.upper > -self.lower, 1.0, self.min_slope)

    def without_rounding(self) -> Problem:
        """Return the problem of exact arithmetic, whose bounds prove nothing."""
        return self._replace(roundings=[torch.zeros_like(r) for r in self.roundings])

    def with_bounds(self, lower: Tensor, upper: Tensor) -> Problem:
        """Return the problem with tighter bounds of the arguments of activations."""
        return self._replace(lower=self.lower.maximum(lower), upper=self.upper.minimum(upper))


def layers_of(network: Network) -> tuple[Layer, ...]:
    """Return the layers of a network, in the order in which they are computed."""
    layers, end = list[Layer](), 0
    for k in network.activations:
        node = network.nodes[k - 1]
        assert isinstance(node, Pointwise)
        assert isinstance(node.activation, LeakyReLU)
        columns = slice(end, end + math.prod(node.shape))
        layers.append(Layer(k, node.inputs[0], columns, node.activation.a))
        end = columns.stop
    return tuple(layers)


def whole(exact: Network, fast: Network, bounds: Bounds, ball: Ball) -> Problem:
    """Return the problem of a whole network; bounds: over the balls of the examples."""
    magnitudes = [magnitude.flatten(1) for magnitude in bounds.magnitudes]
    roundings = [torch.zeros_like(magnitudes[0])]
    for k, node in enumerate(exact.nodes, start=1):
        magnitude, own = magnitudes[k], step_units(exact.nodes, math.prod(node.shape)) * UNIT
        if isinstance(node, Affine):
            units = node.rounding_units * exact.unit + own + 2 * node.n_summands * UNIT
            roundings.append(with_margin(units * magnitude))
        else:
            units = node.activation.rounding_units * exact.unit
            passed = magnitudes[node.inputs[0]]
            roundings.append(with_margin(units * magnitude + own * (passed + magnitude)))
    layers = layers_of(exact)
    none = roundings[0][:, :0]
    sides = [
        torch.cat([none, *(side[layer.argument].flatten(1) for layer in layers)], dim=1)
        for side in (bounds.lower, bounds.upper)
    ]
    return Problem.of(
        exact=exact,
        fast=fast,
        ball=ball,
        roundings=roundings,
        lower=sides[0],
        upper=sides[1],
        is_dense=False,
    )


def step_units(nodes: Sequence[Node], n: int) -> int:
    """Return how many units of float64 a step from an output of n entries may err by.

    The entries are added up, and the coefficients of what it reads to those of other outputs.
    """
    return 8 * n + 4 * len(nodes) + 64


def with_margin(rounding: Tensor) -> Tensor:
    """Return bounds of rounding that hold for the sums that they are added up in, too."""
    return rounding * (1 + 1e-6)
