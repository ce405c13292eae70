"""The contract of an operation's handler: bounds contain samples, and the nodes are consistent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.bounds.back_substitution import objective_bounds
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import (
    RelaxationState,
    intermediate_bounds,
    interval_bounds,
    relaxation_state,
)
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.contract.findings import Findings
from robustbench_dyn.certification.network.graph import Affine, Pointwise
from robustbench_dyn.certification.network.lowering import Handlers
from robustbench_dyn.certification.network.tracer import trace
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.plugins.contract import Finding
from robustbench_dyn.threat_models import NORMS, ThreatModel, format_eps, project

_CENTRES, _POINTS = 4, 48
# The widths of the balls, of inputs in [0, 1] that are spread over [-3, 3].
_EPS = (0.03, 0.3, 1.0)
# More than the rounding of the samples in float64.
_TOLERANCE = 1e-9

TRACED = "a network that uses the operation can be traced"
VALUES = "the node computes what the operation computes"
ADJOINT = "adjoint is the transpose of linear"
ABSOLUTE = "abs_linear bounds the absolute values of linear"
SLOPES = "the slopes of an activation lie between min_slope and max_slope, and in its sectors"
INTERVALS = "interval bounds contain samples"
LINES = "linear bounds contain samples"
RELAXED = "bounds by back-substitution lie below samples"
ROUNDING = "the error bound contains the rounding of float32"


class _Network(nn.Module):
    """Applies a function to inputs that are spread over [-3, 3]; its outputs are the logits."""

    def __init__(
        self, function: Callable[[Tensor], Tensor], input_shape: tuple[int, ...], seed: int
    ) -> None:
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(seed)
        shift = torch.randn(input_shape, generator=generator, dtype=torch.float64)
        self.shift = nn.Parameter(0.3 * shift - 3.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, entries of the function)."""
        return self.function(6.0 * x + self.shift).flatten(1)


class _Plain(nn.Module):
    """Applies a function to inputs in [0, 1], of float32, and nothing else that rounds."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, entries of the function)."""
        return self.function(x).flatten(1)


def check_operation(
    name: str,
    function: Callable[[Tensor], Tensor] | None = None,
    *,
    input_shape: tuple[int, ...] = (2, 4, 4),
    seed: int = 0,
    handlers: Handlers | None = None,
) -> list[Finding]:
    """Return whether the handler of an operation keeps each rule of its contract, on samples.

    name: as in OPERATIONS. function: a use of the operation, from (batch, *input_shape) to
    (batch, ...), in float32 and in float64; by default the operation itself, with no further
    arguments. handlers: in place of those of OPERATIONS.
    """
    findings = Findings(
        TRACED, VALUES, ADJOINT, ABSOLUTE, SLOPES, INTERVALS, LINES, RELAXED, ROUNDING
    )
    try:
        function = function or _operation(name)
        model = _Network(function, input_shape, seed).requires_grad_(False)
        traced = trace(model, input_shape, torch.float64)
        used = any(operation.name == name for operation in traced.operations)
        findings.expect(TRACED, used, f"the function does not use {name!r}")
        state = relaxation_state(model, input_shape, handlers)
        plain = relaxation_state(_Plain(function), input_shape, handlers)
    except CertificateError as error:
        rule = VALUES if "does not compute" in str(error) else TRACED
        findings.expect(rule, False, str(error))
        return findings.list()
    # Any error of the operation or of its handler.
    except Exception as error:
        if is_machine_error(error):
            raise
        findings.expect(TRACED, False, f"{type(error).__name__}: {error}")
        return findings.list()
    with torch.no_grad():
        for x, ball, points in _samples(input_shape, seed):
            _check_bounds(model, state, ball, points, findings)
            _check_nodes(state, x, points, findings)
        _check_rounding(plain, input_shape, seed, findings)
    return findings.list()


