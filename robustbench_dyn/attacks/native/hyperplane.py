"""The nearest point of a hyperplane inside the box [0, 1]^d, in L2, Linf and L1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.threat_models import Norm

_TINY = 1e-30


def project_onto_hyperplane(x: Tensor, w: Tensor, value: Tensor, norm: Norm) -> Tensor:
    """Return z in [0, 1]^d with value + w.(z - x) = 0 that is nearest to x in the norm.

    x: (rows, d) in [0, 1]; w: (rows, d); value: (rows,), the linear function's value at x. Where
    the hyperplane misses the box, z is the corner that comes nearest to it. Exact, by sorting the
    breakpoints of a piecewise linear equation; the problem of arXiv 1907.02044, eq. 6.
    """
    # The same hyperplane with a largest coefficient of 1: no square of one underflows.
    largest = w.abs().amax(dim=1)
    largest = largest.where(largest > 0, 1)
    w, value = w / largest[:, None], (value / largest).nan_to_num()
    # Each coordinate moves so that |value| falls, by t in [0, room], and gains t |w|.
    direction = -w.sign() * value.sign()[:, None]
    room = torch.where(direction > 0, 1 - x, x)
    gain, needed = w.abs(), value.abs()[:, None]
    if norm == "L1":
        # The coordinates move one after the other to their ends, the steepest first.
        ordered, order = gain.sort(dim=1, descending=True)
        worth = ordered * room.gather(1, order)
        left = needed - (worth.cumsum(dim=1) - worth)
        steps = (left / ordered.clamp_min(_TINY)).clamp_min(0)
        moved = torch.zeros_like(x).scatter(1, order, steps)
    else:
        # t = min(room, lambda * speed): each coordinate moves until it meets the box.
        speed = gain if norm == "L2" else (gain > 0).to(gain.dtype)
        ends, order = (room / speed.clamp_min(_TINY)).sort(dim=1)
        worth = (gain * room).gather(1, order)
        before = worth.cumsum(dim=1) - worth
        slopes = (gain * speed).gather(1, order)
        going = slopes.flip(1).cumsum(dim=1).flip(1)
        reached = before + ends * going
        first = (reached < needed).sum(dim=1, keepdim=True).clamp_max(x.shape[1] - 1)
        before = before.gather(1, first)
        factor = (needed - before) / going.gather(1, first).clamp_min(_TINY)
        moved = factor.clamp(0, torch.finfo(factor.dtype).max) * speed
    return x + direction * torch.minimum(moved, room)
