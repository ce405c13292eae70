"""What each operation makes of the drift and the error of its inputs (see running_error.py).

A sum of n products errs by at most n u times the sum of their absolute values, in any order of
summation and with or without fused multiply-adds, u the unit roundoff of the dtype (Jeannerod &
Rump, SIAM J. Matrix Anal. Appl. 34, 2013). Flushing denormal numbers to zero, which processors may
do or not, drops less than the smallest normal number each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.flows import conv_norm, matrix_norm

# Norms of values are computed in float32, whose own rounding is far less.
_NORM_SLACK = 1.0 + 1e-4
# Functions of torch's vector library err by fewer units in the last place than half of this.
_LIBRARY = 16


class Ranges(NamedTuple):
    """drift and error of one value: (batch,) each, float64.

    Or entry by entry, which weighted sums leave and scales for each entry keep, until the next sum;
    None elsewhere. fresh: of the value's shape, what entries err by besides. reach: of a shape that
    fits it, how far an entry's exact value may move.
    """

    drift: Tensor
    error: Tensor
    fresh: Tensor | None = None
    reach: Tensor | None = None

    def scaled_by_entry(self, factor: Tensor | float, like: Tensor, settled: Ranges) -> Ranges:
        """Return settled, and what is known entry by entry times a factor, of the shape of like."""
        if self.fresh is None or self.reach is None:
            return settled
        magnitude = factor.abs() if isinstance(factor, Tensor) else abs(factor)
        return settled._replace(
            fresh=(self.fresh * magnitude).expand_as(like), reach=self.reach * magnitude
        )

    def settled(self) -> Ranges:
        """Return the same with all of the error in one number for each example."""
        if self.fresh is None:
            return self
        return Ranges(self.drift, self.error + size_of(self.fresh, len(self.error)))


@dataclass
class Followed:
    """A value that is followed: as it was computed, in exact arithmetic, and its ranges.

    constant: it does not depend on the input.
    """

    value: Tensor
    exact: Tensor
    ranges: Ranges
    constant: bool
    aliases: list[Tensor] = field(default_factory=list)


class Call(NamedTuple):
    """One operation on followed values, and `value`, its result of this place among several.

    name: without the underscore of an operation in place. n: examples in the batch.
    """

    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    followed: list[Followed]
    value: Tensor
    output: int
    n: int

    @property
    def unit(self) -> float:
        """The unit roundoff of the result."""
        return torch.finfo(self.value.dtype).eps / 2

    @property
    def tiny(self) -> float:
        """More than what flushing to zero drops of one number."""
        return torch.finfo(self.value.dtype).tiny

    @property
    def entries(self) -> float:
        """How many numbers one example's result has."""
        return self.value.numel() / self.n

    def arg(self, index: int, default: Any = None) -> Any:
        """Return a positional argument, or its default."""
        return self.args[index] if len(self.args) > index else default

    def of(self, argument: Any) -> Followed | None:
        """Return what is known of an argument, None where it does not depend on the input."""
        if not isinstance(argument, Tensor):
            return None
        for one in self.followed:
            if one.value is argument or any(alias is argument for alias in one.aliases):
                return None if one.constant else one
        return None

    def rounded(self, drift: Tensor, error: Tensor, units: float = 1.0) -> Ranges:
        """Add what it adds to an error that each entry of the result errs by so many units."""
        if not units:
            return Ranges(drift, error)
        size = size_of(self.value, self.n) + drift + 2 * error
        return Ranges(
            drift, error + units * (self.unit * size + self.tiny * math.sqrt(self.entries))
        )


Rule = Callable[[Call], "Ranges | None"]
RULES: dict[str, Rule] = {}
# Those that take a fresh error as it is; for all others it is settled.
KEEP_FRESH = frozenset({"addmm", "convolution", "leaky_relu", "mm", "mul", "relu"})
# Those that give numbers which they were given, in memory that may not be filled yet.
MOVE = set[str]()
# Columns of weights whose norms differ by more than this are told apart.
_UNEVEN = 4.0


def size_of(value: Tensor, n: int) -> Tensor:
    """Return each example's L2 norm, (n,) float64, rounded up."""
    flat = value.detach().reshape(n, -1)
    flat = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
    norm = torch.linalg.vector_norm(flat, dim=1).double()
    return norm * _NORM_SLACK + math.sqrt(flat.shape[1]) * torch.finfo(flat.dtype).tiny


