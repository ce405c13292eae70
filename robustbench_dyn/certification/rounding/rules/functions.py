"""Functions of one number, applied entry by entry, and softmax: their steepest slopes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from robustbench_dyn.certification.rounding.rules.base import (
    LIBRARY,
    NORM_SLACK,
    RULES,
    Call,
    Ranges,
    Rule,
    extremes,
    largest,
    most,
    rule,
)


def _entrywise(slope: Callable[[Call], float], units: float) -> Rule:
    def rule(call: Call) -> Ranges | None:
        one = call.of(call.args[0])
        if one is None or len(call.followed) > 1:
            return None
        steepest = slope(call)
        drift, error = one.ranges.drift * steepest, one.ranges.error * steepest
        if units > 1:
            # Some of them subtract numbers as large as the argument.
            error = error + units * call.unit * most(one, call.n)
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
    ("tanh sin cos atan", 1.0, LIBRARY),
    ("sigmoid", 0.25, LIBRARY),
    ("erf gelu silu mish", 1.13, 2 * LIBRARY),
    ("hardswish", 1.5, 4),
    ("hardsigmoid", 1 / 6, 4),
):
    RULES.update(dict.fromkeys(_names.split(), _entrywise(partial(_constant, _slope), _units)))
RULES["leaky_relu"] = _entrywise(lambda call: max(1.0, abs(float(call.arg(1, 0.01)))), 1)
RULES["elu"] = _entrywise(_slope_of_elu, 2 * LIBRARY)
RULES["_prelu_kernel"] = _entrywise(
    lambda call: max(1.0, float(call.args[1].abs().max())), 1
)  # fmt: skip


@rule("softplus")
def _softplus(call: Call) -> Ranges | None:
    beta, threshold = float(call.arg(1, 1.0)), float(call.arg(2, 20.0))
    found = _entrywise(lambda _: 1.0, LIBRARY)(call)
    if found is None or not beta > 0:
        return None
    # torch leaves the formula at the threshold: a jump of at most this.
    jump = math.exp(-threshold) / beta * math.sqrt(call.entries)
    return Ranges(found.drift + jump, found.error + jump)


@rule("exp", "log", "sqrt", "rsqrt", "reciprocal", "pow", "square", "log1p", "expm1")
def _steep(call: Call) -> Ranges | None:
    one = call.of(call.args[0])
    if one is None or len(call.followed) > 1:
        return None
    low, high = extremes(one, call.n)
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
    slope = slope * NORM_SLACK
    return call.rounded(one.ranges.drift * slope, one.ranges.error * slope, 2 * LIBRARY)


@rule("_softmax", "_log_softmax")
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
    found = call.rounded(drift, error, terms + 104 + 2 * LIBRARY)
    if call.name == "_log_softmax":
        extra = (terms + 2 * LIBRARY) * call.unit * (
            math.sqrt(call.entries) * (1 + largest(one, call.n))
        )  # fmt: skip
        found = Ranges(found.drift, found.error + 2 * extra)
    return found
