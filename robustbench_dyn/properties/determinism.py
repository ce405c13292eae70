"""Determinism and batch independence: without them, verdicts have no meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustbench_dyn.properties.base import Property, relative


@dataclass(frozen=True)
class BatchIndependent(Property):
    """The output for an example does not depend on the rest of its batch, but for rounding.

    Adaptive solvers break this: they choose their step by the error of the whole batch. The defect
    is the largest difference between the output of an example alone and in a batch, of data or of
    noise.
    """

    name: ClassVar[str] = "batch-independent"

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        alone = torch.cat([part(example[None]) for example in x])
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
        crowded = part(torch.cat([x, noise.to(x.device).round()]))[: len(x)]
        return torch.maximum(relative(part(x) - alone, alone), relative(crowded - alone, alone))


@dataclass(frozen=True)
class Deterministic(Property):
    """Two passes give the same bits; the defect is the largest difference."""

    name: ClassVar[str] = "deterministic"

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        return (part(x) - part(x)).flatten(1).abs().amax(dim=1)

    def tolerance(self, part: nn.Module) -> float:
        return 0.0