def _most(one: Followed, n: int) -> Tensor:
    """Return the most that the L2 norm of a computed value may be, anywhere in the ball."""
    settled = one.ranges.settled()
    return size_of(one.value, n) + settled.drift + 2 * settled.error


def _extremes(one: Followed, n: int) -> tuple[Tensor, Tensor]:
    """Return the least and the largest entry of a computed value, anywhere in the ball."""
    flat = one.value.detach().reshape(n, -1).double()
    settled = one.ranges.settled()
    around = settled.drift + 2 * settled.error
    return flat.amin(dim=1) - around, flat.amax(dim=1) + around


def _largest(one: Followed, n: int) -> Tensor:
    low, high = _extremes(one, n)
    return torch.maximum(low.abs(), high.abs())


def _rule(*names: str, moves: bool = False) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        if moves:
            MOVE.update(names)
        return rule

    return register


# What only moves values. One example's numbers have to stay together, in the first dimension.


@_rule("_reshape_alias", "_unsafe_view", "alias", "clone", "contiguous", "detach", "flatten",
       "lift_fresh", "reshape", "view", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
       "squeeze", "alias_copy", "view_copy", moves=True)  # fmt: skip
def _moved(call: Call) -> Ranges | None:
    return call.followed[0].ranges


@_rule("permute", moves=True)
def _permuted(call: Call) -> Ranges | None:
    return call.followed[0].ranges if call.args[1][0] == 0 else None


@_rule("transpose", moves=True)
def _transposed(call: Call) -> Ranges | None:
    dims = {dim % max(call.value.dim(), 1) for dim in call.args[1:3]}
    return None if 0 in dims else call.followed[0].ranges


@_rule("unsqueeze", "flip", "unbind", "split", "split_with_sizes", "chunk", "narrow", "select",
       "slice", "index_select", moves=True)  # fmt: skip
def _along_a_dimension(call: Call) -> Ranges | None:
    one = call.of(call.args[0])
    if one is None:
        return None
    dims = call.arg(2 if call.name in _SPLITTING else 1, 0)
    rank = one.value.dim() + (call.name == "unsqueeze")
    dims = [dim % rank for dim in (dims if isinstance(dims, (list, tuple)) else [dims])]
    whole = call.name == "slice" and len(call.value) == len(one.value)
    if 0 in dims and not whole:
        return None
    if call.name != "index_select":
        return one.ranges
    most = int(torch.bincount(call.args[2].flatten()).max()) if call.args[2].numel() else 0
    return _scaled(one.ranges, math.sqrt(most))


_SPLITTING = frozenset({"split", "split_with_sizes", "chunk"})


@_rule("index", moves=True)
def _indexed(call: Call) -> Ranges | None:
    one, indices = call.of(call.args[0]), list(call.args[1])
    if one is None or not indices or indices[0] is not None or len(call.value) != len(one.value):
        return None
    # Each entry is read at most as often as all of its coordinates are.
    most = 1
    for index in indices:
        if index is not None:
            most *= int(torch.bincount(index.flatten().long()).max())
    return _scaled(one.ranges, math.sqrt(min(most, call.value.numel())))


@_rule("roll", moves=True)
def _rolled(call: Call) -> Ranges | None:
    dims = [dim % call.value.dim() for dim in call.arg(2, [])]
    return call.followed[0].ranges if dims and 0 not in dims else None


@_rule("constant_pad_nd", moves=True)
def _padded(call: Call) -> Ranges | None:
    return call.followed[0].ranges if len(call.args[1]) < 2 * call.value.dim() else None


@_rule("cat", "stack", moves=True)
def _joined(call: Call) -> Ranges | None:
    if call.arg(1, 0) % call.value.dim() == 0:
        return None
    return reduce(combined, (one.ranges for one in map(call.of, call.args[0]) if one is not None))


@_rule("expand", "repeat", moves=True)
def _repeated(call: Call) -> Ranges | None:
    one = call.followed[0]
    if len(call.value) != len(one.value):
        return None
    return _scaled(one.ranges, math.sqrt(call.value.numel() / max(1, one.value.numel())))


