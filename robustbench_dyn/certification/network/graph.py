"""Networks as affine maps and activations, on which bounds are computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import Activation


@dataclass(frozen=True)
class Direct:
    """Bounds of an output straight from earlier ones, past the nodes that it was lowered to.

    A maximum b + relu(a - b) lies between the maxima of the bounds of a and b, which no interval
    arithmetic on its nodes finds. inputs: the indices of the outputs that the functions below are
    given, as lists. interval(lower, upper): bounds of the output in exact arithmetic. error(errors,
    lower, upper): at least what the output moves by where its inputs move by at most `errors`,
    within those bounds. magnitude(lower, upper): what the model's own rounding of the output is
    a multiple of, where it is not the magnitude of the node.
    """

    inputs: tuple[int, ...]
    interval: Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, Tensor]]
    error: Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], Tensor]
    magnitude: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor] | None = None


@dataclass(frozen=True)
class Affine:
    """The map linear(*inputs) + bias, batch first.

    inputs: the indices of the outputs that it reads. shape: of one example's output. linear:
    without bias. abs_linear: linear with its weights replaced by their absolute values. adjoint:
    the transpose of linear, from coefficients on the output to those on each input. n_summands: how
    many numbers are added for one output; 0 where values are only moved. cancelled: what the model
    adds and subtracts again, as it computes, beside the bias that is left; it rounds all the same.
    own_units: how many units roundoff of the output's magnitude the model may err by; None for
    n_summands + 2, 0 for a step that the model does not compute, but that its operation is lowered
    to. direct: tighter bounds, if there are any. fan_out: how many outputs one input adds to, at
    most, where that may be more than n_summands.
    """

    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    linear: Callable[..., Tensor]
    abs_linear: Callable[..., Tensor]
    adjoint: Callable[[Tensor], tuple[Tensor, ...]]
    bias: Tensor | None
    n_summands: int
    cancelled: Tensor | None = None
    own_units: int | None = None
    direct: Direct | None = None
    fan_out: int = 0

    @property
    def adjoint_units(self) -> int:
        """How many units roundoff of the sum of all absolute summands `adjoint` may err by."""
        moved = not self.n_summands and self.fan_out <= 1
        return 0 if moved else max(self.n_summands, self.fan_out) + 4

    @property
    def rounding_units(self) -> int:
        """How many units roundoff of the output's magnitude the model may err by."""
        if self.own_units is not None:
            return self.own_units
        return self.n_summands + 2 if self.n_summands else 0

    def magnitude(self, *inputs: Tensor) -> Tensor:
        """Return sums of the absolute values of all summands, given those of the inputs."""
        magnitude = self.abs_linear(*inputs)
        for constant in (self.bias, self.cancelled):
            magnitude = magnitude if constant is None else magnitude + constant.abs()
        return magnitude


@dataclass(frozen=True)
class Pointwise:
    """An activation applied entry by entry to the output of one node."""

    inputs: tuple[int]
    shape: tuple[int, ...]
    activation: Activation


Node = Affine | Pointwise


