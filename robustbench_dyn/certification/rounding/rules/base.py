"""What a rule is given and gives: values that are followed, their drift and their error.

A sum of n products errs by at most n u times the sum of their absolute values, in any order of
summation and with or without fused multiply-adds, u the unit roundoff of the dtype (Jeannerod &
Rump, SIAM J. Matrix Anal. Appl. 34, 2013). Flushing denormal numbers to zero, which processors may
do or not, drops less than the smallest normal number each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

# More than the rounding of norms and slopes in float64.
NORM_SLACK = 1.0 + 1e-9
# Functions of torch's vector library err by fewer units in the last place than half of this.
LIBRARY = 16


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


def size_of(value: Tensor, n: int) -> Tensor:
    """Return each example's L2 norm, (n,) float64, rounded up."""
    # In float64: the squares of a small or a large number of float32 leave its range.
    flat = value.detach().reshape(n, -1)
    return torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64) * NORM_SLACK


def most(one: Followed, n: int) -> Tensor:
    """Return the most that the L2 norm of a computed value may be, anywhere in the ball."""
    settled = one.ranges.settled()
    return size_of(one.value, n) + settled.drift + 2 * settled.error


def extremes(one: Followed, n: int) -> tuple[Tensor, Tensor]:
    """Return the least and the largest entry of a computed value, anywhere in the ball."""
    flat = one.value.detach().reshape(n, -1).double()
    settled = one.ranges.settled()
    around = settled.drift + 2 * settled.error
    return flat.amin(dim=1) - around, flat.amax(dim=1) + around


def largest(one: Followed, n: int) -> Tensor:
    """Return the most that an entry of a computed value may be in modulus, anywhere in the ball."""
    low, high = extremes(one, n)
    return torch.maximum(low.abs(), high.abs())


def rule(*names: str, moves: bool = False) -> Callable[[Rule], Rule]:
    """Let a function be the rule of these operations; moves: whether they only move numbers."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        if moves:
            MOVE.update(names)
        return rule

    return register


def combined(first: Ranges, second: Ranges) -> Ranges:
    """Return the ranges of two values side by side."""
    (a, b), (c, d) = first.settled()[:2], second.settled()[:2]
    return Ranges(torch.hypot(a, c), torch.hypot(b, d))


def scaled(ranges: Ranges, factor: float) -> Ranges:
    """Return both ranges times a factor, all of the error in one number."""
    ranges = ranges.settled()
    return Ranges(ranges.drift * factor, ranges.error * factor)


def broadcast(call: Call, one: Followed) -> Ranges:
    """Return the ranges of an operand as it is repeated to the result's shape."""
    if one.value.dim() != call.value.dim() or len(one.value) != len(call.value):
        # Repeated over the batch, it would mix examples.
        return Ranges(*(torch.full_like(part, math.inf) for part in one.ranges[:2]))
    times = max(1.0, call.value.numel() / max(1, one.value.numel()))
    return scaled(one.ranges, math.sqrt(times))


def affine(
    call: Call, one: Followed, *, norm: float, absolute: float, terms: float, bias: float = 0.0,
    rounds: bool = True,
) -> Ranges:  # fmt: skip
    """Bound W z + b: norm is |W|, absolute that of its entries' moduli, bias that of b.

    terms: how many numbers are summed for one output, b included. rounds=False leaves the rounding
    of the sums out, but for what flushing to zero drops.
    """
    settled = one.ranges.settled()
    drift, error = norm * settled.drift, norm * settled.error
    size = absolute * most(one, call.n) + bias
    inputs = one.value.numel() / call.n
    flushed = call.tiny * (
        absolute * math.sqrt(inputs)
        + terms * math.sqrt(call.entries) * (1 + largest(one, call.n))
    )  # fmt: skip
    rounding = flushed + (terms + 1) * call.unit * size * rounds
    return Ranges(drift, error + rounding.where(size < torch.finfo(call.value.dtype).max, math.inf))
