"""What a network's own rounding may take off its margins, and what of that is allowed for.

Certificates speak of the network as it is computed, and the proofs of exact arithmetic. Two bounds
of the difference are at hand:

- the worst case, which holds anywhere in the ball, for any order of summation;
- the measured one: FACTOR times the largest difference that was seen between the network and exact
  arithmetic (float64), at the example itself and at a random point of its ball's surface, and no
  less than 256 units in the last place of the largest logit.

Where the worst case exceeds a margin, nothing is proved. Below that it is taken off the margin. For
global Lipschitz bounds and linear relaxations, whose networks may be deep and wide, it is the
smaller of the two instead, unless rounding is to be strict.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.rounding.running_error import run, run_exactly
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


def allowed_for(
    margins: Tensor, worst: Tensor, seen: Tensor, usual: Tensor, *, strict: bool
) -> Tensor:
    """Return what is taken off margins for rounding; inf where nothing is to be proved of one.

    margins: as computed at the example; worst: bounds of the rounding; seen: the largest difference
    between these margins and exact ones; usual: of usual_rounding; all of one shape. What was seen
    at the example comes on top, since the margin there is a computed one, too.
    """
    measured = torch.maximum(FACTOR * seen, usual)
    allowed = seen + (worst if strict else torch.minimum(worst, measured))
    # Written so that NaN proves nothing.
    return allowed.where((worst < margins) & (seen < math.inf), math.inf)


def believed(seen: Tensor, possible: Tensor) -> Tensor:
    """Return seen differences, inf where one is more than any rounding could make.

    There, another function was followed than what the network computes. Both of one shape.
    """
    return seen.where(seen <= possible * (1 + 1e-6), math.inf)


def point_of(x: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Return a random point of each ball within [0, 1], (batch, *input_shape).

    radius: (batch,). At the ball's surface, but for what [0, 1] cuts off; that of one example does
    not depend on the others.
    """
    flat = x.detach().double().flatten(1)
    generator = torch.Generator().manual_seed(0)
    move = torch.randn(flat.shape[1], generator=generator, dtype=torch.float64)
    move = move.sign() if norm == "Linf" else move / move.norm(p=1 if norm == "L1" else 2)
    points = (flat + move.to(flat.device) * radius.to(flat.device)[:, None]).clamp(0, 1)
    return points.view_as(x).to(x)


def seen_differences(
    model: nn.Module, points: Tensor, logits: Tensor, exact: tuple[Tensor, Tensor], y: Tensor
) -> Tensor:
    """Return the largest differences between the network's margins and exact ones.

    logits: the network's at some examples. points: one of each ball. exact: logits in float64 at
    the examples, and at the points. Returns (batch, classes), float64, on the CPU; NaN where any of
    them is not finite.
    """
    here = margins_of(logits, y) - margins_of(exact[0], y)
    there = margins_of(call_without_graph(model, points), y) - margins_of(exact[1], y)
    return torch.maximum(here.abs(), there.abs())


def size(value: Tensor) -> Tensor:
    """Return each example's L2 norm, (batch,)."""
    return value.flatten(1).norm(dim=1)


def _apart(a: Tensor, b: Tensor) -> Tensor:
    return size(a - b)


class LayerRounding(NamedTuple):
    """A network as layers in a row, whose rounding is followed from one to the next."""

    model: nn.Module
    layers: Layers
    strict: bool

    def allowed(self, x: Tensor, logits: Tensor, y: Tensor, reach: Tensor) -> Tensor:
        """Return what is taken off each margin at x and anywhere within reach of it.

        logits: (batch, classes), as the network computed them at x. reach: (batch,), in L2. Returns
        (batch, classes), float64, on the CPU: 0 for the label itself, inf where nothing is proved.
        """
        points = point_of(x, reach, "L2")
        worst, exact, exact_there = self.worst(x, y, reach, points)
        seen = seen_differences(self.model, points, logits, (exact, exact_there), y)
        usual = usual_rounding(logits).expand_as(worst)
        seen = believed(seen, worst)
        allowed = allowed_for(margins_of(logits, y), worst, seen, usual, strict=self.strict)
        return allowed.scatter(1, y.cpu()[:, None], 0.0)

    def worst(
        self, x: Tensor, y: Tensor, reach: Tensor, points: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return bounds of how far margins are from exact ones within reach of x.

        points: one within reach of each x. The bounds, on the CPU, are followed by the exact logits
        at x and at these points: (batch, classes) each, float64. A layer of torch's that moves the
        two further apart than its bound allows is not what the bound is of; then nothing is
        bounded. A bound that a module states itself is left to the audit, which is loud.
        """
        value, exact, there = x, x.double(), points.double()
        drift = reach.to(x.device, torch.float64)
        error = torch.zeros_like(drift)
        for part, bound in self.layers.parts:
            # It is run at the value as computed, from which others are so far at most.
            result = run(part, value, exact, drift + 2 * error)
            apart = _apart(exact, there)
            value, exact, there = result.value, result.exact, run_exactly(part, there)
            error = torch.where(error > 0, bound * error, 0.0) + result.ranges.error
            # Written so that NaN fails it.
            kept = _apart(exact, there) <= bound * apart * (1 + 1e-9) + 1e-12 * size(exact)
            if not hasattr(part, "lipschitz_bound"):
                error = error.where(kept | (apart == 0), math.inf)
            drift = torch.where(drift > 0, bound * drift, 0.0).minimum(result.ranges.drift)
        if self.layers.weight is None:
            # Of two logits together.
            worst = (math.sqrt(2) * error)[:, None].expand(len(x), value.shape[1])
            return worst.cpu(), exact, there
        weight = self.layers.weight.detach()
        own = _of_head(weight, self.layers.bias, value, drift + 2 * error).double()
        rows = weight.double()
        between = torch.cdist(rows, rows)[y.to(rows.device)]
        worst = error[:, None] * between * (1 + 1e-9) + own
        worst = worst + own.gather(1, y.to(own.device)[:, None])
        return worst.cpu(), self._head(exact), self._head(there)

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


def _of_head(weight: Tensor, bias: Tensor | None, value: Tensor, around: Tensor) -> Tensor:
    """Return what a linear head's own sums may err by, for inputs within `around` of value."""
    kind = torch.finfo(value.dtype)
    terms = weight.shape[1] + 2
    sizes = value.detach().abs().double() @ weight.abs().double().T
    sizes = sizes + around[:, None] * weight.double().norm(dim=1)
    if bias is not None:
        sizes = sizes + bias.detach().abs().double()
    largest = value.detach().abs().amax(dim=1).double() + around
    flushed = kind.tiny * (weight.double().abs().sum(dim=1) + terms * (1 + largest[:, None]))
    return terms * kind.eps / 2 * sizes * (1 + 1e-9) + flushed
