"""Operations that only move numbers of several values, by where each number comes from.

Which number goes where is found by the operation itself, applied to numbers that say their places.
Wherever the batch lies in the values, each example's numbers must come from the same places of its
own: the operation is rewritten as one on tensors with the batch in front.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from robustbench_dyn.certification.network.layout import Layout, Placed, Rewritten
from robustbench_dyn.certification.network.memory import ASSEMBLED
from robustbench_dyn.certification.network.trace import NodeRef, Operation

BY_PLACES = frozenset(
    {
        ASSEMBLED,
        "diagonal_scatter",
        "fill",
        "gather",
        "index_copy",
        "index_fill",
        "index_put",
        "masked_fill",
        "masked_scatter",
        "scatter",
        "select_scatter",
        "slice_scatter",
        "take",
        "tril",
        "triu",
        "where",
    }
)
# Two numbers that no place is moved to by one and the same constant.
_SHIFTS = (1.0, 2.0**40)


class Placement(NamedTuple):
    """Where the numbers of a tensor come from, entry by entry.

    source: which one of several values, -1 for a constant. place: in the order of that value's
    entries. constant: the number that is one.
    """

    source: Tensor
    place: Tensor
    constant: Tensor

    def example(self, layout: Layout, batch: int) -> tuple[Tensor, ...]:
        """Return each part with the batch in front: (batch, *shape of one example)."""
        shape = self.source.shape
        sizes = (*shape[: layout.dim], layout.before, batch, layout.after, *shape[layout.dim + 1 :])
        fronted = (part.reshape(sizes).movedim(layout.dim + 1, 0) for part in self)
        one = layout.example_shape(shape, batch)
        return tuple(part.reshape(batch, *one) for part in fronted)


def rewritten_by_places(
    operation: Operation, inputs: Sequence[Placed], batch: int
) -> Rewritten | None:
    """Return an operation with the batch in front, whose arguments are a Placement and its values.

    inputs: the tensors that it reads, in order. None where it mixes the examples, or where what it
    does depends on the input.
    """
    references = list[NodeRef]()
    for index in operation.inputs:
        if NodeRef(index) not in references:
            references.append(NodeRef(index))
    placed = dict(zip(operation.inputs, inputs, strict=True))
    if _adds(operation):
        return None
    try:
        found = _placement(operation, references, [placed[r.index].shape for r in references])
    # It adds numbers, or reads a value as an index or as a condition.
    except (IndexError, RuntimeError, ValueError):
        return None
    example = torch.full_like(found.place, -1)
    for k, reference in enumerate(references):
        shape, layout = placed[reference.index]
        after = math.prod(shape[layout.dim + 1 :]) * layout.after
        mine = found.source == k
        example = torch.where(mine, found.place // after % batch, example)
        own = found.place // (after * batch) * after + found.place % after
        found = found._replace(place=torch.where(mine, own, found.place))
    for layout in _layouts(operation.whole_shape, batch):
        examples = found._replace(place=example).example(layout, batch)[1]
        parts = Placement(*found.example(layout, batch))
        expected = torch.arange(batch).view(-1, *[1] * (examples.dim() - 1))
        if bool(((examples == expected) | (examples < 0)).all()) and all(
            bool((part == part[:1]).all()) for part in parts
        ):
            shape = layout.example_shape(operation.whole_shape, batch)
            one = Placement(*(part[0] for part in parts))
            changed = operation._replace(
                args=(one, references), kwargs={}, shape=shape, batched=True
            )
            return Rewritten(changed, layout)
    return None


def _adds(operation: Operation) -> bool:
    """Say whether numbers are added to others, or multiplied with them."""
    given = (*operation.args[3:], False)[0] if operation.name == "index_put" else False
    return bool(operation.kwargs.get("accumulate", given) or operation.kwargs.get("reduce"))


def _layouts(shape: Sequence[int], batch: int) -> Iterator[Layout]:
    """Yield all ways in which the batch may lie in a tensor of this shape, its own ones first."""
    own = [Layout(dim) for dim, size in enumerate(shape) if size == batch]
    yield from own
    for dim, size in enumerate(shape):
        for before in range(1, size // batch + 1):
            layout = Layout(dim, before, size // batch // before)
            if size % batch == 0 and size // batch % before == 0 and layout not in own:
                yield layout


def _placement(
    operation: Operation, references: list[NodeRef], shapes: list[tuple[int, ...]]
) -> Placement:
    """Apply an operation to places in place of values."""
    starts = [sum(math.prod(shape) for shape in shapes[:k]) for k in range(len(shapes) + 1)]

    def places(shift: float) -> Tensor:
        def put(leaf: Any) -> Any:
            if isinstance(leaf, NodeRef):
                k = references.index(leaf)
                found = torch.arange(starts[k], starts[k + 1], dtype=torch.float64)
                return found.view(shapes[k]) + shift
            if isinstance(leaf, Tensor):
                leaf = leaf.cpu()
                return leaf.double() if leaf.is_floating_point() else leaf
            return leaf

        args, kwargs = (tree_map(put, part) for part in (operation.args, operation.kwargs))
        found: Tensor = operation.function(*args, **kwargs)
        return found

    first, second = map(places, _SHIFTS)
    moved = second - first == _SHIFTS[1] - _SHIFTS[0]
    if not bool((moved | (first == second)).all()):
        raise ValueError("neither moved nor a constant")
    number = (first - _SHIFTS[0]).where(moved, 0.0).long()
    source = torch.bucketize(number.contiguous(), torch.tensor(starts[1:]), right=True)
    return Placement(
        source.where(moved, -1),
        (number - torch.tensor(starts)[source]).where(moved, 0),
        first.where(~moved, 0.0),
    )
