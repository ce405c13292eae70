"""The least value of a linear function over what a threat model allows: a ball within [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_dyn.threat_models import Norm, ThreatModel

_UNIT = 2.0**-53


class Ball:
    """{x': |x' - x[i]| <= eps, 0 <= x' <= 1} for each example i; all in float64.

    x: (batch, *input_shape) in [0, 1].
    """

    def __init__(self, x: Tensor, threat_model: ThreatModel) -> None:
        self.shape = x.shape[1:]
        self.centre = x.detach().double().flatten(1)
        self.norm: Norm = threat_model.norm
        # Whoever measures a distance rounds it too.
        self.eps = threat_model.eps * (1 + 1e-12)
        self.lower = (self.centre - self.eps).clamp_min(0.0)
        self.upper = (self.centre + self.eps).clamp_max(1.0)

    def box(self) -> tuple[Tensor, Tensor]:
        """Return the least box around each ball, (batch, *input_shape) twice."""
        return self.lower.view(-1, *self.shape), self.upper.view(-1, *self.shape)

    def minimum(self, rows: Tensor, owner: Tensor) -> Tensor:
        """Return min <rows[k], x'> over the ball of example owner[k], rounded down.

        rows: (n, *input_shape), float64; owner: (n,). Returns (n,), differentiable in rows.
        Exact up to rounding: coordinate i moves by 0 <= m_i <= cap_i against the sign of its
        coefficient. For L2 and L1 the value is that of the Lagrangian dual at its best multiplier,
        which bounds the minimum from below at any multiplier: rounding it costs no soundness.
        """
        rows = rows.flatten(1)
        size = rows.abs()
        # The distance that each coordinate has before it.
        caps = torch.where(
            rows > 0, (self.centre - self.lower)[owner], (self.upper - self.centre)[owner]
        )
        at_centre = (rows * self.centre[owner]).sum(dim=1)
        if self.norm == "Linf":
            drop = (size * caps).sum(dim=1)
        elif self.norm == "L1":
            price = self._price(size.detach(), caps)
            drop = ((size - price).clamp_min(0) * caps).sum(dim=1) + price[:, 0] * self.eps
        else:
            reach = self._reach(size.detach(), caps)
            moves = torch.minimum(caps, reach * size.detach())
            # max of |a| m - m^2 / (2 reach) + eps^2 / (2 reach), at the moves that attain it.
            half = 0.5 / reach[:, 0]
            drop = (size * moves).sum(dim=1) + half * (self.eps**2 - moves.square().sum(dim=1))
        rounding = (rows.shape[1] + 16) * _UNIT * size.detach().sum(dim=1) * (2 + self.eps)
        return at_centre - drop - rounding

    def minimiser(self, rows: Tensor, owner: Tensor) -> Tensor:
        """Return points where about that minimum is reached, (n, *input_shape)."""
        rows = rows.flatten(1)
        size = rows.abs()
        caps = torch.where(
            rows > 0, (self.centre - self.lower)[owner], (self.upper - self.centre)[owner]
        )
        if self.norm == "Linf":
            moves = caps
        elif self.norm == "L2":
            moves = torch.minimum(caps, self._reach(size, caps) * size)
        else:
            steepest = size.argsort(dim=1, descending=True)
            spent = caps.gather(1, steepest).cumsum(dim=1)
            left = (self.eps - spent + caps.gather(1, steepest)).clamp_min(0)
            moves = caps.minimum(torch.zeros_like(caps).scatter(1, steepest, left))
        return (self.centre[owner] - rows.sign() * moves).view(-1, *self.shape)

    def _price(self, size: Tensor, caps: Tensor) -> Tensor:
        """Return the multiplier of an L1 budget: the gain of the coordinate that exhausts it."""
        order = size.argsort(dim=1, descending=True)
        spent = caps.gather(1, order).cumsum(dim=1)
        last = (spent < self.eps).sum(dim=1, keepdim=True)
        price = size.gather(1, order).gather(1, last.clamp_max(size.shape[1] - 1))
        # A budget that is not used up costs nothing.
        return price.where(last < size.shape[1], 0.0)

    def _reach(self, size: Tensor, caps: Tensor) -> Tensor:
        """Return t with |min(caps, t size)|_2 = eps: each moves t times its coefficient, or all."""
        squares, caps_squared = size.square(), caps.square()
        capped = torch.zeros_like(size, dtype=torch.bool)
        t = torch.zeros_like(size[:, :1])
        # What is at its cap at a t that is too small is so at the right one: t grows to that.
        while True:
            spent = caps_squared.where(capped, 0.0).sum(dim=1, keepdim=True)
            rest = squares.where(~capped, 0.0).sum(dim=1, keepdim=True)
            left = (self.eps**2 - spent).clamp_min(0)
            t = t.maximum((left / rest.clamp_min(1e-300)).sqrt())
            more = (t * size >= caps) & ~capped
            if not more.any():
                return t.clamp(1e-150, 1e150)
            capped |= more
