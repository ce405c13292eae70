"""The minimum of a linear function over what a threat model allows: a ball within [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.groups import Pick, of_examples
from robustbench_dyn.certification.bounds.inner_products import (
    abs_products,
    box_minimum,
    inner_products,
)
from robustbench_dyn.threat_models import Norm, ThreatModel

_UNIT = 2.0**-53
# How many coefficients are treated at a time: their temporaries stay in the processor's caches.
_BLOCK = 2**19
# Sums of so many gains are added in float64.
_SUMMED = 128
# The least size of coefficients that are told from 0.
_LEAST = {torch.float32: 1e-30, torch.float64: 1e-150}
# To which part the dual variable is found; the minimum loses about the square of it.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-5}
# The search for the dual variable of L2 takes a few steps; after these, what it has found is used.
_MOST_STEPS = 50


class Ball:
    """{x': |x' - x[i]| <= eps, 0 <= x' <= 1} for each example i; all in float64.

    x: (batch, *input_shape) in [0, 1].
    """

    def __init__(self, x: Tensor, threat_model: ThreatModel) -> None:
        self.shape = x.shape[1:]
        self.centre = x.detach().double().flatten(1)
        self.norm: Norm = threat_model.norm
        # Slack for the rounding of `distance`, which says whether a point is in the ball.
        self.eps = threat_model.eps * (1 + 1e-12)
        self.lower = (self.centre - self.eps).clamp_min(0.0)
        self.upper = (self.centre + self.eps).clamp_max(1.0)

    def box(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Return the smallest box around each ball, (batch, *input_shape) twice.

        dtype: of the ends; a narrower one than float64 rounds them outwards.
        """
        lower, upper = self.lower.to(dtype), self.upper.to(dtype)
        inside = torch.full((), torch.inf, dtype=dtype, device=lower.device)
        lower = torch.where(lower > self.lower, torch.nextafter(lower, -inside), lower)
        upper = torch.where(upper < self.upper, torch.nextafter(upper, inside), upper)
        return lower.view(-1, *self.shape), upper.view(-1, *self.shape)

    def minimum(self, rows: Tensor, owners: Tensor) -> Tensor:
        """Return min <rows[k], x'> over the ball of example owners[k], rounded down.

        rows: (n, *input_shape); owners: (n,). Returns (n,), float64, differentiable in rows.
        """
        rows = rows.flatten(1)
        if len(owners) and bool((owners == owners[0]).all()):
            return self.minima(rows[None], of_examples(owners[:1]))[0]
        return self.minima(rows[:, None], of_examples(owners))[:, 0]

    def minima(self, rows: Tensor, pick: Pick) -> Tensor:
        """Return min <rows[g, i], x'> over the ball of each group, rounded down.

        rows: (groups, rows, entries); pick: gives each group its ball, or the part of the inputs
        that its rows depend on. Returns (groups, rows), float64, differentiable in rows.
        Exact up to rounding: coordinate i moves by 0 <= m_i <= max_step_i against the sign of its
        coefficient. For L2 and L1 the value is that of the Lagrangian dual at its best dual
        variable; any dual variable gives a lower bound, so rounding it costs no soundness.
        """
        if self.norm == "Linf":
            return box_minimum(rows, pick(self.lower, 0), pick(self.upper, 0))
        # Half of the box, and by how much the centre is off its middle: torch.where would take as
        # long as all else.
        centre, radius = pick(self.centre, 0), pick((self.upper - self.lower) / 2, 0)
        off = centre - pick((self.lower + self.upper) / 2, 0)
        minima = self._minima_of_l1 if self.norm == "L1" else self._minima_of_l2
        n_rows = max(1, _BLOCK // (rows.element_size() * rows.shape[2]))
        n_groups = max(1, n_rows // rows.shape[1])
        parts = [torch.split(part, n_groups) for part in (rows, centre, radius, off)]
        found = [
            torch.cat([minima(some, *ball) for some in torch.split(block, n_rows, dim=1)], dim=1)
            for block, *ball in zip(*parts, strict=True)
        ]
        return torch.cat(found)

    def _minima_of_l1(self, rows: Tensor, centre: Tensor, radius: Tensor, off: Tensor) -> Tensor:
        """Return the minima of one block of rows, in float64."""
        rows = rows.double()
        size = rows.abs()
        max_step = torch.addcmul(radius[:, None], rows.detach().sign(), off[:, None])
        dual = self._dual_variable(size.detach().flatten(0, 1), max_step.flatten(0, 1))
        dual = dual.view(*rows.shape[:2], 1)
        drop = ((size - dual).clamp_min(0) * max_step).sum(dim=2) + dual[..., 0] * self.eps
        rounding = (rows.shape[2] + 16) * _UNIT * size.detach().sum(dim=2) * (2 + self.eps)
        return inner_products(rows, centre[:, None])[:, 0] - drop - rounding

    def _minima_of_l2(self, rows: Tensor, centre: Tensor, radius: Tensor, off: Tensor) -> Tensor:
        """Return the minima of one block of rows, computed in their dtype."""
        size = rows.abs()
        # Steps, gains and their sums are rounded to the dtype, and products with the centre may be.
        share = (_SUMMED + 16) * torch.finfo(rows.dtype).eps
        # In units of eps, and of the largest coefficient, so that no square overflows.
        radius, off = (radius / self.eps)[:, None], (off / self.eps)[:, None]
        max_step = torch.addcmul(radius.to(rows), rows.detach().sign(), off.to(rows))
        largest = size.detach().amax(dim=2, keepdim=True).clamp_min(_LEAST[rows.dtype])
        part = size.detach() / largest
        scale = self._step_scale(part.float(), max_step.float(), _TOLERANCE[rows.dtype]).to(rows)
        steps = torch.minimum(max_step, scale * part)
        # max of |a| m - m^2 / (2 scale) + eps^2 / (2 scale), at the steps that attain it.
        half = 0.5 * largest / scale
        gains = torch.split((size - half * steps) * steps, _SUMMED, dim=2)
        drop = half[..., 0].double()
        for gain in gains:
            drop = drop + gain.sum(dim=2)
        drop = self.eps * (1 + share) * drop
        rounding = share * (centre[:, None] + self.eps * (radius + off.abs()))
        at_centre = inner_products(rows, centre[:, None])
        return (at_centre - abs_products(size.detach(), rounding))[:, 0] - drop

    def minimiser(self, rows: Tensor, owners: Tensor) -> Tensor:
        """Return points where that minimum is reached up to rounding, (n, *input_shape)."""
        rows = rows.flatten(1)
        size = rows.abs()
        radius, off = (self.upper - self.lower) / 2, self.centre - (self.lower + self.upper) / 2
        max_step = torch.addcmul(radius[owners], rows.sign(), off[owners])
        if self.norm == "Linf":
            steps = max_step
        elif self.norm == "L2":
            part = size / size.amax(dim=1, keepdim=True).clamp_min(_LEAST[size.dtype])
            scale = self._step_scale(part, max_step / self.eps, 1e-12)
            steps = torch.minimum(max_step, scale * self.eps * part)
            # As far as rounding took them out of the ball.
            steps = steps * (self.eps / steps.norm(dim=1, keepdim=True).clamp_min(self.eps))
        else:
            order = size.argsort(dim=1, descending=True)
            spent = max_step.gather(1, order).cumsum(dim=1)
            left = (self.eps - spent + max_step.gather(1, order)).clamp_min(0)
            steps = max_step.minimum(torch.zeros_like(max_step).scatter(1, order, left))
        return (self.centre[owners] - rows.sign() * steps).view(-1, *self.shape)

    def _dual_variable(self, size: Tensor, max_step: Tensor) -> Tensor:
        """Return the dual variable of an L1 budget: the coefficient that exhausts it."""
        order = size.argsort(dim=1, descending=True)
        spent = max_step.gather(1, order).cumsum(dim=1)
        last = (spent < self.eps).sum(dim=1, keepdim=True)
        dual = size.gather(1, order).gather(1, last.clamp_max(size.shape[1] - 1))
        # A budget that is not used up costs nothing.
        return dual.where(last < size.shape[1], 0.0)

    def _step_scale(self, size: Tensor, max_step: Tensor, tolerance: float) -> Tensor:
        """Return t with |min(max_step, t size)|_2 = 1, (..., 1), up to a relative tolerance.

        size: at most 1, and 1 in one coordinate, unless all are 0; max_step: in units of eps.
        The square of this length is a concave function of t^2: the chord through two points below
        the solution leads to a third one. The minimum depends on t to second order, so that few
        digits of t are enough.
        """
        square = size.square().sum(dim=-1, keepdim=True).clamp_min(1e-30).reciprocal()
        before, spent_before = torch.zeros_like(square), torch.zeros_like(square)
        steps = torch.empty_like(size)
        for _ in range(_MOST_STEPS):
            torch.mul(square.sqrt(), size, out=steps)
            torch.minimum(steps, max_step, out=steps)
            spent = steps.square_().sum(dim=-1, keepdim=True)
            left = 1 - spent
            open_ = left > tolerance
            # Where the budget is not used up, t has no limit.
            rise = (spent - spent_before).clamp_min(1e-30)
            change = left * (square - before) / rise
            before = before.where(~open_, square)
            spent_before = spent_before.where(~open_, spent)
            square = torch.where(open_, (square + change).clamp_max(1e30), square)
            if not bool((open_ & (square > before * (1 + tolerance))).any()):
                break
        return square.sqrt()


class Box(Ball):
    """Boxes, each given by its ends, in place of balls of one size.

    lower, upper: (batch, inputs), float64; shape: of one input.
    """

    def __init__(self, lower: Tensor, upper: Tensor, shape: torch.Size) -> None:
        self.shape, self.norm = shape, "Linf"
        self.lower, self.upper = lower, upper
        self.centre = (lower + upper) / 2
        self.eps = float((upper - lower).max()) / 2
