"""Rules of the contract, and the network that is tested by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import one_line
from robustbench_dyn.models.architectures import Architecture
from robustbench_dyn.models.loading import build_model
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.plugins import Weights
from robustbench_dyn.plugins.contract import Outcome


@dataclass(frozen=True)
class Subject:
    """The network under test, in eval mode on the CPU, and the examples it is tested on.

    weights: with which it is filled; None as it is built from seed 0. data: a few test examples.
    """

    architecture: Architecture
    weights: Weights | None
    data: Dataset
    model: nn.Module

    @property
    def x(self) -> Tensor:
        """The inputs of the test, (n, *input_shape) in [0, 1]."""
        return self.data.x

    def build_another(self) -> nn.Module:
        """Return the same network with other fresh weights, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(12345)
            return build_model(
                self.architecture,
                input_shape=tuple(self.x.shape[1:]),
                n_classes=self.data.n_classes,
                options=dict(self.weights.options) if self.weights else None,
            )

    def described(self) -> str:
        """Say which weights and examples the test uses."""
        weights = "as it is built from seed 0, without trained weights"
        if self.weights is not None:
            variant = f", variant {self.weights.variant}" if self.weights.variant else ""
            weights = f"with {self.weights.file} (sha256 {self.weights.sha256[:12]}){variant}"
        shape = "x".join(map(str, self.x.shape[1:]))
        return (
            f"model {self.architecture.name} {weights}; the first {len(self.x)} test examples of "
            f"{self.data.name}, {shape}, {self.data.n_classes} classes"
        )


class ModelFinding(NamedTuple):
    """Whether a network keeps a rule; holds: None where it could not be tested.

    found: what was seen. expected and remedy: what the rule asks for, and how to mend a network
    that breaks it. witness: an input, (1, *shape), at which a claim does not hold.
    """

    rule: str
    holds: bool | None
    found: str
    expected: str
    remedy: str
    witness: Tensor | None = None


@dataclass(frozen=True)
class ModelRule:
    """A rule, its test, and what to say to those who break it.

    needed: whether the rules after it mean something only where it holds.
    """

    name: str
    expected: str
    remedy: str
    test: Callable[[Subject], Outcome]
    needed: bool = False

    def check(self, subject: Subject) -> ModelFinding:
        """Test the network; what its code raises breaks the rule, but for errors of the machine."""
        try:
            outcome = self.test(subject)
        # The network may be any code.
        except Exception as error:
            if is_machine_error(error):
                raise
            text = one_line(f"{type(error).__name__}: {error}")
            outcome = Outcome(False, f"it raises {text}")
        return ModelFinding(self.name, outcome.holds, outcome.detail, self.expected, self.remedy)


def difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference over the largest entry of either; NaN and infinity as such."""
    size = float(torch.maximum(one.abs().max(), other.abs().max()).clamp_min(1e-30))
    return float((one - other).abs().max()) / size
