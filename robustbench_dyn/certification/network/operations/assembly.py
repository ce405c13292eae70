"""Handlers of operations that put numbers of several values, and constants, together."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_dyn.certification.network.graph import Affine, Node
from robustbench_dyn.certification.network.operations.base import Handler, OperationContext
from robustbench_dyn.certification.network.placement import BY_PLACES, Placement


def _assemble(context: OperationContext) -> Node:
    placement: Placement = context.args[0]
    references = context.args[1]
    shape = context.operation.shape
    shapes = [context.shapes[reference.index] for reference in references]
    sizes = [math.prod(one) for one in shapes]
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    moved = placement.source >= 0
    # Constants read a 0 that lies behind the others.
    first = torch.tensor([*starts, sum(sizes)])[placement.source]
    places = torch.where(moved, first + placement.place, sum(sizes)).flatten().to(context.device)
    repeats = int(torch.bincount(places[moved.flatten().to(places.device)], minlength=1).max())
    constants = context.constant(placement.constant).where(~moved.to(context.device), 0.0)
    if not constants.isfinite().all():
        raise context.refuse(
            " with numbers that are not finite; mask by scaled_dot_product_attention"
        )

    def gather(*values: Tensor) -> Tensor:
        n = len(values[0])
        flat = [value.reshape(n, size) for value, size in zip(values, sizes, strict=True)]
        together = torch.cat([*flat, flat[0].new_zeros(n, 1)], dim=1)
        return together.index_select(1, places).reshape(n, *shape)

    def spread(coefficients: Tensor) -> tuple[Tensor, ...]:
        n = len(coefficients)
        together = coefficients.new_zeros(n, sum(sizes) + 1)
        together = together.index_add(1, places, coefficients.reshape(n, len(places)))
        parts = torch.split(together[:, :-1], sizes, dim=1)
        return tuple(part.reshape(n, *one) for part, one in zip(parts, shapes, strict=True))

    return Affine(
        inputs=tuple(reference.index for reference in references),
        shape=shape,
        linear=gather,
        abs_linear=gather,
        adjoint=spread,
        bias=constants if constants.any() else None,
        # Coefficients of a number that is read several times are added.
        n_summands=repeats if repeats > 1 else 0,
        own_units=0 if repeats > 1 else None,
    )


OPERATIONS: dict[str, Handler] = dict.fromkeys(BY_PLACES, _assemble)
