"""Passes, seconds and memory that the stages of an evaluation took."""

from __future__ import annotations

import sys
from dataclasses import astuple, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class StageCost:
    """The cost of one stage: examples that came in and were decided, passes, seconds.

    stage: "certify" or an attack's name.
    """

    eps: float
    stage: str
    examples: int = 0
    decided: int = 0
    forward_passes: int = 0
    backward_passes: int = 0
    seconds: float = 0.0

    def __add__(self, other: StageCost) -> StageCost:
        """Return what both took together, of one stage at one eps."""
        return replace(
            self,
            examples=self.examples + other.examples,
            decided=self.decided + other.decided,
            forward_passes=self.forward_passes + other.forward_passes,
            backward_passes=self.backward_passes + other.backward_passes,
            seconds=self.seconds + other.seconds,
        )

    def values(self) -> tuple[Any, ...]:
        """Return all values, in the order of the fields."""
        return astuple(self)


def peak_memory_mb() -> float:
    """Return the most memory that this process has held, in MiB; of the GPU where it used one."""
    import torch  # noqa: PLC0415  (the store counts costs, and is light)

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource  # noqa: PLC0415  (Windows has none)

    # Linux counts in KiB, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
