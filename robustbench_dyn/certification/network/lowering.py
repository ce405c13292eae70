"""From recorded operations to affine maps and activations; what has no rule here is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from robustbench_dyn.certification.activations import LeakyReLU, Sigmoid, Softplus, Tanh
from robustbench_dyn.certification.network.graph import Affine, Network, Pointwise
from robustbench_dyn.certification.network.recording import Operation, Recording, Ref
from robustbench_dyn.errors import CertificateError

Node = Affine | Pointwise
_RULES: dict[str, Callable[[_Context], Node]] = {}


@dataclass(frozen=True)
class _Context:
    """An operation, the shapes of all values before it, and the dtype to compute in."""

    operation: Operation
    shapes: list[tuple[int, ...]]
    dtype: torch.dtype
    device: torch.device

    @property
    def args(self) -> Any:
        return self.operation.args

    def tensor(self, constant: Tensor | float) -> Tensor:
        """Return a constant in the network's dtype."""
        if isinstance(constant, Tensor):
            return constant.to(self.device, self.dtype)
        return torch.tensor(constant, dtype=self.dtype, device=self.device)

    def refuse(self, why: str = "") -> CertificateError:
        return CertificateError(
            f"interval bounds and relaxations do not know the operation "
            f"{self.operation.name!r}{why}; the network needs another method"
        )


def lower(recording: Recording, dtype: torch.dtype) -> Network:
    """Return the recorded network in `dtype`.

    Raises CertificateError, naming the operation, where there is no rule for one.
    """
    shapes, nodes = [recording.input_shape], list[Node]()
    # What the logits do not depend on needs no rule.
    needed = {len(recording.operations)}
    for k in range(len(recording.operations), 0, -1):
        if k in needed:
            needed.update(recording.operations[k - 1].inputs)
    renumbered = {0: 0}
    for k, operation in enumerate(recording.operations, start=1):
        if k not in needed:
            continue
        args, kwargs = (
            tree_map(
                lambda leaf: Ref(renumbered[leaf.index]) if isinstance(leaf, Ref) else leaf, part
            )
            for part in (operation.args, operation.kwargs)
        )
        context = _Context(
            operation._replace(args=args, kwargs=kwargs), shapes, dtype, recording.device
        )
        rule = _RULES.get(operation.name)
        if rule is None:
            raise context.refuse()
        if not operation.batched:
            raise context.refuse(" over the batch")
        node = rule(context)
        nodes.append(node)
        shapes.append(node.shape)
        renumbered[k] = len(nodes)
    return Network(recording.input_shape, tuple(nodes), dtype, recording.dtype)


def _rule(*names: str) -> Callable[[Callable[[_Context], Node]], Callable[[_Context], Node]]:
    def register(rule: Callable[[_Context], Node]) -> Callable[[_Context], Node]:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


# Activations


@_rule("relu")
def _relu(context: _Context) -> Node:
    return _pointwise(context, LeakyReLU(0.0))


@_rule("leaky_relu")
def _leaky_relu(context: _Context) -> Node:
    slope = float(context.args[1]) if len(context.args) > 1 else 0.01
    if not 0 <= slope <= 1:
        raise context.refuse(f" with slope {slope:g}")
    return _pointwise(context, LeakyReLU(slope))


@_rule("tanh")
def _tanh(context: _Context) -> Node:
    return _pointwise(context, Tanh())


@_rule("sigmoid")
def _sigmoid(context: _Context) -> Node:
    return _pointwise(context, Sigmoid())


@_rule("softplus")
def _softplus(context: _Context) -> Node:
    given = list(context.args[1:])
    beta, threshold = given + [1.0, 20.0][len(given) :]
    if not beta > 0:
        raise context.refuse(f" with beta {beta:g}")
    return _pointwise(context, Softplus(float(beta), float(threshold)))


def _pointwise(context: _Context, activation: Any) -> Node:
    (index,) = context.operation.inputs
    return Pointwise((index,), context.operation.shape, activation)


# Maps with weights


