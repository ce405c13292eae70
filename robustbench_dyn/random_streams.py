"""Counter-based random numbers with a stream for each example, independent of the others."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# The constants of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
# Counters are so far apart that the entries of one draw have states of their own in between.
_COUNTER_STRIDE = 2**32
# Entries drawn at once: on a CPU few enough to stay in its cache from one operation to the next.
_AT_ONCE_ON_CPU, _AT_ONCE = 2**17, 2**25


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
        return self._draw(counter, shape, lambda part: part.uniform(0))

    def signs(self, counter: Tensor | int, *shape: int) -> Tensor:
        """Draw -1 or 1: (rows, *shape) float32."""
        return self._draw(counter, shape, lambda part: part.bits(0).bitwise_and_(1).float() * 2 - 1)

    def integers(self, counter: Tensor | int, high: Tensor | int) -> Tensor:
        """Draw from 0 ... high - 1: (rows,) int64; high: an integer or (rows,), at least 1."""
        bits = _Part.of(self.keys, counter, 1).bits(0)[:, 0].bitwise_and_(2**31 - 1)
        return (bits * high).div(2**31, rounding_mode="floor")

    def normal(self, counter: Tensor | int, *shape: int) -> Tensor:
        """Draw standard normals by the Box-Muller transform: (rows, *shape) float32."""
        return self._draw(counter, shape, _Part.normal)

    def _draw(
        self, counter: Tensor | int, shape: tuple[int, ...], kind: Callable[[_Part], Tensor]
    ) -> Tensor:
        rows, entries = len(self.keys), math.prod(shape)
        counters = (self.keys.new_ones(()) * counter).expand(rows)
        at_once = _AT_ONCE_ON_CPU if self.keys.device.type == "cpu" else _AT_ONCE
        step = max(1, at_once // max(1, entries))
        drawn = torch.empty(rows, entries, device=self.keys.device)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            drawn[part] = kind(_Part.of(self.keys[part], counters[part], entries))
        return drawn.reshape(rows, *shape)


class _Part(NamedTuple):
    """Some rows of a draw. starts: (rows, 1) int64, the states of their first entries."""

    starts: Tensor
    entries: int

    @classmethod
    def of(cls, keys: Tensor, counter: Tensor | int, entries: int) -> _Part:
        ahead = keys.new_ones(()) * counter * _COUNTER_STRIDE * _GOLDEN
        return cls((keys + ahead)[:, None], entries)

    def bits(self, first: int) -> Tensor:
        """Return 64 random bits for each of the entries from `first` on: (rows, entries)."""
        offsets = torch.arange(first, first + self.entries, device=self.starts.device)
        return _mix(self.starts + offsets * _GOLDEN)

    def uniform(self, first: int) -> Tensor:
        # 24 bits: every multiple of 2^-24 in [0, 1) is a float32.
        return self.bits(first).bitwise_and_(2**24 - 1).float().div_(2**24)

    def normal(self) -> Tensor:
        # 1 - u lies in (0, 1].
        radius = self.uniform(0).neg_().add_(1).log_().mul_(-2).sqrt_()
        return radius.mul_(self.uniform(self.entries).mul_(2 * math.pi).cos_())


def _mix(z: Tensor) -> Tensor:
    """Put SplitMix64's finalizer of z into z; int64 products wrap modulo 2^64, as it requires."""
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        z.bitwise_xor_(_shift_right(z, shift)).mul_(multiplier)
    return z.bitwise_xor_(_shift_right(z, 31))


def _shift_right(z: Tensor, by: int) -> Tensor:
    # torch shifts signed integers arithmetically; a logical shift has zeros above.
    return (z >> by).bitwise_and_(2 ** (64 - by) - 1)
