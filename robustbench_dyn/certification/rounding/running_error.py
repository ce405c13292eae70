"""How far a network's own arithmetic may be from exact arithmetic, anywhere in a ball.

A running error analysis (Wilkinson; Higham, Accuracy and Stability of Numerical Algorithms, 2nd
edition, section 3.3) in the L2 norm. While a module runs, each operation on a value that depends on
the input is accompanied by two bounds, one number for each example:

    drift: how far the exact value may move while the input moves within its ball;
    error: how far the value as it is computed may be from the exact one, anywhere in that ball.

error_rules.py says what an operation makes of them; an operation without a rule has no bound.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from robustbench_dyn.certification.network.escapes import (
    RefuseEscapes,
    check_operation,
    name_of,
)
from robustbench_dyn.certification.rounding.rules import (
    KEEP_FRESH,
    MOVE,
    RULES,
    Call,
    Followed,
    Ranges,
    combined,
    size_of,
)
from robustbench_dyn.errors import CertificateError


class Run(NamedTuple):
    """What a module gave: its output, the same in exact arithmetic, and the output's bounds.

    value: (batch, *shape); exact: the same in float64. unknown: what has no bound, or nothing.
    """

    value: Tensor
    exact: Tensor
    ranges: Ranges
    unknown: str


@torch.no_grad()
def run_exactly(module: nn.Module, exact: Tensor) -> Tensor:
    """Return what module makes of inputs in float64, (batch, *shape), with the weights as they are.

    Raises CertificateError where it cannot be run so.
    """
    try:
        with _Promotion():
            return cast(Tensor, module(exact.clone())).clone()
    except RuntimeError as error:
        raise CertificateError(f"the network does not run in float64: {error}") from error


class _Promotion(TorchFunctionMode):
    """Computes in float64 what depends on values of float64, and leaves the rest as it is."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves, _ = tree_flatten((args, kwargs))
        if any(isinstance(leaf, Tensor) and leaf.dtype is torch.float64 for leaf in leaves):
            if getattr(function, "__name__", "") in _CASTS:
                return args[0]
            args, kwargs = tree_map(_promoted, (args, kwargs))
        return function(*args, **kwargs)


_CASTS = frozenset({"float", "half", "bfloat16", "double"})