@dataclass(frozen=True)
class Network:
    """Nodes in the order in which they are computed.

    Outputs are numbered: output 0 is the input, output k that of nodes[k - 1], and the last one the
    logits. All arithmetic is of `dtype`; model_dtype is that of the model itself, whose rounding a
    proof has to allow for.
    """

    input_shape: tuple[int, ...]
    nodes: tuple[Node, ...]
    dtype: torch.dtype
    model_dtype: torch.dtype

    @property
    def unit(self) -> float:
        """The unit roundoff of the model's own arithmetic."""
        return torch.finfo(self.model_dtype).eps / 2

    @cached_property
    def device(self) -> torch.device:
        """Where the constants are: the CPU for a network that has none."""
        biases = (node.bias for node in self.nodes if isinstance(node, Affine))
        return next((bias.device for bias in biases if bias is not None), torch.device("cpu"))

    @cached_property
    def flush_errors(self) -> tuple[float, ...]:
        """For each node, what flushing denormal inputs to zero may change of an output, in units.

        A processor may or may not flush; the smallest normal number bounds what it drops.
        """
        smallest = torch.finfo(self.model_dtype).tiny / self.unit
        errors = []
        for node in self.nodes:
            gain = 1.0
            if isinstance(node, Affine):
                shapes = [self.shape(i) for i in node.inputs]
                ones = [torch.ones(1, *s, dtype=self.dtype, device=self.device) for s in shapes]
                sums = node.abs_linear(*ones)
                # A split of a few channels may leave none in one part.
                gain = float(sums.max()) if sums.numel() else 0.0
                gain += node.n_summands
            errors.append(smallest * gain)
        return tuple(errors)

    @property
    def n_classes(self) -> int:
        """How many logits there are."""
        return self.nodes[-1].shape[0] if self.nodes else self.input_shape[0]

    @property
    def activations(self) -> list[int]:
        """The indices of the outputs of activations."""
        return [k + 1 for k, node in enumerate(self.nodes) if isinstance(node, Pointwise)]

    @property
    def preactivations(self) -> list[int]:
        """The indices of the outputs that activations are applied to, each once, in order."""
        return sorted({node.inputs[0] for node in self.nodes if isinstance(node, Pointwise)})

    @property
    def consumers(self) -> dict[int, list[tuple[int, Pointwise]]]:
        """The activations of each pre-activation, with their outputs, by its index, in order."""
        return {
            k: [
                (i, node)
                for i, node in enumerate(self.nodes, start=1)
                if isinstance(node, Pointwise) and node.inputs[0] == k
            ]
            for k in self.preactivations
        }

    @property
    def sums(self) -> list[int]:
        """The sums of several outputs, such as those that close a skip connection."""
        return [
            k
            for k, node in enumerate(self.nodes, start=1)
            if isinstance(node, Affine) and len(node.inputs) > 1 and node.n_summands
        ]

    @property
    def n_neurons(self) -> int:
        """How many numbers go through an activation."""
        return sum(math.prod(self.shape(k)) for k in self.activations)

    @property
    def n_numbers(self) -> int:
        """How many numbers all outputs of one example have together, the input included."""
        return self.numbers_up_to(len(self.nodes))

    def numbers_up_to(self, k: int) -> int:
        """Return how many numbers the outputs up to output k have together."""
        return sum(math.prod(self.shape(i)) for i in range(k + 1))

    def shape(self, k: int) -> tuple[int, ...]:
        """Return the shape of one example's output k."""
        return self.nodes[k - 1].shape if k else self.input_shape

    def n_multiplications(self, k: int) -> int:
        """Return about how many multiplications it takes to compute output k from the input."""
        return sum(
            math.prod(node.shape) * (max(1, node.n_summands) if isinstance(node, Affine) else 1)
            for node in self.nodes[:k]
        )

    def ancestors(self, k: int) -> set[int]:
        """Return the indices of the outputs that output k is computed from, with its own."""
        found, waiting = set[int](), [k]
        while waiting:
            i = waiting.pop()
            if i not in found:
                found.add(i)
                waiting += self.nodes[i - 1].inputs if i else ()
        return found

    def is_affine(self, k: int) -> bool:
        """Say whether output k is an affine function of the input."""
        return all(isinstance(self.nodes[i - 1], Affine) for i in self.ancestors(k) - {0})

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Return every output at x, (batch, *input_shape), of the network's dtype."""
        outputs = [x]
        for node in self.nodes:
            inputs = [outputs[i] for i in node.inputs]
            if isinstance(node, Pointwise):
                outputs.append(node.activation(*inputs))
            else:
                value = node.linear(*inputs)
                outputs.append(value if node.bias is None else value + node.bias)
        return outputs
