"""Handlers of softmax and of attention.

softmax(x)_i = 1 / sum_j exp(x_j - x_i): over intervals of x its least and largest value are exact,
since each x_j occurs once. Lines are those of exp and of 1 / z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from robustbench_dyn.certification.convex_activations import Exp, Reciprocal
from robustbench_dyn.certification.network.graph import Affine, Direct
from robustbench_dyn.certification.network.operations.base import Handler, OperationContext
from robustbench_dyn.certification.network.operations.products import matrix_product
from robustbench_dyn.certification.network.operations.steps import (
    applied,
    combined,
    reshaped,
    summed,
    transposed,
)
from robustbench_dyn.certification.network.trace import NodeRef

# exp(x - max) errs as x - max does, which is at most 104 before it is flushed to zero; and as exp
# and the quotient do.
_EXP_UNITS = 104 + 32


def _probabilities(context: OperationContext, x: NodeRef) -> NodeRef:
    """Add the softmax of a value over its last dimension."""
    shape = context.shapes[x.index]
    n = shape[-1]
    inverse = applied(context, Exp().unrounded(), _differences(context, x))
    # One of the summands is exp(0).
    total = reshaped(context, summed(context, inverse, [len(shape) + 1]), shape)
    found = applied(context, Reciprocal(1.0).unrounded(), total)

    def interval(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        finite = lower[0].isfinite() & upper[0].isfinite()
        finite = finite.all(dim=-1, keepdim=True).expand_as(finite)
        zero = torch.zeros_like(lower[0])
        return zero.where(finite, -torch.inf), (zero + 1).where(finite, torch.inf)

    def error(
        errors: Sequence[Tensor], _lower: Sequence[Tensor], _upper: Sequence[Tensor]
    ) -> Tensor:
        """The row sums of |diag(p) - p p^T| are 2 p (1 - p), at most 1/2."""
        return (errors[0].amax(dim=-1, keepdim=True) / 2).expand_as(errors[0])

    direct = Direct((x.index,), interval, error, lambda lower, _: torch.zeros_like(lower[0]))
    units = 2 * (n + _EXP_UNITS)
    return combined(context, [found], [context.constant(1.0)], own_units=units, direct=direct)


def _differences(context: OperationContext, x: NodeRef) -> NodeRef:
    """Add x_j - x_i for all i and j of the last dimension, in the last two; 0 for j = i."""
    *outer, n = context.shapes[x.index]
    others = 1 - torch.eye(n, dtype=context.dtype, device=context.device)

    def adjoint(a: Tensor) -> tuple[Tensor, ...]:
        a = a * others
        return (a.sum(dim=-2) - a.sum(dim=-1),)

    node = Affine(
        inputs=(x.index,),
        shape=(*outer, n, n),
        linear=lambda z: z.unsqueeze(-2) - z.unsqueeze(-1),
        abs_linear=lambda z: (z.unsqueeze(-2) + z.unsqueeze(-1)) * others,
        adjoint=adjoint,
        bias=None,
        # As many coefficients are added for one x_j.
        n_summands=2 * n,
        own_units=0,
    )
    return context.add(node)


def _softmax(context: OperationContext) -> NodeRef:
    x, dim = context.args[:2]
    dim = dim % (len(context.operation.shape) + 1)
    if dim == 0:
        raise context.refuse(" over the batch")
    found = _probabilities(context, transposed(context, x, dim, -1))
    return transposed(context, found, dim, -1)


def _attention(context: OperationContext) -> NodeRef:
    """softmax(q k^T scale) v, as one kernel computes it."""
    given = dict(zip(("dropout_p", "is_causal"), context.args[3:], strict=False))
    given |= context.operation.kwargs
    query, key, value = context.args[:3]
    if context.operation.result != 0:
        raise context.refuse(" where its normalisation is read")
    if not all(isinstance(part, NodeRef) for part in (query, key, value)):
        raise context.refuse(" with constants")
    if given.get("is_causal") or given.get("attn_mask") is not None or given.get("dropout_p"):
        raise context.refuse(" with a mask")
    scale = given.get("scale")
    scale = 1 / math.sqrt(context.shapes[query.index][-1]) if scale is None else float(scale)
    scores = matrix_product(context, query, transposed(context, key, -1, -2))
    scores = combined(context, [scores], [context.constant(scale)], own_units=None)
    return matrix_product(context, _probabilities(context, scores), value)


OPERATIONS: dict[str, Handler] = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_softmax": _softmax,
}
