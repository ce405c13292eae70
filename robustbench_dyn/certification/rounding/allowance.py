"""The allowance that is subtracted from margins for the network's own rounding.

Certificates speak of the network as it is computed, and the proofs of exact arithmetic. Two bounds
of the difference are at hand:

- the worst case, which holds anywhere in the ball, for any order of summation;
- the measured one: FACTOR times the largest difference that was observed between the network and
  exact arithmetic (float64), at the example itself and at a random point of its ball's surface, and
  no less than 256 units in the last place of the largest logit.

Where the worst case exceeds a margin, nothing is proved. Below that it is subtracted. For global
Lipschitz bounds and linear relaxations, whose networks may be deep and wide, the smaller of the two
is subtracted instead, unless rounding is to be strict.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.rounding.running_error import analyse, run_exactly
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.lipschitz.bounds import Layers, layers_of
from robustbench_dyn.models.forward import call_without_graph
from robustbench_dyn.threat_models import Norm

FACTOR = 16.0
_ULPS = 256


def margins_of(logits: Tensor, y: Tensor) -> Tensor:
    """Return F_y - F_j for each class j, (batch, classes), float64, on the CPU.

    A row whose logits are not finite is NaN.
    """
    scores = logits.detach().double().cpu()
    margins = scores.gather(1, y.cpu()[:, None]) - scores
    return margins.where(scores.isfinite().all(dim=1, keepdim=True), torch.nan)


def usual_rounding(logits: Tensor) -> Tensor:
    """Return 256 units in the last place of the largest logit, (batch, 1), float64, on the CPU."""
    rounding = _ULPS * torch.finfo(logits.dtype).eps
    scores = logits.detach().double().cpu()
    return rounding * scores.abs().amax(dim=1, keepdim=True).clamp_min(1.0)


def rounding_allowance(
    margins: Tensor, worst_case: Tensor, observed: Tensor, usual: Tensor, *, strict: bool
) -> Tensor:
    """Return the allowance of margins for rounding; inf where nothing is to be proved.

    margins: as computed at the example; worst_case: bounds of the rounding; observed: the largest
    difference between these margins and exact ones; usual: of usual_rounding; all of one shape.
    The observed difference is added, since the margin at the example is a computed one, too.
    """
    measured = torch.maximum(FACTOR * observed, usual)
    allowance = observed + (worst_case if strict else torch.minimum(worst_case, measured))
    # Written so that NaN proves nothing.
    return allowance.where((worst_case < margins) & (observed < math.inf), math.inf)


def explained_by_rounding(observed: Tensor, worst_case: Tensor) -> Tensor:
    """Return observed differences, inf where one is more than any rounding could make.

    There, the network computes another function than the one that was traced. Both of one shape.
    """
    return observed.where(observed <= worst_case * (1 + 1e-6), math.inf)


def surface_points(x: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Return a random point of each ball within [0, 1], (batch, *input_shape).

    radius: (batch,). The points lie on the balls' surfaces, unless [0, 1] cuts them off; that of
    one example does not depend on the others.
    """
    flat = x.detach().double().flatten(1)
    generator = torch.Generator().manual_seed(0)
    move = torch.randn(flat.shape[1], generator=generator, dtype=torch.float64)
    move = move.sign() if norm == "Linf" else move / move.norm(p=1 if norm == "L1" else 2)
    points = (flat + move.to(flat.device) * radius.to(flat.device)[:, None]).clamp(0, 1)
    return points.view_as(x).to(x)


def observed_rounding(
    model: nn.Module, points: Tensor, logits: Tensor, exact: tuple[Tensor, Tensor], y: Tensor
) -> Tensor:
    """Return the largest differences between the network's margins and exact ones.

    logits: the network's at some examples. points: one of each ball. exact: logits in float64 at
    the examples, and at the points. Returns (batch, classes), float64, on the CPU; NaN where any of
    them is not finite.
    """
    at_x = margins_of(logits, y) - margins_of(exact[0], y)
    at_points = margins_of(call_without_graph(model, points), y) - margins_of(exact[1], y)
    return torch.maximum(at_x.abs(), at_points.abs())


def size(value: Tensor) -> Tensor:
    """Return each example's L2 norm, (batch,)."""
    return value.flatten(1).norm(dim=1)


def farthest(x: Tensor) -> Tensor:
    """Return the L2 distance from each x to the farthest corner of [0, 1], rounded up, (batch,)."""
    exact = x.detach().double().flatten(1)
    return torch.maximum(exact, 1 - exact).norm(dim=1) * (1 + 1e-9)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return size(a - b)


class Features(NamedTuple):
    """The input of a head: (batch, *shape) each, and in L2 (batch,) how far it may move and err.

    value: as the network computes it at x; exact, exact_points: in exact arithmetic, at x and at a
    point of each ball. drift, error: anywhere in the ball; inf where nothing is known.
    """

    value: Tensor
    exact: Tensor
    exact_points: Tensor
    drift: Tensor
    error: Tensor


