"""The margins that a search is about, by example."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Margins(NamedTuple):
    """Linear functions of the logits that are to exceed thresholds, a few for each example.

    coefficients: (examples, margins, classes), float64. thresholds: (examples, margins), float64.
    exists: of the same shape, bool: an example may have fewer than others. objective: of the
    same shape, which one each is, of those that were given.
    """

    coefficients: Tensor
    thresholds: Tensor
    exists: Tensor
    objective: Tensor

    @classmethod
    def of(
        cls, objectives: Tensor, thresholds: Tensor, example: Tensor, n_examples: int
    ) -> Margins:
        """Put objectives into order; (n, classes), (n,) and (n,)."""
        counts = torch.bincount(example, minlength=n_examples)
        slots = torch.arange(int(counts.max()), device=example.device)
        exists = slots < counts[:, None]
        index = torch.zeros_like(exists, dtype=torch.long)
        index[exists] = example.argsort(stable=True)
        return cls(objectives[index], thresholds[index], exists, index)

    @property
    def aims(self) -> Tensor:
        """Where the search for a bound may stop, so that its own rounding cannot matter."""
        return self.thresholds + 1e-6 * (1 + self.thresholds.abs())

    @property
    def limits(self) -> Tensor:
        """What the margin of a counterexample is at most."""
        return self.thresholds.clamp_max(0)
