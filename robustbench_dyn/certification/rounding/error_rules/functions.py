"""Error rules of functions of one number, applied entry by entry, and of softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from robustbench_dyn.certification.rounding.error_rules.base import (
    ERROR_RULES,
    LIBRARY,
    NORM_SLACK,
    Call,
    ErrorBounds,
    Rule,
    entry_range,
    max_entry,
    max_size,
    rule,
)


def _entrywise(slope: Callable[[Call], float], units: float) -> Rule:
    def rule(call: Call) -> ErrorBounds | None:
        one = call.operand(call.args[0])
        if one is None or len(call.tracked) > 1:
            return None
        max_slope = slope(call)
        drift, error = one.error_bounds.drift * max_slope, one.error_bounds.error * max_slope
        if units > 1:
            # Some of them subtract numbers as large as the argument.
            error = error + units * call.unit * max_size(one, call.n)
        found = ErrorBounds(drift, error)
        found = one.error_bounds.scaled_by_entry(max_slope, call.value, found)
        return call.with_rounding(found, units)

    return rule


def _constant(slope: float, _call: Call) -> float:
    return slope


def _slope_of_elu(call: Call) -> float:
    alpha, scale, input_scale = (float(call.arg(k, 1.0)) for k in (1, 2, 3))
    return abs(scale) * max(1.0, abs(alpha * input_scale))


for _names, _slope, _units in (
    ("relu neg abs hardtanh clamp clamp_min clamp_max relu6", 1.0, 0),
    ("tanh sin cos atan", 1.0, LIBRARY),
    ("sigmoid", 0.25, LIBRARY),
    ("erf gelu silu mish", 1.13, 2 * LIBRARY),
    ("hardswish", 1.5, 4),
    ("hardsigmoid", 1 / 6, 4),
):
    ERROR_RULES.update(
        dict.fromkeys(_names.split(), _entrywise(partial(_constant, _slope), _units))
    )
ERROR_RULES["leaky_relu"] = _entrywise(lambda call: max(1.0, abs(float(call.arg(1, 0.01)))), 1)
ERROR_RULES["elu"] = _entrywise(_slope_of_elu, 2 * LIBRARY)
ERROR_RULES["_prelu_kernel"] = _entrywise(lambda call: max(1.0, float(call.args[1].abs().max())), 1)


@rule("softplus")
def _softplus(call: Call) -> ErrorBounds | None:
    beta, threshold = float(call.arg(1, 1.0)), float(call.arg(2, 20.0))
    found = _entrywise(lambda _: 1.0, LIBRARY)(call)
    if found is None or not beta > 0:
        return None
    # torch leaves the formula at the threshold: a jump of at most this.
    jump = math.exp(-threshold) / beta * math.sqrt(call.entries)
    return ErrorBounds(found.drift + jump, found.error + jump)


@rule("exp", "log", "sqrt", "rsqrt", "reciprocal", "pow", "square", "log1p", "expm1")
def _power(call: Call) -> ErrorBounds | None:
    one = call.operand(call.args[0])
    if one is None or len(call.tracked) > 1:
        return None
    low, high = entry_range(one, call.n)
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
        # The slope p z^(p - 1) is largest at an end; powers that are not whole need z > 0.
        ends = torch.stack([low, high])
        slope = (abs(power) * ends.abs().pow(power - 1)).amax(dim=0)
        across = low <= 0
        allowed = ~across if power < 1 or power != int(power) else torch.ones_like(across)
        slope = slope.where(allowed, math.inf)
    slope = slope * NORM_SLACK
    return call.rounded(one.error_bounds.drift * slope, one.error_bounds.error * slope, 2 * LIBRARY)


@rule("_softmax", "_log_softmax")
def _softmax(call: Call) -> ErrorBounds | None:
    one = call.operand(call.args[0])
    dim = call.args[1] % call.value.dim()
    if one is None or dim == 0:
        return None
    n_summands = call.value.shape[dim]
    # The Jacobian diag(p) - p p^T has norm at most 1, that of the logarithm, I - 1 p^T, more.
    max_slope = 1.0 if call.name == "_softmax" else 1 + math.sqrt(n_summands)
    drift, error = one.error_bounds.drift * max_slope, one.error_bounds.error * max_slope
    # exp(x - max) errs as x - max does, which is at most 104 before it is flushed to zero.
    found = call.rounded(drift, error, n_summands + 104 + 2 * LIBRARY)
    if call.name == "_log_softmax":
        extra = (
            (n_summands + 2 * LIBRARY)
            * call.unit
            * (math.sqrt(call.entries) * (1 + max_entry(one, call.n)))
        )
        found = ErrorBounds(found.drift, found.error + 2 * extra)
    return found