@_rule("copy", moves=True)
@_rule("_to_copy")
def _cast(call: Call) -> Ranges | None:
    source = call.args[1] if call.name == "copy" else call.args[0]
    one = call.of(source)
    if one is None:
        zero = torch.zeros(call.n, dtype=torch.float64, device=call.value.device)
        return Ranges(zero, zero)
    drift, error = _broadcast(call, one)[:2]
    if not one.value.is_floating_point():
        return None
    if torch.finfo(one.value.dtype).eps < torch.finfo(call.value.dtype).eps:
        fits = _most(one, call.n) < torch.finfo(call.value.dtype).max
        return call.rounded(drift, error.where(fits, math.inf))
    return Ranges(drift, error)


@_rule("fill", "zero")
def _filled(call: Call) -> Ranges | None:
    if call.of(call.arg(1)) is not None:
        return None
    zero = torch.zeros(call.n, dtype=torch.float64, device=call.value.device)
    return Ranges(zero, zero)


def combined(first: Ranges, second: Ranges) -> Ranges:
    """Return the ranges of two values side by side."""
    (a, b), (c, d) = first.settled()[:2], second.settled()[:2]
    return Ranges(torch.hypot(a, c), torch.hypot(b, d))


def _scaled(ranges: Ranges, factor: float) -> Ranges:
    return Ranges(ranges.drift * factor, ranges.error * factor)


def _broadcast(call: Call, one: Followed) -> Ranges:
    """Return the ranges of an operand as it is repeated to the result's shape."""
    if one.value.dim() != call.value.dim() or len(one.value) != len(call.value):
        # Repeated over the batch, it would mix examples.
        return Ranges(*(torch.full_like(part, math.inf) for part in one.ranges[:2]))
    times = max(1.0, call.value.numel() / max(1, one.value.numel()))
    return _scaled(one.ranges, math.sqrt(times))


# Functions of one number, applied entry by entry: their steepest slope, and the units they err by.


def _entrywise(slope: Callable[[Call], float], units: float) -> Rule:
    def rule(call: Call) -> Ranges | None:
        one = call.of(call.args[0])
        if one is None or len(call.followed) > 1:
            return None
        steepest = slope(call)
        drift, error = one.ranges.drift * steepest, one.ranges.error * steepest
        if units > 1:
            # Some of them subtract numbers as large as the argument.
            error = error + units * call.unit * _most(one, call.n)
        found = call.rounded(drift, error, units)
        return one.ranges.scaled_by_entry(steepest, call.value, found)

    return rule


def _constant(slope: float, _call: Call) -> float:
    return slope


def _slope_of_elu(call: Call) -> float:
    alpha, scale, input_scale = (float(call.arg(k, 1.0)) for k in (1, 2, 3))
    return abs(scale) * max(1.0, abs(alpha * input_scale))


for _names, _slope, _units in (
    ("relu neg abs hardtanh clamp clamp_min clamp_max relu6", 1.0, 0),
    ("tanh sin cos atan", 1.0, _LIBRARY),
    ("sigmoid", 0.25, _LIBRARY),
    ("erf gelu silu mish", 1.13, 2 * _LIBRARY),
    ("hardswish", 1.5, 4),
    ("hardsigmoid", 1 / 6, 4),
):
    RULES.update(dict.fromkeys(_names.split(), _entrywise(partial(_constant, _slope), _units)))
RULES["leaky_relu"] = _entrywise(lambda call: max(1.0, abs(float(call.arg(1, 0.01)))), 1)
RULES["elu"] = _entrywise(_slope_of_elu, 2 * _LIBRARY)
RULES["_prelu_kernel"] = _entrywise(
    lambda call: max(1.0, float(call.args[1].abs().max())), 1
)  # fmt: skip


@_rule("softplus")
def _softplus(call: Call) -> Ranges | None:
    beta, threshold = float(call.arg(1, 1.0)), float(call.arg(2, 20.0))
    found = _entrywise(lambda _: 1.0, _LIBRARY)(call)
    if found is None or not beta > 0:
        return None
    # torch leaves the formula at the threshold: a jump of at most this.
    jump = math.exp(-threshold) / beta * math.sqrt(call.entries)
    return Ranges(found.drift + jump, found.error + jump)


