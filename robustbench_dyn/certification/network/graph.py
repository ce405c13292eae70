"""A network as affine maps and activations: what interval bounds and relaxations walk over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import Activation


@dataclass(frozen=True)
class Affine:
    """linear(*inputs) + bias, batch first.

    spread: linear with its weights replaced by their absolute values. adjoint: the transpose of
    linear, from coefficients on the output to those on each input. terms: how many numbers are
    summed for one output; 0 where values are only moved. cancelled: what the model adds and takes
    off again, as it computes, beside the bias that is left; it rounds all the same.
    """

    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    linear: Callable[..., Tensor]
    spread: Callable[..., Tensor]
    adjoint: Callable[[Tensor], tuple[Tensor, ...]]
    bias: Tensor | None
    terms: int
    cancelled: Tensor | None = None

    @property
    def rounding(self) -> int:
        """How many units roundoff of the sum of all terms' absolute values the model may err by."""
        return self.terms + 2 if self.terms else 0

    def sizes(self, *inputs: Tensor) -> Tensor:
        """Return sums of the absolute values of all terms, given those of the inputs."""
        size = self.spread(*inputs)
        for constant in (self.bias, self.cancelled):
            size = size if constant is None else size + constant.abs()
        return size


@dataclass(frozen=True)
class Pointwise:
    """An activation applied entry by entry."""

    inputs: tuple[int]
    shape: tuple[int, ...]
    activation: Activation


@dataclass(frozen=True)
class Network:
    """nodes[k] gives value k + 1; value 0 is the input, the last value the logits.

    All arithmetic is of `dtype`; model_dtype is that of the model itself, whose rounding a proof
    has to allow for.
    """

    input_shape: tuple[int, ...]
    nodes: tuple[Affine | Pointwise, ...]
    dtype: torch.dtype
    model_dtype: torch.dtype

    @property
    def unit(self) -> float:
        """The unit roundoff of the model's own arithmetic."""
        return torch.finfo(self.model_dtype).eps / 2

    @cached_property
    def flushed(self) -> tuple[float, ...]:
        """For each node, what flushing denormal inputs to zero may change of an output, in units.

        A processor may or may not flush; the smallest normal number bounds what it drops.
        """
        smallest = torch.finfo(self.model_dtype).tiny / self.unit
        found = []
        for node in self.nodes:
            reach = 1.0
            if isinstance(node, Affine):
                ones = [torch.ones(1, *self.shape(i), dtype=self.dtype) for i in node.inputs]
                device = torch.device("cpu") if node.bias is None else node.bias.device
                reach = float(node.spread(*(one.to(device) for one in ones)).max()) + node.terms
            found.append(smallest * reach)
        return tuple(found)

    @property
    def n_classes(self) -> int:
        """How many logits there are."""
        return self.nodes[-1].shape[0] if self.nodes else self.input_shape[0]

    @property
    def activations(self) -> list[int]:
        """The indices of the values that activations give."""
        return [k + 1 for k, node in enumerate(self.nodes) if isinstance(node, Pointwise)]

    def shape(self, value: int) -> tuple[int, ...]:
        """Return the shape of one example's value."""
        return self.nodes[value - 1].shape if value else self.input_shape

    def cost(self, value: int) -> int:
        """Return about how many multiplications it takes to compute a value from the input."""
        return sum(
            math.prod(node.shape) * (max(1, node.terms) if isinstance(node, Affine) else 1)
            for node in self.nodes[:value]
        )

    @property
    def arguments(self) -> list[int]:
        """The indices of the values that activations are applied to, without repetition."""
        found = {node.inputs[0] for node in self.nodes if isinstance(node, Pointwise)}
        return sorted(found)

    def is_affine(self, value: int) -> bool:
        """Say whether a value is an affine function of the input."""
        reached, affine = {0}, True
        waiting = [value]
        while waiting:
            k = waiting.pop()
            if k in reached:
                continue
            reached.add(k)
            node = self.nodes[k - 1]
            affine = affine and isinstance(node, Affine)
            waiting += node.inputs
        return affine

    def values(self, x: Tensor) -> list[Tensor]:
        """Return every value at x, (batch, *input_shape), of the network's dtype."""
        found = [x]
        for node in self.nodes:
            inputs = [found[k] for k in node.inputs]
            if isinstance(node, Pointwise):
                found.append(node.activation(*inputs))
            else:
                value = node.linear(*inputs)
                found.append(value if node.bias is None else value + node.bias)
        return found
