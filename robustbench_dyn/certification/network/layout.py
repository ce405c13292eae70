"""The place of the batch in a tensor, which may be in another dimension than the first."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from robustbench_dyn.certification.network.trace import Operation


class Layout(NamedTuple):
    """The batch is in dimension dim, of size before * batch * after.

    Where before and after are 1 the dimension is the batch's own.
    """

    dim: int = 0
    before: int = 1
    after: int = 1

    @property
    def own(self) -> bool:
        """Whether the dimension holds nothing else."""
        return self.before == self.after == 1

    def example_shape(self, shape: Sequence[int], batch: int) -> tuple[int, ...]:
        """Return the shape of one example's numbers in a tensor of a shape."""
        sizes = list(shape)
        sizes[self.dim] //= batch
        return tuple(sizes[: self.dim] + sizes[self.dim + self.own :])

    def moved(self, dim: int) -> int | None:
        """Return where a dimension is with the batch in front; None for that of the batch."""
        if dim == self.dim:
            return None
        return dim + 1 if not self.own or dim < self.dim else dim


STANDARD = Layout()


class Placed(NamedTuple):
    """A tensor that was traced: its shape, and where the batch is in it."""

    shape: tuple[int, ...]
    layout: Layout


class Rewritten(NamedTuple):
    """An operation with the batch in front, and the layout of the tensor that was traced."""

    operation: Operation
    layout: Layout


def with_arguments(
    operation: Operation, layout: Layout, args: Sequence[Any], batch: int, name: str = ""
) -> Rewritten:
    """Return an operation with other arguments, whose result has a layout."""
    same = len(args) == len(operation.args) and all(map(operator.is_, args, operation.args))
    if operation.batched and layout == STANDARD and same:
        return Rewritten(operation, layout)
    shape = layout.example_shape(operation.whole_shape, batch)
    changed = operation._replace(name=name or operation.name, args=args, shape=shape, batched=True)
    return Rewritten(changed, layout)


def for_one_example(constant: Tensor, layout: Layout, rank: int, batch: int) -> Tensor | None:
    """Return a constant that broadcasts against tensors with the batch in front."""
    dim = layout.dim - (rank - constant.dim())
    if dim < 0:
        return constant
    if constant.shape[dim] == 1:
        return constant.squeeze(dim) if layout.own else constant
    parts = constant.reshape(
        *constant.shape[:dim], layout.before, batch, layout.after, *constant.shape[dim + 1 :]
    )
    first = parts.narrow(dim + 1, 0, 1)
    if not bool((parts == first).all()):
        return None
    one = first.flatten(dim, dim + 2)
    return one.squeeze(dim) if layout.own else one