@_rule("exp", "log", "sqrt", "rsqrt", "reciprocal", "pow", "square", "log1p", "expm1")
def _steep(call: Call) -> Ranges | None:
    one = call.of(call.args[0])
    if one is None or len(call.followed) > 1:
        return None
    low, high = _extremes(one, call.n)
    power = {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0, "square": 2.0}.get(call.name)
    if call.name == "pow":
        if not isinstance(call.args[1], (int, float)):
            return None
        power = float(call.args[1])
    if call.name in ("exp", "expm1"):
        slope = high.exp()
    elif call.name in ("log", "log1p"):
        low = low + (call.name == "log1p")
        slope = torch.where(low > 0, 1 / low, math.inf)
    else:
        assert power is not None
        # The slope p z^(p - 1) is steepest at an end; for what is not a whole power, z > 0.
        ends = torch.stack([low, high])
        slope = (abs(power) * ends.abs().pow(power - 1)).amax(dim=0)
        across = low <= 0
        allowed = ~across if power < 1 or power != int(power) else torch.ones_like(across)
        slope = slope.where(allowed, math.inf)
    slope = slope * _NORM_SLACK
    return call.rounded(one.ranges.drift * slope, one.ranges.error * slope, 2 * _LIBRARY)


@_rule("maximum", "minimum", "max", "min")
def _extremum(call: Call) -> Ranges | None:
    if not isinstance(call.arg(1), Tensor):
        return _reduced_without_rounding(call)
    return _sum_of(call, 1.0, 1.0, units=0)


@_rule("where")
def _chosen(call: Call) -> Ranges | None:
    return None if call.of(call.args[0]) else _sum_of(call, 1.0, 1.0, units=0, at=(1, 2))


# Sums and products


@_rule("add", "sub", "rsub")
def _sum(call: Call) -> Ranges | None:
    alpha = abs(float(call.kwargs.get("alpha", call.arg(2, 1))))
    units = 1 if alpha == 1 else 3
    factors = (alpha, 1.0) if call.name == "rsub" else (1.0, alpha)
    return _sum_of(call, *factors, units=units)


def _sum_of(
    call: Call, first: float, second: float, *, units: int, at: tuple[int, int] = (0, 1)
) -> Ranges:
    zero = torch.zeros(call.n, dtype=torch.float64, device=call.value.device)
    total, size = Ranges(zero, zero), zero
    for index, factor in zip(at, (first, second), strict=True):
        one = call.of(call.args[index])
        if one is not None:
            part = _scaled(_broadcast(call, one), factor)
            total = Ranges(total.drift + part.drift, total.error + part.error)
            size = size + factor * _most(one, call.n) * (part.drift.numel() > 0)
    found = call.rounded(total.drift, total.error, units)
    if units > 1:
        # A scaled operand rounds before the sum, and may be larger than that.
        found = Ranges(found.drift, found.error + units * call.unit * size)
    return found


@_rule("mul")
def _product(call: Call) -> Ranges | None:
    first, second = call.of(call.args[0]), call.of(call.args[1])
    if first is not None and second is not None:
        return _product_of_two(call, first, second)
    one = first if first is not None else second
    assert one is not None
    constant = call.args[1] if first is not None else call.args[0]
    part = _scaled(_broadcast(call, one), _largest_constant(constant))
    found = call.rounded(part.drift, part.error, 2)
    return one.ranges.scaled_by_entry(constant, call.value, found)


@_rule("div")
def _quotient(call: Call) -> Ranges | None:
    first, second = call.of(call.args[0]), call.of(call.args[1])
    if call.kwargs.get("rounding_mode") is not None:
        return None
    if second is None:
        assert first is not None
        smallest = _smallest_constant(call.args[1])
        part = _scaled(_broadcast(call, first), 1 / smallest if smallest else math.inf)
        return call.rounded(part.drift, part.error, 2)
    low, high = _extremes(second, call.n)
    least = torch.where((low > 0) | (high < 0), torch.minimum(low.abs(), high.abs()), 0.0)
    inverse = torch.where(least > 0, 1 / least, math.inf)
    below = _broadcast(call, second)
    if first is None:
        above = Ranges(torch.zeros_like(below.drift), torch.zeros_like(below.error))
        top = torch.full_like(below.drift, _largest_constant(call.args[0]))
    else:
        above, top = _broadcast(call, first), _largest(first, call.n)
    drift = above.drift * inverse + top * below.drift * inverse.square()
    error = above.error * inverse + top * below.error * inverse.square()
    return call.rounded(drift, error, 2)


