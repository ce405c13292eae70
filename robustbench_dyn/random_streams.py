"""Counter-based random numbers with a stream for each example, independent of the others."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

# The constants of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
# Counters are so far apart that the entries of one draw have states of their own in between.
_COUNTER_STRIDE = 2**32


class Streams(NamedTuple):
    """One random stream a row; a draw is a function of the row's key and a counter alone.

    keys: (rows,) int64. counter: an integer, or (rows,) of them. Draws of two counters are
    independent, and the same counter gives the same draw again.
    """

    keys: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, seed: int) -> Streams:
        """Make the key of each row from its content, x (rows, ...) and y (rows,), and the seed."""
        contents = zip(x.detach().cpu().contiguous(), y.tolist(), strict=True)
        digests = [
            hashlib.sha256(f"{seed} {label} ".encode() + row.numpy().tobytes()).digest()
            for row, label in contents
        ]
        keys = [int.from_bytes(digest[:8], "big", signed=True) for digest in digests]
        return cls(torch.tensor(keys, dtype=torch.int64, device=x.device))

    def select(self, rows: Tensor) -> Streams:
        """Return the streams of some rows; rows: indices, which may repeat, or a mask."""
        return Streams(self.keys[rows])

    def substream(self, stream_id: Tensor | int) -> Streams:
        """Return independent streams for another purpose; stream_id: an integer or (rows,)."""
        return Streams(_mix(self.keys ^ _mix(self.keys.new_ones(()) * stream_id)))

    def uniform(self, counter: Tensor | int, *shape: int) -> Tensor:
        """Draw from [0, 1): (rows, *shape) float32."""
        # 24 bits: every multiple of 2^-24 in [0, 1) is a float32.
        return self._bits(counter, *shape).bitwise_and(2**24 - 1).float() / 2**24

    def signs(self, counter: Tensor | int, *shape: int) -> Tensor:
        """Draw -1 or 1: (rows, *shape) float32."""
        return self._bits(counter, *shape).bitwise_and(1).float() * 2 - 1

    def integers(self, counter: Tensor | int, high: Tensor | int) -> Tensor:
        """Draw from 0 ... high - 1: (rows,) int64; high: an integer or (rows,), at least 1."""
        return (self._bits(counter).bitwise_and(2**31 - 1) * high).div(2**31, rounding_mode="floor")

    def normal(self, counter: Tensor | int, *shape: int) -> Tensor:
        """Draw standard normals by the Box-Muller transform: (rows, *shape) float32."""
        pair = self.uniform(counter, 2, *shape)
        # 1 - u lies in (0, 1].
        radius = (-2 * (1 - pair[:, 0]).log()).sqrt()
        return radius * (2 * math.pi * pair[:, 1]).cos()

    def _bits(self, counter: Tensor | int, *shape: int) -> Tensor:
        offsets = torch.arange(math.prod(shape), device=self.keys.device).reshape(1, *shape)
        start = (self.keys.new_ones(()) * counter * _COUNTER_STRIDE).expand(len(self.keys))
        ends = (len(self.keys), *[1] * len(shape))
        state = self.keys.reshape(ends) + (start.reshape(ends) + offsets) * _GOLDEN
        return _mix(state).reshape(len(self.keys), *shape)


def _mix(z: Tensor) -> Tensor:
    """Return SplitMix64's finalizer of z; int64 products wrap modulo 2^64, as it requires."""
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        z = (z ^ _shift_right(z, shift)) * multiplier
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, by: int) -> Tensor:
    # torch shifts signed integers arithmetically; a logical shift has zeros above.
    return (z >> by).bitwise_and(2 ** (64 - by) - 1)
