"""Nodes that operations are lowered to, one by one: sums, moves, activations.

Each function adds one node and returns what stands for its output. Dimensions count that of the
batch as 0. The model itself does not compute these steps, unless own_units says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import Activation, LeakyReLU
from robustbench_dyn.certification.network.graph import Affine, Direct, Pointwise
from robustbench_dyn.certification.network.operations.base import OperationContext
from robustbench_dyn.certification.network.trace import NodeRef


def applied(context: OperationContext, activation: Activation, z: NodeRef) -> NodeRef:
    """Add an activation of a value."""
    return context.add(Pointwise((z.index,), context.shapes[z.index], activation))


def relu(context: OperationContext, z: NodeRef) -> NodeRef:
    """Add the positive part of a value, as a step that the model does not compute."""
    return applied(context, LeakyReLU(0.0).unrounded(), z)


def combined(
    context: OperationContext,
    values: Sequence[NodeRef],
    factors: Sequence[Tensor],
    *,
    bias: Tensor | None = None,
    own_units: int | None = 0,
    direct: Direct | None = None,
) -> NodeRef:
    """Add the node sum of factors[i] values[i], plus bias; all values of one shape.

    own_units: 0 for a step that the model does not compute, as in Affine.
    """
    shape = context.shapes[values[0].index]

    def total(zs: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        result = zs[0] * weights[0]
        for z, weight in zip(zs[1:], weights[1:], strict=True):
            result = result + z * weight
        return result

    sizes = [factor.abs() for factor in factors]
    node = Affine(
        inputs=tuple(value.index for value in values),
        shape=shape,
        linear=lambda *zs: total(zs, factors),
        abs_linear=lambda *zs: total(zs, sizes),
        adjoint=lambda a: tuple(a * factor for factor in factors),
        bias=bias,
        n_summands=len(values) + 1,
        own_units=own_units,
        direct=direct,
    )
    return context.add(node)


def picked(context: OperationContext, x: NodeRef, dim: int, places: Tensor) -> NodeRef:
    """Add the values of x at some places along a dimension."""
    shape = list(context.shapes[x.index])
    size, shape[dim - 1] = shape[dim - 1], len(places)
    places = places.to(context.device)
    repeats = int(torch.bincount(places, minlength=1).max())
    step = int(places[1] - places[0]) if len(places) > 1 else 1
    start = int(places[0])
    regular = step > 0 and bool((places.diff() == step).all())

    index = (slice(None),) * dim + (slice(start, start + step * len(places), step),)

    def pick(z: Tensor) -> Tensor:
        return z[index] if regular else z.index_select(dim, places)

    def spread(a: Tensor) -> Tensor:
        found = a.new_zeros(*a.shape[:dim], size, *a.shape[dim + 1 :])
        if not regular:
            return found.index_add(dim, places, a)
        # Autograd follows the assignment.
        found[index] = a
        return found

    return _moved(context, x, tuple(shape), pick, spread, repeats=repeats)


def joined(context: OperationContext, values: Sequence[NodeRef], dim: int) -> NodeRef:
    """Add several values behind one another along a dimension."""
    shapes = [context.shapes[value.index] for value in values]
    sizes = [shape[dim - 1] for shape in shapes]
    shape = list(shapes[0])
    shape[dim - 1] = sum(sizes)
    node = Affine(
        inputs=tuple(value.index for value in values),
        shape=tuple(shape),
        linear=lambda *zs: torch.cat(zs, dim=dim),
        abs_linear=lambda *zs: torch.cat(zs, dim=dim),
        adjoint=lambda a: torch.split(a, sizes, dim=dim),
        bias=None,
        n_summands=0,
    )
    return context.add(node)


def reshaped(context: OperationContext, x: NodeRef, shape: Sequence[int]) -> NodeRef:
    """Add the same numbers in another shape, of one example."""
    before, after = context.shapes[x.index], tuple(shape)
    if before == after:
        return x
    return _moved(
        context,
        x,
        after,
        lambda z: z.reshape(len(z), *after),
        lambda a: a.reshape(len(a), *before),
    )


def transposed(context: OperationContext, x: NodeRef, first: int, second: int) -> NodeRef:
    """Add a value with two dimensions exchanged."""
    shape = list(context.shapes[x.index])
    one, other = first % (len(shape) + 1) - 1, second % (len(shape) + 1) - 1
    shape[one], shape[other] = shape[other], shape[one]

    def exchange(z: Tensor) -> Tensor:
        return z.transpose(first, second)

    return _moved(context, x, tuple(shape), exchange, exchange)


def expanded(context: OperationContext, x: NodeRef, shape: Sequence[int]) -> NodeRef:
    """Add a value repeated along dimensions of size 1, to the shape of one example."""
    before, after = context.shapes[x.index], tuple(shape)
    if before == after:
        return x
    if len(before) != len(after):
        raise context.refuse(" of values with different numbers of dimensions")
    dims = [k + 1 for k, (n, m) in enumerate(zip(before, after, strict=True)) if n != m]
    return _moved(
        context,
        x,
        after,
        lambda z: z.expand(len(z), *after),
        lambda a: a.sum(dim=dims, keepdim=True),
        repeats=math.prod(after) // max(1, math.prod(before)),
    )


def summed(
    context: OperationContext,
    x: NodeRef,
    dims: Sequence[int],
    *,
    scale: float = 1.0,
    own_units: int | None = 0,
) -> NodeRef:
    """Add scale times the sum over dimensions, which are kept with size 1."""
    before = context.shapes[x.index]
    after = tuple(1 if k + 1 in dims else n for k, n in enumerate(before))
    n_summands = math.prod(before) // max(1, math.prod(after))

    def total(z: Tensor, factor: float) -> Tensor:
        return factor * z.sum(dim=list(dims), keepdim=True)

    node = Affine(
        inputs=(x.index,),
        shape=after,
        linear=lambda z: total(z, scale),
        abs_linear=lambda z: total(z, abs(scale)),
        adjoint=lambda a: (scale * a.expand(len(a), *before),),
        bias=None,
        n_summands=n_summands + 1,
        own_units=own_units,
    )
    return context.add(node)


def _moved(
    context: OperationContext,
    x: NodeRef,
    shape: tuple[int, ...],
    move: Callable[[Tensor], Tensor],
    back: Callable[[Tensor], Tensor],
    *,
    repeats: int = 1,
) -> NodeRef:
    """Add a value whose numbers are only moved; repeats: how often one is read at most."""
    node = Affine(
        inputs=(x.index,),
        shape=shape,
        linear=move,
        abs_linear=move,
        adjoint=lambda a: (back(a),),
        bias=None,
        # Coefficients of a value that is read several times are added.
        n_summands=repeats if repeats > 1 else 0,
        own_units=0 if repeats > 1 else None,
    )
    return context.add(node)
