"""Running errors: bounds of the distance between a network's arithmetic and exact arithmetic.

A running error analysis (Wilkinson; Higham, Accuracy and Stability of Numerical Algorithms, 2nd
edition, section 3.3) in the L2 norm. While a module runs, each operation on a value that depends on
the input is accompanied by two bounds, one number for each example:

    drift: how far the exact value may move while the input moves within its ball;
    error: how far the value as it is computed may be from the exact one, anywhere in that ball.

The error rules say how an operation changes them; an operation without a rule has no bound.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from robustbench_dyn.certification.escapes import (
    RefuseEscapes,
    operation_name,
    refuse_data_dependence,
)
from robustbench_dyn.certification.rounding.error_rules import (
    ERROR_RULES,
    KEEP_ENTRIES,
    MOVES,
    Call,
    ErrorBounds,
    Tracked,
    combined,
    size_of,
)
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.models.machine_errors import is_machine_error

# Their results may be written into, and then depend on the input.
_FACTORIES = frozenset(
    [
        "empty",
        "empty_like",
        "full",
        "full_like",
        "new_empty",
        "new_full",
        "new_ones",
        "new_zeros",
        "ones_like",
        "zeros",
        "zeros_like",
    ]
)
_CASTS = frozenset({"float", "half", "bfloat16", "double"})


class Analysis(NamedTuple):
    """A module's output, the same in exact arithmetic, and the output's error bounds.

    value: (batch, *shape); exact: the same in float64. unbounded: which operation has no bound, or
    nothing.
    """

    value: Tensor
    exact: Tensor
    error_bounds: ErrorBounds
    unbounded: str


@torch.no_grad()
def run_exactly(module: nn.Module, exact: Tensor) -> Tensor:
    """Return the output of module in float64, (batch, *shape), with its weights unchanged.

    Raises CertificateError where it cannot be run so.
    """
    try:
        with _Promotion():
            return cast(Tensor, module(exact.clone())).clone()
    except RuntimeError as error:
        if is_machine_error(error):
            raise
        raise CertificateError(f"the network does not run in float64: {error}") from error


class _Promotion(TorchFunctionMode):
    """Computes in float64 what depends on values of float64, and leaves the rest unchanged."""

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


def _promoted(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        # A tensor of float64 keeps its memory, which may be written.
        return leaf.double() if leaf.is_floating_point() else leaf
    return torch.float64 if isinstance(leaf, torch.dtype) and leaf.is_floating_point else leaf


@torch.no_grad()
def analyse(module: nn.Module, value: Tensor, exact: Tensor, drift: Tensor) -> Analysis:
    """Run module at value, (batch, *shape), and bound its error for inputs within drift of value.

    exact: (batch, *shape) float64, the value in exact arithmetic; it is computed alongside, and
    shows the error at this input. drift: (batch,), float64.
    """
    analyser = _Analyser(len(value))
    error_bounds = ErrorBounds(drift, torch.zeros_like(drift))
    inputs = value.clone()
    version = inputs._version
    analyser.track(inputs, exact.clone(), error_bounds)
    try:
        with RefuseEscapes(analyser.depends), analyser:
            out = module(inputs)
    except CertificateError as error:
        analyser.unbounded = str(error)
        out = module(value.clone())
    found = analyser.tracked.get(id(out)) if isinstance(out, Tensor) else None
    if inputs._version != version and next(module.children(), None) is not None:
        # One of its parts may have read the input before that, another one after it.
        analyser.unbounded, found = f"{type(module).__name__} writes into its input", None
    if found is None:
        unbounded = analyser.unbounded or "the output cannot be traced back to the input"
        return Analysis(out, out.double(), _infinite(error_bounds), unbounded)
    # A copy: the module's output may be memory that it writes again.
    return Analysis(
        out.clone(), found.exact.clone(), found.error_bounds.aggregated(), analyser.unbounded
    )


class _Analyser(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tracks values that depend on the input through every operation."""

    def __init__(self, n: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.n = n
        # A tracked tensor is kept alive, so that its identity is not given to another one.
        self.tracked = dict[int, Tracked]()
        self.memory = dict[int, list[Tracked]]()
        self.unbounded = ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch imports its compiler, for seconds, to keep it away from here.
        return False

    def depends(self, leaf: Any) -> bool:
        """Say whether a tensor depends on the input."""
        found = self.tracked.get(id(leaf)) if isinstance(leaf, Tensor) else None
        return found is not None and not found.constant

    def track(
        self, value: Tensor, exact: Tensor, error_bounds: ErrorBounds, *, constant: bool = False
    ) -> Tracked:
        tracked = Tracked(value, exact, error_bounds, constant)
        self.tracked[id(value)] = tracked
        self.memory.setdefault(_storage(value), []).append(tracked)
        return tracked

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        refuse_data_dependence(function, args, kwargs, self.depends)
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        for tensor in tensors:
            if id(tensor) not in self.tracked and _storage(tensor) in self.memory:
                self._find_alias(tensor)
        tracked = [self.tracked[id(t)] for t in tensors if id(t) in self.tracked]
        name = operation_name(function)
        if not tracked and name not in _FACTORIES:
            return function(*args, **kwargs)
        exact_args, exact_kwargs = tree_map(self._promoted, (args, kwargs))
        result = function(*args, **kwargs)
        to_whole_numbers = name == "_to_copy" and not result.is_floating_point()
        try:
            exact = result if to_whole_numbers else function(*exact_args, **exact_kwargs)
        except RuntimeError as error:
            if is_machine_error(error):
                raise
            raise CertificateError(f"{name!r} does not run in float64: {error}") from error
        several = isinstance(result, (tuple, list))
        for k, value in enumerate(result if several else [result]):
            if isinstance(value, Tensor):
                call = Call(name.rstrip("_"), args, kwargs, tracked, value, k, self.n)
                self._note(call, exact[k] if several else exact)
        return result

    def _promoted(self, leaf: Any) -> Any:
        """Return an argument in exact arithmetic."""
        found = self.tracked.get(id(leaf)) if isinstance(leaf, Tensor) else None
        return _promoted(leaf) if found is None else found.exact

    def _find_alias(self, tensor: Tensor) -> None:
        """Track a tensor in tracked memory that no operation returned."""
        for one in self.memory[_storage(tensor)]:
            same_place = one.value.data_ptr() == tensor.data_ptr()
            same_layout = one.value.shape == tensor.shape and one.value.stride() == tensor.stride()
            if same_place and same_layout:
                self.tracked[id(tensor)] = one
                one.aliases.append(tensor)
                return
        self.unbounded = self.unbounded or "memory of a value that is read in another way"
        error_bounds = self.memory[_storage(tensor)][0].error_bounds
        self.track(tensor, tensor.double(), _infinite(error_bounds))

    def _note(self, call: Call, exact: Tensor) -> None:
        constant = call.name in _FACTORIES or all(one.constant for one in call.tracked)
        error_bounds = self._bound(call, constant=constant)
        if self.tracked.get(id(call.value)) is None:
            self.track(call.value, exact, error_bounds, constant=constant)
            return
        # Written in place: all values in the same memory change with it. The exact values do so by
        # themselves, since a view of a tracked value has a view of its exact value.
        for one in self.memory[_storage(call.value)]:
            whole = one.value.numel() == call.value.numel()
            one.error_bounds = error_bounds if whole else combined(one.error_bounds, error_bounds)
            one.constant = constant and (whole or one.constant)

    def _bound(self, call: Call, *, constant: bool) -> ErrorBounds:
        zero = torch.zeros(self.n, dtype=torch.float64, device=call.value.device)
        if constant:
            return ErrorBounds(zero, zero)
        floating = call.value.is_floating_point()
        rule = ERROR_RULES.get(call.name)
        if call.name not in KEEP_ENTRIES:
            for one in call.tracked:
                one.error_bounds = one.error_bounds.aggregated()
        found = None
        if rule is not None and floating and call.value.numel() % self.n == 0:
            found = rule(call)
        if found is None:
            # Indices and comparisons by themselves do no harm; an operation that selects or
            # branches by them has no rule.
            if (floating and call.value.numel()) or call.name == "_to_copy":
                self.unbounded = (
                    self.unbounded or f"the rounding of {call.name!r} has no known bound"
                )
            return ErrorBounds(zero + math.inf, zero + math.inf)
        # Beyond the largest number, the computed value has nothing to do with the exact one.
        if call.name in MOVES:
            return found
        total = found.aggregated()
        size = size_of(call.value, self.n) + total.drift + 2 * total.error
        fits = size < torch.finfo(call.value.dtype).max
        if bool(fits.all()):
            return found
        return ErrorBounds(total.drift.where(fits, math.inf), total.error.where(fits, math.inf))


def _infinite(error_bounds: ErrorBounds) -> ErrorBounds:
    return ErrorBounds(*(torch.full_like(part, math.inf) for part in error_bounds[:2]))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