def _operation(name: str) -> Callable[[Tensor], Tensor]:
    """Return an operation of torch's dispatcher by its name."""
    library, _, operation = name.rpartition("::")
    packet = getattr(getattr(torch.ops, library or "aten"), operation)
    return cast(Callable[[Tensor], Tensor], packet)


def _samples(input_shape: tuple[int, ...], seed: int) -> Iterator[tuple[Tensor, Ball, Tensor]]:
    """Yield centres, their balls, and points of each ball, (points, centres, *input_shape)."""
    generator = torch.Generator().manual_seed(seed)
    for norm in NORMS:
        for eps in _EPS:
            threat_model = ThreatModel(norm, eps)
            x = torch.rand(_CENTRES, *input_shape, generator=generator, dtype=torch.float64)
            noise = torch.randn(_POINTS, *x.shape, generator=generator, dtype=torch.float64)
            noise[::2] = noise[::2].sign()
            sizes = torch.rand(_POINTS, generator=generator, dtype=torch.float64) + 0.1
            moves = 2 * eps * sizes.view(-1, *[1] * x.dim()) * noise
            points = [project((x + move).clamp(0, 1), x, threat_model) for move in moves]
            yield x, Ball(x, threat_model), torch.stack([x, *points])


def _check_bounds(
    model: nn.Module, state: RelaxationState, ball: Ball, points: Tensor, findings: Findings
) -> None:
    where = f"{ball.norm}, eps {format_eps(ball.eps, digits=3)}"
    intervals = interval_bounds(state, ball)
    tightened, linear_bounds = intermediate_bounds(state, ball, n_iterations=3)
    for z in points:
        outputs = state.exact.outputs(z)
        slack = _TOLERANCE * (1 + float(outputs[-1].abs().max()))
        error = float((outputs[-1] - model(z)).abs().max())
        findings.expect(VALUES, error <= slack, f"logits differ by {error:.3g}: {where}")
        for bounds in (intervals, tightened):
            _expect_inside(outputs, bounds, findings, where)
        for k, (lower, upper) in linear_bounds.items():
            value = outputs[k]
            argument = outputs[state.exact.nodes[k - 1].inputs[0]]
            below = (lower.slope * argument + lower.offset - value).max()
            above = (value - upper.slope * argument - upper.offset).max()
            excess = float(torch.maximum(below, above))
            findings.expect(LINES, excess <= _TOLERANCE, f"exceeded by {excess:.3g}: {where}")
    n = state.exact.n_classes
    rows = torch.cat([torch.eye(n), -torch.eye(n)]).double().repeat(_CENTRES, 1)
    owners = torch.arange(_CENTRES).repeat_interleave(2 * n)
    logits = torch.stack([model(z) for z in points])
    sampled = torch.cat([logits.amin(dim=0), -logits.amax(dim=0)], dim=1).flatten()
    for bounds, lines in ((intervals, {}), (tightened, linear_bounds)):
        found = objective_bounds(state.exact, bounds, ball, rows, owners, linear_bounds=lines)
        excess = float((found.value - sampled).max())
        findings.expect(RELAXED, excess <= _TOLERANCE, f"exceeded by {excess:.3g}: {where}")


def _expect_inside(outputs: list[Tensor], bounds: Bounds, findings: Findings, where: str) -> None:
    for k, value in enumerate(outputs):
        outside = torch.maximum(bounds.lower[k] - value, value - bounds.upper[k])
        excess = float(outside.max())
        findings.expect(INTERVALS, excess <= _TOLERANCE, f"exceeded by {excess:.3g}: {where}")


