"""Handlers of softmax and of attention.

softmax(x)_i = 1 / sum_j exp(x_j - x_i): over intervals of x its least and largest value are exact,
since each x_j occurs once. Lines are those of exp and of 1 / z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robustbench_dyn.certification.convex_activations import Exp, Log, Reciprocal
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


def _probabilities(context: OperationContext, x: NodeRef, allowed: Tensor | None = None) -> NodeRef:
    """Add the softmax of a value over its last dimension.

    allowed: of the value's shape, bool; all others count as minus infinity.
    """
    shape = context.shapes[x.index]
    n = shape[-1]
    allowed = torch.ones(shape, dtype=torch.bool) if allowed is None else allowed.expand(shape)
    allowed = allowed.to(context.device)
    found = applied(context, Reciprocal(1.0).unrounded(), _inverse(context, x, allowed))

    def interval(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        finite = lower[0].isfinite() & upper[0].isfinite()
        finite = finite.all(dim=-1, keepdim=True).expand_as(finite)
        zero = torch.zeros_like(lower[0])
        return zero.where(finite, -torch.inf), (zero + allowed).where(finite, torch.inf)

    def error(
        errors: Sequence[Tensor], _lower: Sequence[Tensor], _upper: Sequence[Tensor]
    ) -> Tensor:
        """The row sums of |diag(p) - p p^T| are 2 p (1 - p), at most 1/2."""
        most = (errors[0] * allowed).amax(dim=-1, keepdim=True)
        return most / 2 * allowed

    direct = Direct((x.index,), interval, error, lambda lower, _: torch.zeros_like(lower[0]))
    units = 2 * (n + _EXP_UNITS)
    chosen = context.constant(allowed)
    return combined(context, [found], [chosen], own_units=units, direct=direct)


def _inverse(context: OperationContext, x: NodeRef, allowed: Tensor) -> NodeRef:
    """Add the sum over allowed j of exp(x_j - x_i), which is at least exp(0), for each allowed i.

    It is exp(0) for the others.
    """
    shape = context.shapes[x.index]
    terms = applied(context, Exp().unrounded(), _differences(context, x))
    if not allowed.all():
        own = torch.eye(shape[-1], dtype=torch.bool, device=allowed.device)
        counted = torch.where(allowed[..., :, None], allowed[..., None, :], own)
        terms = combined(context, [terms], [context.constant(counted)])
    return reshaped(context, summed(context, terms, [len(shape) + 1]), shape)


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


def _log_softmax(context: OperationContext) -> NodeRef:
    """-log sum_j exp(x_j - x_i)."""
    x, dim = context.args[:2]
    dim = dim % (len(context.operation.shape) + 1)
    if dim == 0:
        raise context.refuse(" over the batch")
    x = transposed(context, x, dim, -1)
    n = context.shapes[x.index][-1]
    everything = torch.ones(context.shapes[x.index], dtype=torch.bool, device=context.device)
    found = applied(context, Log(1.0).unrounded(), _inverse(context, x, everything))

    def interval(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """x_i less than the largest one, and log n less than that."""
        largest = upper[0].amax(dim=-1, keepdim=True)
        low = (lower[0] - largest).clamp_max(0.0) - math.log(n) * (1 + 2.0**-40)
        return low, torch.zeros_like(low)

    def error(errors: Sequence[Tensor], _low: Sequence[Tensor], _high: Sequence[Tensor]) -> Tensor:
        return errors[0] + errors[0].amax(dim=-1, keepdim=True)

    def magnitude(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> Tensor:
        """The sum errs relatively, and its logarithm absolutely."""
        return 1 + math.log(n) - interval(lower, upper)[0]

    direct = Direct((x.index,), interval, error, magnitude)
    units, minus = 2 * (n + _EXP_UNITS), context.constant(-1.0)
    found = combined(context, [found], [minus], own_units=units, direct=direct)
    return transposed(context, found, dim, -1)


def _mask(context: OperationContext, given: Any, scores: NodeRef) -> tuple[Tensor, Tensor | None]:
    """Return which scores count, and what is added to them; of the shape of one example's."""
    shape = context.shapes[scores.index]
    mask, bias = given.get("attn_mask"), None
    allowed = torch.ones(shape, dtype=torch.bool)
    if given.get("is_causal"):
        allowed = allowed.tril()
    if isinstance(mask, NodeRef):
        raise context.refuse(" with a mask that depends on the input")
    if mask is not None:
        if mask.dim() > len(shape):
            if not bool((mask == mask[:1]).all()):
                raise context.refuse(" with a mask that differs over the batch")
            mask = mask[0]
        kept = mask if mask.dtype is torch.bool else mask != -math.inf
        allowed = allowed & kept.cpu()
        if mask.dtype is not torch.bool:
            bias = context.constant(mask).where(kept, 0.0).expand(shape)
    if not allowed.any(dim=-1).all() or (bias is not None and not bias.isfinite().all()):
        raise context.refuse(" with a mask that leaves no value, or is not finite")
    return allowed, bias


def _attention(context: OperationContext) -> NodeRef:
    """softmax(q k^T scale) v, as one kernel computes it."""
    names = ("dropout_p", "is_causal", "attn_mask", "scale")
    given = dict(zip(names, context.args[3:], strict=False))
    given |= context.operation.kwargs
    query, key, value = context.args[:3]
    if context.operation.result != 0:
        raise context.refuse(" where its normalisation is read")
    if not all(isinstance(part, NodeRef) for part in (query, key, value)):
        raise context.refuse(" with constants")
    if given.get("dropout_p"):
        raise context.refuse(" with dropout")
    scale = given.get("scale")
    scale = 1 / math.sqrt(context.shapes[query.index][-1]) if scale is None else float(scale)
    scores = matrix_product(context, query, transposed(context, key, -1, -2))
    allowed, bias = _mask(context, given, scores)
    # The model scales, and then adds.
    scores = combined(context, [scores], [context.constant(scale)], bias=bias, own_units=None)
    return matrix_product(context, _probabilities(context, scores, allowed), value)


OPERATIONS: dict[str, Handler] = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_log_softmax": _log_softmax,
    "_safe_softmax": _softmax,
    "_softmax": _softmax,
}
