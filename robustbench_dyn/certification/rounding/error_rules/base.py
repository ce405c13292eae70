"""The input and output of error rules: tracked values, their drift and their error.

A sum of n products errs by at most n u times the sum of their absolute values, in any order of
summation and with or without fused multiply-adds, u the unit roundoff of the dtype (Jeannerod &
Rump, SIAM J. Matrix Anal. Appl. 34, 2013). Flushing denormal numbers to zero, which processors may
do or not, drops less than the smallest normal number each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

# More than the rounding of norms and slopes in float64.
NORM_SLACK = 1.0 + 1e-9
# Functions of torch's vector library err by fewer units in the last place than half of this.
LIBRARY = 16


class ErrorBounds(NamedTuple):
    """The drift and the error of one value: (batch,) each, float64.

    Weighted sums also keep bounds entry by entry, which scales of each entry pass on to the next
    sum; None elsewhere. entry_error: of the value's shape, the error of each entry, in addition to
    `error`, which does not count it again. entry_drift: of a shape that broadcasts to it, how far
    an entry's exact value may move.
    """

    drift: Tensor
    error: Tensor
    entry_error: Tensor | None = None
    entry_drift: Tensor | None = None

    def scaled_by_entry(
        self, factor: Tensor | float, like: Tensor, total: ErrorBounds
    ) -> ErrorBounds:
        """Return total, with the bounds of entries times a factor, of the shape of like."""
        if self.entry_error is None or self.entry_drift is None:
            return total
        magnitude = factor.abs() if isinstance(factor, Tensor) else abs(factor)
        return total._replace(
            entry_error=(self.entry_error * magnitude).expand_as(like),
            # In like's dtype, a small product may become 0.
            entry_drift=self.entry_drift * magnitude + torch.finfo(like.dtype).tiny,
        )

    def aggregated(self) -> ErrorBounds:
        """Return the same with all of the error in one number for each example."""
        if self.entry_error is None:
            return self
        return ErrorBounds(self.drift, self.error + size_of(self.entry_error, len(self.error)))


@dataclass
class Tracked:
    """A tracked value: as it was computed, in exact arithmetic, and its error bounds.

    constant: it does not depend on the input.
    """

    value: Tensor
    exact: Tensor
    error_bounds: ErrorBounds
    constant: bool
    aliases: list[Tensor] = field(default_factory=list)

    def without_entries(self) -> Tracked:
        """Return the same without the bounds of its entries, which are to be added again."""
        return replace(self, error_bounds=ErrorBounds(*self.error_bounds[:2]))


class Call(NamedTuple):
    """One operation on tracked values, and `value`, one of its results.

    name: without the underscore of an operation in place. result: the index of value among several
    results. n: examples in the batch.
    """

    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    tracked: list[Tracked]
    value: Tensor
    result: int
    n: int

    @property
    def unit(self) -> float:
        """The unit roundoff of the result."""
        return torch.finfo(self.value.dtype).eps / 2

    @property
    def tiny(self) -> float:
        """More than flushing to zero drops of one number."""
        return torch.finfo(self.value.dtype).tiny

    @property
    def entries(self) -> float:
        """How many numbers one example's result has."""
        return self.value.numel() / self.n

    def arg(self, index: int, default: Any = None) -> Any:
        """Return a positional argument, or its default."""
        return self.args[index] if len(self.args) > index else default

    def operand(self, argument: Any) -> Tracked | None:
        """Return an argument's tracked value, None where it does not depend on the input."""
        if not isinstance(argument, Tensor):
            return None
        for one in self.tracked:
            if one.value is argument or any(alias is argument for alias in one.aliases):
                return None if one.constant else one
        return None

    def rounded(self, drift: Tensor, error: Tensor, units: float = 1.0) -> ErrorBounds:
        """Return the bounds where each entry of the result errs by so many units in addition."""
        return self.with_rounding(ErrorBounds(drift, error), units)

    def with_rounding(self, found: ErrorBounds, units: float) -> ErrorBounds:
        """Return bounds, of entries too, where each entry errs by so many units in addition."""
        if not units:
            return found
        if found.entry_error is None or found.entry_drift is None:
            size = size_of(self.value, self.n) + found.drift + 2 * found.error
            rounding = self.unit * size + self.tiny * math.sqrt(self.entries)
            return found._replace(error=found.error + units * rounding)
        around = found.entry_drift + 2 * (found.entry_error + self.by_entry(found.error))
        rounding = self.unit * (self.value.abs() + around) + 2 * self.tiny
        rounding = units * rounding * (1 + 8 * self.unit)
        return found._replace(entry_error=found.entry_error + rounding)

    def by_entry(self, per_example: Tensor, like: Tensor | None = None) -> Tensor:
        """Return a number of each example, in a shape that broadcasts to like, or to the value."""
        like = self.value if like is None else like
        repeated = per_example.to(like.dtype).repeat_interleave(len(like) // self.n)
        return repeated.view(-1, *[1] * (like.dim() - 1))


Rule = Callable[[Call], "ErrorBounds | None"]
ERROR_RULES: dict[str, Rule] = {}
# Operations that read errors entry by entry; for all others they are aggregated.
KEEP_ENTRIES = frozenset({"addmm", "convolution", "leaky_relu", "mm", "mul", "relu"})
# Operations that return numbers which they were given, in memory that may not be filled yet.
MOVES = set[str]()


def size_of(value: Tensor, n: int) -> Tensor:
    """Return each example's L2 norm, (n,) float64, rounded up."""
    # In float64: the squares of a small or a large number of float32 leave its range.
    flat = value.detach().reshape(n, -1)
    return torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64) * NORM_SLACK


