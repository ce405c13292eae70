"""The minimum of a linear function over what a threat model allows: a ball within [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_dyn.threat_models import Norm, ThreatModel

_UNIT = 2.0**-53
# How many coefficients are treated at a time: their temporaries stay in the processor's caches.
_BLOCK = 2**17
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
        Exact up to rounding: coordinate i moves by 0 <= m_i <= max_step_i against the sign of its
        coefficient. For L2 and L1 the value is that of the Lagrangian dual at its best dual
        variable; any dual variable gives a lower bound, so rounding it costs no soundness.
        """
        rows = rows.flatten(1)
        n_rows = max(1, _BLOCK // rows.shape[1])
        blocks = zip(torch.split(rows, n_rows), torch.split(owners, n_rows), strict=True)
        return torch.cat([self._minimum(block.double(), some) for block, some in blocks])

    def _minimum(self, rows: Tensor, owners: Tensor) -> Tensor:
        """Return the minima of one block of rows, (n, inputs), float64."""
        size = rows.abs()
        max_step = self._max_step(rows, owners)
        at_centre = (rows * self.centre[owners]).sum(dim=1)
        if self.norm == "Linf":
            drop = (size * max_step).sum(dim=1)
        elif self.norm == "L1":
            dual = self._dual_variable(size.detach(), max_step)
            drop = ((size - dual).clamp_min(0) * max_step).sum(dim=1) + dual[:, 0] * self.eps
        else:
            scale = self._step_scale(size.detach(), max_step, torch.float32)
            steps = torch.minimum(max_step, scale * size.detach())
            # max of |a| m - m^2 / (2 scale) + eps^2 / (2 scale), at the steps that attain it.
            half = 0.5 / scale[:, 0]
            drop = (size * steps).sum(dim=1) + half * (self.eps**2 - steps.square().sum(dim=1))
        rounding = (rows.shape[1] + 16) * _UNIT * size.detach().sum(dim=1) * (2 + self.eps)
        return at_centre - drop - rounding

    def minimiser(self, rows: Tensor, owners: Tensor) -> Tensor:
        """Return points where that minimum is reached up to rounding, (n, *input_shape)."""
        rows = rows.flatten(1)
        size = rows.abs()
        max_step = self._max_step(rows, owners)
        if self.norm == "Linf":
            steps = max_step
        elif self.norm == "L2":
            scale = self._step_scale(size, max_step, torch.float64)
            steps = torch.minimum(max_step, scale * size)
            # As far as rounding took them out of the ball.
            steps = steps * (self.eps / steps.norm(dim=1, keepdim=True).clamp_min(self.eps))
        else:
            order = size.argsort(dim=1, descending=True)
            spent = max_step.gather(1, order).cumsum(dim=1)
            left = (self.eps - spent + max_step.gather(1, order)).clamp_min(0)
            steps = max_step.minimum(torch.zeros_like(max_step).scatter(1, order, left))
        return (self.centre[owners] - rows.sign() * steps).view(-1, *self.shape)

    def _max_step(self, rows: Tensor, owners: Tensor) -> Tensor:
        """Return how far each coordinate can move against the sign of its coefficient."""
        # Half of the box, and by how much the centre is off its middle: torch.where would take as
        # long as all else.
        radius, off = (self.upper - self.lower) / 2, self.centre - (self.lower + self.upper) / 2
        return torch.addcmul(radius[owners], rows.detach().sign(), off[owners])

    def _dual_variable(self, size: Tensor, max_step: Tensor) -> Tensor:
        """Return the dual variable of an L1 budget: the coefficient that exhausts it."""
        order = size.argsort(dim=1, descending=True)
        spent = max_step.gather(1, order).cumsum(dim=1)
        last = (spent < self.eps).sum(dim=1, keepdim=True)
        dual = size.gather(1, order).gather(1, last.clamp_max(size.shape[1] - 1))
        # A budget that is not used up costs nothing.
        return dual.where(last < size.shape[1], 0.0)

    def _step_scale(self, size: Tensor, max_step: Tensor, dtype: torch.dtype) -> Tensor:
        """Return t with |min(max_step, t size)|_2 = eps, up to the rounding of dtype.

        The minimum depends on t to second order, so that float32 is fine enough for it.
        """
        # In units of the largest coefficient and of eps, so that no square overflows.
        largest = size.amax(dim=1, keepdim=True).clamp_min(1e-150)
        size, max_step = (size / largest).to(dtype), (max_step / self.eps).to(dtype)
        tolerance = 8 * torch.finfo(dtype).eps
        squares = size.square()
        t = squares.sum(dim=1, keepdim=True).clamp_min(1e-30).rsqrt()
        # Coordinates that are capped at a smaller t stay capped at the solution: t only increases.
        for _ in range(_MOST_STEPS):
            steps = t * size
            free = (steps < max_step).to(size)
            rest = (squares * free).sum(dim=1, keepdim=True)
            spent = torch.minimum(steps, max_step).square().sum(dim=1, keepdim=True)
            left = 1 - (spent - t.square() * rest)
            # Where the budget is not used up, t has no limit.
            new = (left.clamp_min(0) / rest.clamp_min(1e-30)).sqrt().maximum(t).clamp_max(1e15)
            settled = bool((new <= t * (1 + tolerance)).all())
            t = new
            if settled:
                break
        return t.double() * (self.eps / largest)


class Box(Ball):
    """Boxes, each given by its ends, in place of balls of one size.

    lower, upper: (batch, inputs), float64; shape: of one input.
    """

    def __init__(self, lower: Tensor, upper: Tensor, shape: torch.Size) -> None:
        self.shape, self.norm = shape, "Linf"
        self.lower, self.upper = lower, upper
        self.centre = (lower + upper) / 2
        self.eps = float((upper - lower).max()) / 2
