"""The context of an operation handler, with the nodes that most handlers make."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from robustbench_dyn.certification.activations import Activation
from robustbench_dyn.certification.network.graph import Affine, Node, Pointwise
from robustbench_dyn.certification.network.trace import NodeRef, Operation
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.models.machine_errors import is_machine_error

# Maps coefficients of an affine map's output to those of each of its inputs.
Adjoint = Callable[[Tensor], tuple[Tensor, ...]]
_RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy"})


@dataclass(frozen=True)
class OperationContext:
    """A traced operation, for its handler.

    operation: its name and arguments, in which a NodeRef stands for the output of a node, and
    anything else is a constant. shapes: of one example's output, by the index of a NodeRef. nodes:
    those of the network so far; `add` puts another one behind them. dtype and device: what the
    nodes have to compute in. model_dtype: what the model itself computes in.
    """

    operation: Operation
    shapes: list[tuple[int, ...]]
    nodes: list[Node]
    dtype: torch.dtype
    device: torch.device
    model_dtype: torch.dtype

    @property
    def args(self) -> Any:
        """The operation's positional arguments."""
        return self.operation.args

    def add(self, node: Node) -> NodeRef:
        """Put a node behind the others, and return what stands for its output in later ones."""
        self.nodes.append(node)
        self.shapes.append(node.shape)
        return NodeRef(len(self.nodes))

    def refuse(self, why: str = "") -> CertificateError:
        """Return the error that says that these arguments cannot be bounded; to be raised.

        why: continues a sentence that ends with the operation's name, as " in train mode" does.
        """
        return CertificateError(
            f"interval bounds and relaxations do not support the operation "
            f"{self.operation.name!r}{why}; choose another certifier, or give it a handler"
        )

    def constant(self, value: Tensor | float) -> Tensor:
        """Return a constant in the dtype of the network."""
        if isinstance(value, Tensor):
            return value.to(self.device, self.dtype)
        return torch.tensor(value, dtype=self.dtype, device=self.device)

    def constant_per_example(self, value: Tensor | float) -> Tensor:
        """Return a constant operand for one example; refuse one that differs over the batch."""
        tensor = self.constant(value)
        if tensor.dim() == len(self.operation.shape) + 1:
            if len(tensor) != 1 and not (tensor == tensor[:1]).all():
                raise self.refuse(" with a constant that differs over the batch")
            tensor = tensor[0]
        return tensor

    def pointwise(self, activation: Activation) -> Pointwise:
        """Return the node of an activation of the operation's only input."""
        (index,) = self.operation.inputs
        return Pointwise((index,), self.operation.shape, activation)

    def scaled(
        self,
        x: NodeRef,
        factor: Tensor,
        *,
        bias: Tensor | None = None,
        n_summands: int = 2,
        cancelled: Tensor | None = None,
    ) -> Affine:
        """Return the node x factor + bias, entry by entry."""
        if self.shapes[x.index] != self.operation.shape:
            raise self.refuse(" that repeats values")
        magnitude = factor.abs()
        return Affine(
            inputs=(x.index,),
            shape=self.operation.shape,
            linear=lambda z: z * factor,
            abs_linear=lambda z: z * magnitude,
            adjoint=lambda a: (a * factor,),
            bias=bias,
            n_summands=n_summands,
            cancelled=cancelled,
        )

    def nonnegative_map(
        self,
        n_summands: int,
        *,
        mean_weight: float | None = None,
        adjoint: Adjoint | None = None,
    ) -> Affine:
        """Return the operation itself as an affine map that has no negative weights.

        n_summands: how many numbers it adds for one entry; 0 where it only moves them. mean_weight:
        at most the mean of the weights other than 0 with which an input is added to outputs; None
        where none is below 1 / n_summands, as in sums and means, or where all are 1. adjoint: the
        transpose; by default, it follows by automatic differentiation.
        """
        operation, offset = self.operation, self.offset(self.dtype)
        bias = offset.clone() if offset.any() else None

        def linear(*values: Tensor) -> Tensor:
            return self.apply(*values) if bias is None else self.apply(*values) - bias

        def differentiated(coefficients: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                zeros = self._zeros(len(coefficients), coefficients.dtype)
                points = [z.requires_grad_() for z in zeros]
                return torch.autograd.grad(
                    self.apply(*points),
                    points,
                    coefficients,
                    create_graph=coefficients.requires_grad,
                )

        transpose = adjoint or differentiated
        ones = torch.ones(1, *operation.shape, dtype=self.dtype, device=self.device)
        most = max(
            (float(part.detach().max()) for part in transpose(ones) if part.numel()), default=0
        )
        least = 1 / max(1, n_summands) if mean_weight is None else mean_weight
        fan_out = math.ceil(most / least)
        return Affine(
            inputs=operation.inputs,
            shape=operation.shape,
            linear=linear,
            abs_linear=linear,
            adjoint=transpose,
            bias=bias,
            n_summands=n_summands,
            fan_out=min(fan_out, math.prod(operation.shape)),
        )

    def offset(self, dtype: torch.dtype) -> Tensor:
        """Return the output of one example whose inputs are zero; refuse what mixes examples."""
        try:
            offset = self.apply(*self._zeros(1, dtype))
        except RuntimeError as error:
            if is_machine_error(error):
                raise
            raise self.refuse(f" over the batch ({error})") from error
        if offset.shape != (1, *self.operation.shape):
            raise self.refuse(" over the batch")
        return offset[0]

    def _zeros(self, n: int, dtype: torch.dtype) -> list[Tensor]:
        shapes = [self.shapes[index] for index in self.operation.inputs]
        return [torch.zeros(n, *shape, dtype=dtype, device=self.device) for shape in shapes]

    def apply(self, *values: Tensor) -> Tensor:
        """Apply the operation to a batch of any size, with values in place of its NodeRefs."""
        operation, n = self.operation, len(values[0])
        if operation.name in _RESHAPES:
            return values[0].reshape(n, *operation.shape)
        if operation.name == "expand":
            return values[0].expand(n, *operation.shape)
        remaining = iter(values)

        def put(leaf: Any) -> Any:
            if isinstance(leaf, NodeRef):
                return next(remaining)
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                return self.constant(leaf[:1]).expand(n, *leaf.shape[1:])
            return leaf

        args, kwargs = (tree_map(put, part) for part in (operation.args, operation.kwargs))
        result = operation.function(*args, **kwargs)
        return result if operation.result is None else result[operation.result]


Handler = Callable[[OperationContext], Node | NodeRef]