def _check_nodes(state: RelaxationState, x: Tensor, points: Tensor, findings: Findings) -> None:
    """Compare each node with itself: its transpose, its absolute values, its slopes."""
    generator = torch.Generator().manual_seed(0)
    outputs = state.exact.outputs(x)
    moved = state.exact.outputs(points[-1])
    for node in state.exact.nodes:
        inputs = [outputs[i] for i in node.inputs]
        if isinstance(node, Pointwise):
            _check_slopes(node, inputs[0], moved[node.inputs[0]], findings)
            _check_lines(node, inputs[0], moved[node.inputs[0]], findings)
            continue
        value = node.linear(*inputs)
        row = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        back = node.adjoint(row)
        forth = (row * value).reshape(len(row), -1).sum(dim=1)
        transposed = sum(
            (a * z).reshape(len(a), -1).sum(dim=1) for a, z in zip(back, inputs, strict=True)
        )
        error = float((forth - transposed).abs().max() / (1 + forth.abs().max()))
        findings.expect(ADJOINT, error <= _TOLERANCE, f"products differ by {error:.3g}")
        _check_magnitude(node, inputs, value, findings)


def _check_magnitude(node: Affine, inputs: list[Tensor], value: Tensor, findings: Findings) -> None:
    absolute = node.abs_linear(*(z.abs() for z in inputs))
    excess = float((value.abs() - absolute).max())
    findings.expect(ABSOLUTE, excess <= _TOLERANCE, f"exceeded by {excess:.3g}")


def _check_slopes(node: Pointwise, z: Tensor, w: Tensor, findings: Findings) -> None:
    activation = node.activation
    apart = (w - z).abs() > 1e-6
    secant = ((activation(w) - activation(z)) / (w - z))[apart]
    if not secant.numel():
        return
    low, high = float(secant.min()), float(secant.max())
    kept = low >= activation.min_slope - 1e-6 and high <= activation.max_slope + 1e-6
    findings.expect(SLOPES, kept, f"secants have slopes {low:.4g} to {high:.4g}")
    nothing = torch.zeros_like(z)
    steepest = activation.slope_bound(torch.minimum(z, w), torch.maximum(z, w), nothing)
    steep = bool((secant.abs() <= torch.as_tensor(steepest).expand_as(z)[apart] + 1e-6).all())
    findings.expect(SLOPES, steep, "a secant exceeds slope_bound")
    sector = activation.sector(z, z, torch.minimum(z, w), torch.maximum(z, w))
    inside = (secant >= sector[0][apart] - 1e-6) & (secant <= sector[1][apart] + 1e-6)
    findings.expect(SLOPES, bool(inside.all()), "a secant is outside of its sector")


def _check_lines(node: Pointwise, z: Tensor, w: Tensor, findings: Findings) -> None:
    """Check lines of several slopes between z and w: optimisation may choose any of them."""
    activation = node.activation
    lower, upper = torch.minimum(z, w), torch.maximum(z, w)
    shares = torch.linspace(0, 1, 9, dtype=torch.float64)
    points = torch.stack([lower + share * (upper - lower) for share in shares])
    values = activation(points)
    for share in shares[::2]:
        least, most = activation.slope_range(lower, upper)
        slope = torch.as_tensor(least + share * (most - least)).expand_as(lower)
        for above in (False, True):
            line = activation.line(slope, lower, upper, above=above)
            gap = line.slope * points + line.offset - values
            excess = float(-gap.min() if above else gap.max())
            findings.expect(
                LINES,
                excess <= _TOLERANCE,
                f"exceeded by {excess:.3g} for slopes up to {float(slope.max()):.3g}",
            )


def _check_rounding(
    state: RelaxationState, input_shape: tuple[int, ...], seed: int, findings: Findings
) -> None:
    """Compare the operation in float32 with exact arithmetic, at some points."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(_POINTS, *input_shape, generator=generator)
    errors = interval_bounds(state, Ball(x, ThreatModel("Linf", 1e-200))).errors[-1]
    error = (state.model(x).double() - state.exact.outputs(x.double())[-1]).abs()
    excess = float((error - errors).max())
    findings.expect(ROUNDING, excess <= 0, f"an output errs by {excess:.3g} more")