@_rule("convolution")
def _convolution(context: _Context) -> Node:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = context.args
    if not isinstance(x, Ref) or isinstance(weight, Ref) or isinstance(bias, Ref):
        raise context.refuse(" with weights that depend on the input")
    size = context.shapes[x.index][1:]
    # One number stands for all directions, as where the padding is given as a word.
    stride, padding, dilation, output_padding = (
        list(given) * (len(size) if len(given) == 1 else 1)
        for given in (stride, padding, dilation, output_padding)
    )
    back_padding = [0] * len(size)
    if not transposed:
        # What a transposed convolution cannot tell from its own input: the rest of the division.
        back_padding = [
            n + 2 * p - d * (k - 1) - 1 - (out - 1) * s
            for n, p, d, k, out, s in zip(
                size, padding, dilation, weight.shape[2:], context.operation.shape[1:], stride,
                strict=True,
            )
        ]  # fmt: skip
    kernel = context.tensor(weight)

    def convolve(z: Tensor, kernel: Tensor, *, back: bool = False) -> Tensor:
        return torch.convolution(
            z, kernel, None, stride, padding, dilation, transposed != back,
            back_padding if back else output_padding, groups,
        )  # fmt: skip

    magnitude = kernel.abs()
    terms = math.prod(weight.shape[1:] if not transposed else weight.shape[2:])
    if transposed:
        terms *= weight.shape[0] // groups
    return Affine(
        (x.index,), context.operation.shape,
        linear=lambda z: convolve(z, kernel), spread=lambda z: convolve(z, magnitude),
        adjoint=lambda a: (convolve(a, kernel, back=True),),
        bias=None if bias is None else context.tensor(bias).view(-1, *[1] * len(size)),
        terms=terms + 1,
    )  # fmt: skip


@_rule("addmm")
def _addmm(context: _Context) -> Node:
    bias, x, matrix = context.args
    if context.operation.kwargs:
        raise context.refuse(" with beta or alpha")
    return _matmul(context, x, matrix, bias)


@_rule("mm")
def _mm(context: _Context) -> Node:
    x, matrix = context.args
    return _matmul(context, x, matrix, None)


def _matmul(context: _Context, x: Any, matrix: Any, bias: Any) -> Node:
    if not isinstance(x, Ref) or isinstance(matrix, Ref) or isinstance(bias, Ref):
        raise context.refuse(" with weights that depend on the input")
    weight = context.tensor(matrix).contiguous()
    magnitude = weight.abs()
    return Affine(
        (x.index,), context.operation.shape,
        linear=lambda z: z @ weight, spread=lambda z: z @ magnitude,
        adjoint=lambda a: (a @ weight.T,), bias=None if bias is None else context.tensor(bias),
        terms=len(weight) + 1,
    )  # fmt: skip