class LayerRounding(NamedTuple):
    """A network as a sequence of layers, whose rounding is bounded from one to the next."""

    model: nn.Module
    layers: Layers
    strict: bool

    def allowance(self, x: Tensor, logits: Tensor, y: Tensor, reach: Tensor) -> Tensor:
        """Return the allowance of each margin at x and anywhere within reach of it.

        logits: (batch, classes), as the network computed them at x. reach: (batch,), in L2. Returns
        (batch, classes), float64, on the CPU: 0 for the label itself, inf where nothing is proved.
        """
        points = surface_points(x, reach, "L2")
        worst_case, *exact = self.worst_case(x, y, reach, points)
        observed = observed_rounding(self.model, points, logits, (exact[0], exact[1]), y)
        usual = usual_rounding(logits).expand_as(worst_case)
        allowance = rounding_allowance(
            margins_of(logits, y),
            worst_case,
            explained_by_rounding(observed, worst_case),
            usual,
            strict=self.strict,
        )
        return allowance.scatter(1, y.cpu()[:, None], 0.0)

    def worst_case(
        self, x: Tensor, y: Tensor, reach: Tensor, points: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return bounds of how far margins are from exact ones within reach of x.

        points: one within reach of each x. The bounds, on the CPU, are followed by the exact logits
        at x and at these points: (batch, classes) each, float64. A bound that a module states
        itself is left to the audit, which ends the run.
        """
        found = self.through_parts(x, reach, points)
        value, exact, exact_points, drift, error = found
        if self.layers.weight is None:
            # Of two logits together.
            worst_case = (math.sqrt(2) * error)[:, None].expand(len(x), value.shape[1])
            return worst_case.cpu(), exact, exact_points
        weight = self.layers.weight.detach()
        own = head_rounding(weight, self.layers.bias, value, drift + 2 * error).double()
        rows = weight.double()
        between = torch.cdist(rows, rows)[y.to(rows.device)]
        worst_case = error[:, None] * between * (1 + 1e-9) + own
        worst_case = worst_case + own.gather(1, y.to(own.device)[:, None])
        return worst_case.cpu(), self._head(exact), self._head(exact_points)

    def through_parts(self, x: Tensor, reach: Tensor, points: Tensor) -> Features:
        """Run all parts but the head at x, and bound their rounding within reach of it.

        Where a layer of torch's moves x and its point further apart than its Lipschitz bound
        allows, the bound is not one of that layer, and nothing is bounded.
        """
        value, exact, exact_points = x, x.double(), points.double()
        drift = reach.to(x.device, torch.float64)
        error = torch.zeros_like(drift)
        for part, bound in self.layers.parts:
            # It is run at the value as computed, which is at most that far from any other.
            result = analyse(part, value, exact, drift + 2 * error)
            before = _distances(exact, exact_points)
            value, exact = result.value, result.exact
            exact_points = run_exactly(part, exact_points)
            error = torch.where(error > 0, bound * error, 0.0) + result.error_bounds.error
            # Written so that NaN fails it.
            kept = _distances(exact, exact_points) <= (
                bound * before * (1 + 1e-9) + 1e-12 * size(exact)
            )
            if not hasattr(part, "lipschitz_bound"):
                error = error.where(kept | (before == 0), math.inf)
            drift = torch.where(drift > 0, bound * drift, 0.0).minimum(result.error_bounds.drift)
        return Features(value, exact, exact_points, drift, error)

    def _head(self, exact: Tensor) -> Tensor:
        assert self.layers.weight is not None
        logits = exact @ self.layers.weight.detach().double().T
        bias = self.layers.bias
        return logits if bias is None else logits + bias.detach().double()


def layer_rounding(model: nn.Module, *, strict: bool) -> LayerRounding:
    """Return a model's layers; one part of no known bound where it has no known layers."""
    try:
        layers = layers_of(model)
    except CertificateError:
        layers = Layers([(model, math.inf)], None, None)
    return LayerRounding(model, layers, strict)


def head_rounding(weight: Tensor, bias: Tensor | None, value: Tensor, around: Tensor) -> Tensor:
    """Return what a linear head's own sums may err by, for inputs within `around` of value."""
    kind = torch.finfo(value.dtype)
    n_summands = weight.shape[1] + 2
    magnitude = value.detach().abs().double() @ weight.abs().double().T
    magnitude = magnitude + around[:, None] * weight.double().norm(dim=1)
    if bias is not None:
        magnitude = magnitude + bias.detach().abs().double()
    largest = value.detach().abs().amax(dim=1).double() + around
    flushed = weight.double().abs().sum(dim=1) + n_summands * (1 + largest[:, None])
    return n_summands * kind.eps / 2 * magnitude * (1 + 1e-9) + kind.tiny * flushed
