"""Values that are one number for each example, as vectors of length 1.

Bounds are computed on tensors with a batch and at least one other dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from robustbench_dyn.certification.network.graph import Affine, Direct, Node


def with_vectors(nodes: Sequence[Node], input_shape: tuple[int, ...]) -> tuple[Node, ...]:
    """Return nodes that compute the same, with the shape (1,) in place of ()."""
    shapes = [input_shape, *(node.shape for node in nodes)]
    return tuple(
        _with_vectors(node, shapes)
        if not all(shapes[i] for i in (*node.inputs, k, *_directly_read(node)))
        else node
        for k, node in enumerate(nodes, start=1)
    )


def _directly_read(node: Node) -> tuple[int, ...]:
    return node.direct.inputs if isinstance(node, Affine) and node.direct is not None else ()


def _with_vectors(node: Node, shapes: Sequence[tuple[int, ...]]) -> Node:
    shape = node.shape or (1,)
    if not isinstance(node, Affine):
        return replace(node, shape=shape)
    scalar = [not shapes[i] for i in node.inputs]

    def apply(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *zs: _vector(function(*_scalars(zs, scalar)))

    def adjoint(a: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(_vector, node.adjoint(a if node.shape else a[:, 0])))

    return replace(
        node,
        shape=shape,
        linear=apply(node.linear),
        abs_linear=apply(node.abs_linear),
        adjoint=adjoint,
        direct=None if node.direct is None else _direct(node.direct, shapes),
    )


def _direct(direct: Direct, shapes: Sequence[tuple[int, ...]]) -> Direct:
    scalar = [not shapes[i] for i in direct.inputs]
    magnitude = direct.magnitude

    def interval(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        low, high = direct.interval(_scalars(lower, scalar), _scalars(upper, scalar))
        return _vector(low), _vector(high)

    def error(errors: Sequence[Tensor], lower: Sequence[Tensor], upper: Sequence[Tensor]) -> Tensor:
        parts = (_scalars(part, scalar) for part in (errors, lower, upper))
        return _vector(direct.error(*parts))

    def size(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> Tensor:
        assert magnitude is not None
        return _vector(magnitude(_scalars(lower, scalar), _scalars(upper, scalar)))

    return replace(
        direct, interval=interval, error=error, magnitude=None if magnitude is None else size
    )


def _scalars(values: Sequence[Tensor], scalar: Sequence[bool]) -> list[Tensor]:
    return [z[:, 0] if one else z for z, one in zip(values, scalar, strict=True)]


def _vector(value: Tensor) -> Tensor:
    return value if value.dim() > 1 else value[:, None]