def max_size(one: Tracked, n: int) -> Tensor:
    """Return a bound of the L2 norm of a computed value, anywhere in the ball."""
    total = one.error_bounds.aggregated()
    return size_of(one.value, n) + total.drift + 2 * total.error


def entry_range(one: Tracked, n: int) -> tuple[Tensor, Tensor]:
    """Return bounds of the smallest and the largest entry of a value, anywhere in the ball."""
    flat = one.value.detach().reshape(n, -1).double()
    total = one.error_bounds.aggregated()
    around = total.drift + 2 * total.error
    return flat.amin(dim=1) - around, flat.amax(dim=1) + around


def max_entry(one: Tracked, n: int) -> Tensor:
    """Return a bound of the absolute value of each entry of a value, anywhere in the ball."""
    low, high = entry_range(one, n)
    return torch.maximum(low.abs(), high.abs())


def rule(*names: str, moves: bool = False) -> Callable[[Rule], Rule]:
    """Let a function be the rule of these operations; moves: whether they only move numbers."""

    def register(rule: Rule) -> Rule:
        ERROR_RULES.update(dict.fromkeys(names, rule))
        if moves:
            MOVES.update(names)
        return rule

    return register


def combined(first: ErrorBounds, second: ErrorBounds) -> ErrorBounds:
    """Return the bounds of two values side by side."""
    (a, b), (c, d) = first.aggregated()[:2], second.aggregated()[:2]
    return ErrorBounds(torch.hypot(a, c), torch.hypot(b, d))


def scaled(error_bounds: ErrorBounds, factor: float) -> ErrorBounds:
    """Return both bounds times a factor, all of the error in one number."""
    error_bounds = error_bounds.aggregated()
    return ErrorBounds(error_bounds.drift * factor, error_bounds.error * factor)


def broadcast(call: Call, one: Tracked) -> ErrorBounds:
    """Return the bounds of an operand that is repeated to the result's shape."""
    if one.value.dim() != call.value.dim() or len(one.value) != len(call.value):
        # Repeated over the batch, it would mix examples.
        return ErrorBounds(*(torch.full_like(part, math.inf) for part in one.error_bounds[:2]))
    times = max(1.0, call.value.numel() / max(1, one.value.numel()))
    return scaled(one.error_bounds, math.sqrt(times))


def affine(
    call: Call,
    one: Tracked,
    *,
    norm: float,
    abs_norm: float,
    n_summands: float,
    bias: float = 0.0,
    rounds: bool = True,
) -> ErrorBounds:
    """Bound W z + b: norm is |W|, abs_norm that of its entries' absolute values, bias that of b.

    n_summands: how many numbers are added for one output, b included. rounds=False leaves the
    rounding of the sums out, except for what flushing to zero drops.
    """
    total = one.error_bounds.aggregated()
    drift, error = norm * total.drift, norm * total.error
    size = abs_norm * max_size(one, call.n) + bias
    inputs = one.value.numel() / call.n
    dropped = n_summands * math.sqrt(call.entries) * (1 + max_entry(one, call.n))
    dropped = call.tiny * (abs_norm * math.sqrt(inputs) + dropped)
    rounding = dropped + (n_summands + 1) * call.unit * size * rounds
    return ErrorBounds(
        drift, error + rounding.where(size < torch.finfo(call.value.dtype).max, math.inf)
    )