def _promoted(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        # What is of float64 stays the same memory, which may be written.
        return leaf.double() if leaf.is_floating_point() else leaf
    return torch.float64 if isinstance(leaf, torch.dtype) and leaf.is_floating_point else leaf


@torch.no_grad()
def run(module: nn.Module, value: Tensor, exact: Tensor, drift: Tensor) -> Run:
    """Run module at value, (batch, *shape), and bound its error for inputs within drift of value.

    exact: (batch, *shape) float64, what value is in exact arithmetic; it goes its own way, and
    tells what the error is here. drift: (batch,), float64.
    """
    analysis = _Analysis(len(value))
    ranges = Ranges(drift, torch.zeros_like(drift))
    inputs = value.clone()
    version = inputs._version
    analysis.follow(inputs, exact.clone(), ranges)
    try:
        with RefuseEscapes(analysis.depends), analysis:
            out = module(inputs)
    except CertificateError as error:
        analysis.unknown = str(error)
        out = module(value.clone())
    found = analysis.known.get(id(out)) if isinstance(out, Tensor) else None
    if inputs._version != version and next(module.children(), None) is not None:
        # One of its parts may have read the input before that, another one after it.
        analysis.unknown, found = f"{type(module).__name__} writes into its input", None
    if found is None:
        unknown = analysis.unknown or "the output cannot be traced back to the input"
        return Run(out, out.double(), _infinite(ranges), unknown)
    # A copy: what a module gives may be memory that it writes again.
    return Run(out.clone(), found.exact.clone(), found.ranges.settled(), analysis.unknown)


class _Analysis(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what depends on the input through every operation."""

    def __init__(self, n: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.n = n
        # A followed tensor is kept alive, so that its identity stays its own.
        self.known = dict[int, Followed]()
        self.memory = dict[int, list[Followed]]()
        self.unknown = ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch imports its compiler, for seconds, to keep it away from here.
        return False

    def depends(self, leaf: Any) -> bool:
        """Say whether a tensor depends on the input."""
        found = self.known.get(id(leaf)) if isinstance(leaf, Tensor) else None
        return found is not None and not found.constant

    def follow(
        self, value: Tensor, exact: Tensor, ranges: Ranges, *, constant: bool = False
    ) -> Followed:
        followed = Followed(value, exact, ranges, constant)
        self.known[id(value)] = followed
        self.memory.setdefault(_place(value), []).append(followed)
        return followed

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        check_operation(function, args, kwargs, self.depends)
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        for tensor in tensors:
            if id(tensor) not in self.known and _place(tensor) in self.memory:
                self._find_alias(tensor)
        followed = [self.known[id(t)] for t in tensors if id(t) in self.known]
        name = name_of(function)
        if not followed and name not in _FACTORIES:
            return function(*args, **kwargs)
        exact_args, exact_kwargs = tree_map(self._promoted, (args, kwargs))
        result = function(*args, **kwargs)
        to_whole_numbers = name == "_to_copy" and not result.is_floating_point()
        try:
            exact = result if to_whole_numbers else function(*exact_args, **exact_kwargs)
        except RuntimeError as error:
            raise CertificateError(f"{name!r} does not run in float64: {error}") from error
        several = isinstance(result, (tuple, list))
        for k, value in enumerate(result if several else [result]):
            if isinstance(value, Tensor):
                call = Call(name.rstrip("_"), args, kwargs, followed, value, k, self.n)
                self._note(call, exact[k] if several else exact)
        return result

    def _promoted(self, leaf: Any) -> Any:
        """Return an argument as it stands in exact arithmetic."""
        known = self.known.get(id(leaf)) if isinstance(leaf, Tensor) else None
        return _promoted(leaf) if known is None else known.exact

    def _find_alias(self, tensor: Tensor) -> None:
        """Follow a tensor that lies in followed memory without having been seen."""
        for one in self.memory[_place(tensor)]:
            if one.value.data_ptr() == tensor.data_ptr() and one.value.shape == tensor.shape and (
                one.value.stride() == tensor.stride()
            ):  # fmt: skip
                self.known[id(tensor)] = one
                one.aliases.append(tensor)
                return
        self.unknown = self.unknown or "memory of a value that is read in another way"
        self.follow(tensor, tensor.double(), _infinite(self.memory[_place(tensor)][0].ranges))

    def _note(self, call: Call, exact: Tensor) -> None:
        constant = call.name in _FACTORIES or all(one.constant for one in call.followed)
        ranges = self._ranges(call, constant=constant)
        known = self.known.get(id(call.value))
        if known is None:
            self.follow(call.value, exact, ranges, constant=constant)
            return
        # Written in place: all that lies in the same memory changes with it. The exact values do so
        # by themselves, since what is a view of a followed value has a view of its exact value.
        for one in self.memory[_place(call.value)]:
            whole = one.value.numel() == call.value.numel()
            one.ranges = ranges if whole else combined(one.ranges, ranges)
            one.constant = constant and (whole or one.constant)

    def _ranges(self, call: Call, *, constant: bool) -> Ranges:
        zero = torch.zeros(self.n, dtype=torch.float64, device=call.value.device)
        if constant:
            return Ranges(zero, zero)
        floating = call.value.is_floating_point()
        rule = RULES.get(call.name)
        if call.name not in KEEP_FRESH:
            for one in call.followed:
                one.ranges = one.ranges.settled()
        found = None
        if rule is not None and floating and call.value.numel() % self.n == 0:
            found = rule(call)
        if found is None:
            # Indices and comparisons by themselves are no harm; what is made of them has no rule.
            if (floating and call.value.numel()) or call.name == "_to_copy":
                self.unknown = self.unknown or f"the rounding of {call.name!r} has no known bound"
            return Ranges(zero + math.inf, zero + math.inf)
        # Beyond the largest number, what is computed has nothing to do with what is meant.
        if call.name in MOVE:
            return found
        settled = found.settled()
        size = size_of(call.value, self.n) + settled.drift + 2 * settled.error
        fits = size < torch.finfo(call.value.dtype).max
        return found if bool(fits.all()) else Ranges(
            *(part.where(fits, math.inf) for part in settled[:2])
        )  # fmt: skip


def _infinite(ranges: Ranges) -> Ranges:
    return Ranges(*(torch.full_like(part, math.inf) for part in ranges[:2]))


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


# What they make may be written into, and then depends on the input.
_FACTORIES = frozenset({"empty", "empty_like", "full", "full_like", "new_empty", "new_full",
                        "new_ones", "new_zeros", "ones_like", "zeros", "zeros_like"})  # fmt: skip