@_rule("native_batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(context: _Context) -> Node:
    x, weight, bias, mean, variance, *rest = context.args
    if context.operation.output != 0 or not isinstance(x, Ref) or True in rest[:-2]:
        raise context.refuse(" in train mode")
    scale = (variance.double() + rest[-1]).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean.double() * scale if bias is None else bias - mean.double() * scale
    dimensions = [1] * (len(context.operation.shape) - 1)
    return _scaled(
        context, x, context.tensor(scale).view(-1, *dimensions),
        bias=context.tensor(shift).view(-1, *dimensions), terms=8,
        # It computes (x - mean) scale + bias.
        cancelled=context.tensor(2 * mean.double() * scale).view(-1, *dimensions),
    )  # fmt: skip


# Scales and sums


@_rule("mul")
def _mul(context: _Context) -> Node:
    factors = list(context.args)
    if isinstance(factors[1], Ref):
        factors.reverse()
    x, factor = factors
    if isinstance(factor, Ref):
        raise context.refuse(" of two values that both depend on the input")
    return _scaled(context, x, _example(context, factor))


@_rule("div")
def _div(context: _Context) -> Node:
    x, divisor = context.args
    if isinstance(divisor, Ref) or context.operation.kwargs:
        raise context.refuse(" by a value that depends on the input, or rounded")
    return _scaled(context, x, _example(context, divisor).double().reciprocal().to(context.dtype))


@_rule("neg")
def _neg(context: _Context) -> Node:
    return _scaled(context, context.args[0], context.tensor(-1.0), terms=0)


def _scaled(
    context: _Context, x: Ref, factor: Tensor, *, bias: Tensor | None = None, terms: int = 2,
    cancelled: Tensor | None = None,
) -> Node:  # fmt: skip
    if context.shapes[x.index] != context.operation.shape:
        raise context.refuse(" that repeats values")
    magnitude = factor.abs()
    return Affine(
        (x.index,), context.operation.shape, linear=lambda z: z * factor,
        spread=lambda z: z * magnitude, adjoint=lambda a: (a * factor,), bias=bias, terms=terms,
        cancelled=cancelled,
    )  # fmt: skip


@_rule("add", "sub", "rsub")
def _sum(context: _Context) -> Node:
    name, (first, second) = context.operation.name, context.args[:2]
    alpha = float(context.operation.kwargs.get("alpha", (*context.args[2:], 1)[0]))
    signs = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[name]
    refs = [(r, s) for r, s in zip((first, second), signs, strict=True) if isinstance(r, Ref)]
    bias = None
    for part, sign in zip((first, second), signs, strict=True):
        if not isinstance(part, Ref):
            bias = sign * _example(context, part)
    if any(context.shapes[ref.index] != context.operation.shape for ref, _ in refs):
        raise context.refuse(" that repeats values")
    weights = [sign for _, sign in refs]

    def total(values: tuple[Tensor, ...], weights: list[float]) -> Tensor:
        scaled = [
            value if weight == 1 else weight * value
            for value, weight in zip(values, weights, strict=True)
        ]
        return scaled[0] if len(scaled) == 1 else scaled[0] + scaled[1]

    return Affine(
        tuple(ref.index for ref, _ in refs), context.operation.shape,
        linear=lambda *zs: total(zs, weights),
        spread=lambda *zs: total(zs, [abs(weight) for weight in weights]),
        adjoint=lambda a: tuple(a if weight == 1 else weight * a for weight in weights),
        bias=bias, terms=len(weights) + 1,
    )  # fmt: skip


def _example(context: _Context, constant: Any) -> Tensor:
    """Return a constant operand as it meets one example; refuse one that differs over the batch."""
    tensor = context.tensor(constant)
    if tensor.dim() == len(context.operation.shape) + 1:
        if len(tensor) != 1 and not (tensor == tensor[:1]).all():
            raise context.refuse(" with a constant that differs over the batch")
        tensor = tensor[0]
    return tensor


# Means


@_rule("mean", "avg_pool2d", "_adaptive_avg_pool2d", "sum")
def _mean(context: _Context) -> Node:
    (index,) = context.operation.inputs
    before, after = math.prod(context.shapes[index]), math.prod(context.operation.shape)
    terms = before if context.operation.name == "sum" else 2 * math.ceil(before / max(after, 1)) + 2
    if context.operation.name == "avg_pool2d":
        terms = math.prod(context.args[1]) + 1
    return _by_itself(context, terms)


# What only moves values


@_rule("_to_copy")
def _cast(context: _Context) -> Node:
    kwargs, (x, *_) = context.operation.kwargs, context.args
    dtype = kwargs.get("dtype")
    if kwargs.keys() - {"dtype", "memory_format"}:
        raise context.refuse(" to another device or layout")
    if dtype not in (None, torch.float32, torch.float64):
        raise context.refuse(f" to {dtype}, which rounds")
    identity = lambda z: z  # noqa: E731
    return Affine(
        (x.index,), context.operation.shape, linear=identity, spread=identity,
        adjoint=lambda a: (a,), bias=None, terms=1,
    )  # fmt: skip


@_rule(
    "_reshape_alias", "_unsafe_view", "alias", "cat", "clone", "constant_pad_nd",
    "detach", "expand", "flatten", "flip", "permute", "pixel_shuffle", "pixel_unshuffle",
    "reshape", "roll", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose",
    "unbind", "unsqueeze", "view", "contiguous", "narrow", "alias_copy", "view_copy",
)  # fmt: skip
def _structural(context: _Context) -> Node:
    return _by_itself(context, 0)


def _by_itself(context: _Context, terms: int) -> Node:
    """Return the operation itself as an affine map without negative weights.

    Its transpose is what automatic differentiation makes of it.
    """
    operation = context.operation
    shapes = [context.shapes[index] for index in operation.inputs]

    def call(*values: Tensor) -> Tensor:
        if operation.name in ("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy"):
            return values[0].reshape(len(values[0]), *operation.shape)
        if operation.name == "expand":
            return values[0].expand(len(values[0]), *operation.shape)
        given = iter(values)

        def put(leaf: Any) -> Any:
            if isinstance(leaf, Ref):
                return next(given)
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                return context.tensor(leaf[:1]).expand(len(values[0]), *leaf.shape[1:])
            return leaf

        args, kwargs = (tree_map(put, part) for part in (operation.args, operation.kwargs))
        result = operation.function(*args, **kwargs)
        return result if operation.output is None else result[operation.output]

    def zeros(n: int, dtype: torch.dtype = context.dtype) -> list[Tensor]:
        return [torch.zeros(n, *shape, dtype=dtype, device=context.device) for shape in shapes]

    try:
        offset = call(*zeros(1))
    except RuntimeError as error:
        raise context.refuse(f" over the batch ({error})") from error
    if offset.shape != (1, *operation.shape):
        raise context.refuse(" over the batch")
    bias = offset[0].clone() if offset.any() else None

    def linear(*values: Tensor) -> Tensor:
        return call(*values) if bias is None else call(*values) - bias

    def adjoint(coefficients: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            points = [z.requires_grad_() for z in zeros(len(coefficients), coefficients.dtype)]
            return torch.autograd.grad(
                call(*points), points, coefficients, create_graph=coefficients.requires_grad
            )

    return Affine(operation.inputs, operation.shape, linear, linear, adjoint, bias, terms)