def _product_of_two(call: Call, first: Followed, second: Followed) -> Ranges:
    a, b = _broadcast(call, first), _broadcast(call, second)
    most_a, most_b = _largest(first, call.n), _largest(second, call.n)
    drift = most_a * b.drift + most_b * a.drift
    return call.rounded(drift, most_a * b.error + most_b * a.error, 2)


def _largest_constant(factor: Any) -> float:
    return float(factor.abs().max()) if isinstance(factor, Tensor) else abs(float(factor))


def _smallest_constant(divisor: Any) -> float:
    return float(divisor.abs().min()) if isinstance(divisor, Tensor) else abs(float(divisor))


@_rule("sum", "mean")
def _reduced(call: Call) -> Ranges | None:
    one = call.of(call.args[0])
    dims = call.arg(1)
    if one is None or not isinstance(dims, (list, tuple)) or not dims:
        return None
    if any(dim % one.value.dim() == 0 for dim in dims):
        return None
    terms = one.value.numel() / call.value.numel()
    factor = math.sqrt(terms) if call.name == "sum" else 1 / math.sqrt(terms)
    return _affine(call, one, norm=factor, absolute=factor, terms=terms + 1)


@_rule("avg_pool2d")
def _average_pool(call: Call) -> Ranges | None:
    one = call.of(call.args[0])
    kernel, stride = list(call.args[1]), list(call.arg(2, []) or call.args[1])
    padding, ceil, counts = call.arg(3, [0]), call.arg(4, False), call.arg(5, True)
    if one is None or ceil or (any(padding) and not counts):
        return None
    area = math.prod(kernel)
    divisor = abs(call.arg(6) or area)
    # Row sums times column sums: a pixel lies in so many windows.
    windows = math.prod(math.ceil(k / s) for k, s in zip(kernel, stride, strict=True))
    factor = math.sqrt(area * windows) / divisor
    return _affine(call, one, norm=factor, absolute=factor, terms=area + 1)


@_rule("_adaptive_avg_pool2d")
def _adaptive_pool(call: Call) -> Ranges | None:
    one = call.of(call.args[0])
    if one is None:
        return None
    pairs = list(zip(one.value.shape[-2:], call.value.shape[-2:], strict=True))
    if any(size % to for size, to in pairs):
        return None
    terms = math.prod(size // to for size, to in pairs)
    factor = 1 / math.sqrt(terms)
    return _affine(call, one, norm=factor, absolute=factor, terms=terms + 1)


@_rule("linalg_vector_norm")
def _norm(call: Call) -> Ranges | None:
    one = call.of(call.args[0])
    dims = call.arg(2)
    if one is None or float(call.arg(1, 2)) != 2.0 or not dims:
        return None
    if any(dim % one.value.dim() == 0 for dim in dims):
        return None
    terms = one.value.numel() / call.value.numel()
    return call.rounded(one.ranges.drift, one.ranges.error, terms + 4)


@_rule("amax", "amin", "max_pool2d_with_indices", "sort", "topk")
def _reduced_without_rounding(call: Call) -> Ranges | None:
    one = call.of(call.args[0])
    if one is None or call.output != 0:
        return None
    if call.name == "max_pool2d_with_indices":
        kernel, stride = list(call.args[1]), list(call.arg(2, []) or call.args[1])
        windows = math.prod(math.ceil(k / s) for k, s in zip(kernel, stride, strict=True))
        if any(dilation != 1 for dilation in call.arg(4, [1])):
            windows = math.prod(kernel)
        return _scaled(one.ranges, math.sqrt(windows))
    dims = call.arg(2, -1) if call.name == "topk" else call.arg(1, -1)
    dims = dims if isinstance(dims, (list, tuple)) else [dims]
    if not dims or any(dim % one.value.dim() == 0 for dim in dims):
        return None
    return one.ranges


@_rule("_softmax", "_log_softmax")
def _softmax(call: Call) -> Ranges | None:
    one = call.of(call.args[0])
    dim = call.args[1] % call.value.dim()
    if one is None or dim == 0:
        return None
    terms = call.value.shape[dim]
    # The Jacobian diag(p) - p p^T has norm at most 1, that of the logarithm, I - 1 p^T, more.
    steepest = 1.0 if call.name == "_softmax" else 1 + math.sqrt(terms)
    drift, error = one.ranges.drift * steepest, one.ranges.error * steepest
    # exp(x - max) errs by what x - max does, which is at most 104 before it is flushed to zero.
    found = call.rounded(drift, error, terms + 104 + 2 * _LIBRARY)
    if call.name == "_log_softmax":
        extra = (terms + 2 * _LIBRARY) * call.unit * (
            math.sqrt(call.entries) * (1 + _largest(one, call.n))
        )  # fmt: skip
        found = Ranges(found.drift, found.error + 2 * extra)
    return found


# Maps with weights


@_rule("mm", "addmm")
def _matrix(call: Call) -> Ranges | None:
    bias, x, weight = call.args if call.name == "addmm" else (None, *call.args)
    one = call.of(x)
    if one is None or call.of(weight) is not None or call.of(bias) is not None:
        return None
    if any(call.kwargs.get(name, 1) != 1 for name in ("alpha", "beta")):
        return None
    magnitude = weight.abs()
    return _weighted(
        call, one, norm=matrix_norm(weight), absolute=matrix_norm(magnitude),
        terms=weight.shape[0] + 1, spread=lambda z: z @ magnitude,
        rows=torch.linalg.vector_norm(weight, dim=0), bias=bias,
        columns=torch.linalg.vector_norm(weight, dim=1),
        norm_by_columns=lambda columns: matrix_norm(weight / columns[:, None]),
    )  # fmt: skip


@_rule("bmm")
def _matrices(call: Call) -> Ranges | None:
    first, second = (call.of(argument) for argument in call.args[:2])
    terms, n = call.args[0].shape[-1], call.n
    if first is not None and second is not None:
        # In the Frobenius norm, which is no smaller than the spectral one.
        a, b = first.ranges, second.ranges
        size_a, size_b = _most(first, n), _most(second, n)
        drift = size_a * b.drift + size_b * a.drift
        error = size_a * b.error + size_b * a.error + (terms + 1) * call.unit * size_a * size_b
        return call.rounded(drift, error)
    one, other = (first, call.args[1]) if first is not None else (second, call.args[0])
    if one is None or len(other) % n:
        return None
    absolute = float(other.double().flatten(1).norm(dim=1).max())
    return _affine(call, one, norm=absolute, absolute=absolute, terms=terms + 1)


@_rule("convolution")
def _convolution(call: Call) -> Ranges | None:
    x, weight, bias, stride, _padding, dilation, transposed, _output_padding, groups = call.args
    one = call.of(x)
    if one is None or call.of(weight) is not None or call.of(bias) is not None:
        return None
    step = (int(stride[0]), int(stride[-1])) if all(d == 1 for d in dilation) else (1, 1)

    def norm_of(kernel: Tensor) -> float:
        # At frequency 0 the symbol of a convolution without negative weights has its largest norm.
        most = max(matrix_norm(part.abs().flatten(2).sum(dim=2)) for part in kernel.chunk(groups))
        if weight.dim() != 4:
            return most
        return min(most, max(conv_norm(part, stride=step) for part in kernel.chunk(groups)))

    absolute = norm_of(weight.abs())
    parts = weight.chunk(groups)
    inputs = len(weight) // groups if transposed else weight.shape[1]
    magnitude, others = weight.abs(), tuple(range(2, weight.dim()))
    first = torch.linalg.vector_norm(weight, dim=(1, *others))
    second = torch.cat([torch.linalg.vector_norm(p, dim=(0, *others)) for p in parts])
    rows, columns = (second, first) if transposed else (first, second)
    shape = (-1, *[1] * len(others))

    def norm_by_columns(columns: Tensor) -> float:
        of_inputs = columns.view(-1, 1) if transposed else columns.view(groups, -1)
        if not transposed:
            of_inputs = of_inputs.repeat_interleave(len(weight) // groups, dim=0)
        return norm_of(weight / of_inputs.view(*of_inputs.shape, *[1] * len(others)))

    return _weighted(
        call, one, norm=norm_of(weight), absolute=absolute,
        terms=inputs * math.prod(weight.shape[2:]) + 1,
        spread=lambda z: torch.convolution(z, magnitude, None, *call.args[3:]),
        rows=rows.view(shape), bias=None if bias is None else bias.view(shape),
        columns=columns.view(shape), norm_by_columns=norm_by_columns,
    )  # fmt: skip


@_rule("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
def _batch_norm(call: Call) -> Ranges | None:
    x, weight, bias, mean, variance, *rest = call.args
    one = call.of(x)
    if one is None or call.output != 0 or mean is None or True in rest[:-2]:
        return None
    scale = (variance.double() + float(rest[-1])).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    positions = call.value[0, 0].numel() * call.value.shape[0] / call.n
    moved = 2 * _size(mean.double() * scale) + (0.0 if bias is None else _size(bias))
    factor = float(scale.abs().max()) * _NORM_SLACK
    return _affine(
        call, one, norm=factor, absolute=factor, terms=8, bias=moved * math.sqrt(positions)
    )


def _weighted(
    call: Call, one: Followed, *, norm: float, absolute: float, terms: int,
    spread: Callable[[Tensor], Tensor], rows: Tensor, bias: Tensor | None, columns: Tensor,
    norm_by_columns: Callable[[Tensor], float],
) -> Ranges:  # fmt: skip
    """Bound W z + b entry by entry: spread is |W|, rows and columns have the norms of W's.

    norm_by_columns: the norm of W with its columns divided by these numbers.
    """
    found = _affine(call, one, norm=norm, absolute=absolute, terms=terms, rounds=False)
    settled, fresh, reach = one.ranges.settled(), one.ranges.fresh, one.ranges.reach
    sizes = spread(one.value.abs()) + rows * _by_entry(
        call, call.value, settled.drift + 2 * settled.error
    )
    columns = columns.where(columns > 0, 1.0)
    uneven = float(columns.max()) > _UNEVEN * float(columns.min())
    if fresh is not None and reach is not None and uneven:
        # |W f| <= |W C^-1| |C f|, C the norms of W's columns: scales of f that W takes back.
        carried = norm * one.ranges.error
        carried = carried + norm_by_columns(columns.flatten()) * size_of(fresh * columns, call.n)
        found = found._replace(error=found.error - (norm * settled.error - carried).clamp_min(0))
        moved = reach + 2 * fresh + _by_entry(call, one.value, 2 * one.ranges.error)
        sizes = sizes.minimum(spread(one.value.abs() + moved))
    sizes = sizes if bias is None else sizes + bias.abs()
    # The sizes are summed in the same dtype, and round too.
    fresh = sizes * ((terms + 1) * call.unit * (1 + (2 * terms + 8) * call.unit))
    reach = rows * _by_entry(call, call.value, settled.drift) * _NORM_SLACK
    return found._replace(fresh=fresh, reach=reach)


def _by_entry(call: Call, like: Tensor, of_examples: Tensor) -> Tensor:
    """Return a number of each example, in a shape that fits the value."""
    repeated = of_examples.to(like.dtype).repeat_interleave(len(like) // call.n)
    return repeated.view(-1, *[1] * (like.dim() - 1))


def _affine(
    call: Call, one: Followed, *, norm: float, absolute: float, terms: float, bias: float = 0.0,
    rounds: bool = True,
) -> Ranges:  # fmt: skip
    """Bound W z + b: norm is |W|, absolute that of its entries' moduli, bias that of b.

    terms: how many numbers are summed for one output, b included. rounds=False leaves the rounding
    of the sums out, but for what flushing to zero drops.
    """
    settled = one.ranges.settled()
    drift, error = norm * settled.drift, norm * settled.error
    size = absolute * _most(one, call.n) + bias
    inputs = one.value.numel() / call.n
    flushed = call.tiny * (
        absolute * math.sqrt(inputs)
        + terms * math.sqrt(call.entries) * (1 + _largest(one, call.n))
    )  # fmt: skip
    rounding = flushed + (terms + 1) * call.unit * size * rounds
    return Ranges(drift, error + rounding.where(size < torch.finfo(call.value.dtype).max, math.inf))


def _size(tensor: Tensor) -> float:
    return float(tensor.detach().double().norm())
