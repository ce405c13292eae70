"""An exponential moving average of the weights, which takes their place at the end of a training.

The average generalises better than the last weights, at no cost in passes (Polyak & Juditsky, SIAM
J. Control Optim. 30, 1992; Izmailov et al., arXiv 1803.05407).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn


class AveragedWeights:
    """The mean of the weights of a network over its steps, recent ones with more weight.

    After step t, the mean keeps its share min(decay, (1 + t) / (10 + t)), so that the first steps
    are soon forgotten. Buffers, and all that is no floating-point number, are those of the last
    step. network: has the mean as its weights; it is on no manifold until retract has mapped it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.network = deepcopy(model).requires_grad_(False)
        self.steps, self._decay = 0, decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        share = 1 - min(self._decay, (1 + self.steps) / (10 + self.steps))
        for mean, parameter in zip(self.network.parameters(), model.parameters(), strict=True):
            mean.lerp_(parameter, share)
        for kept, buffer in zip(self.network.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"steps": self.steps, "network": self.network.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what state_dict returned; raises where it is of another network."""
        if type(state["steps"]) is not int or state["steps"] < 0:
            raise ValueError(f"steps is {state['steps']!r}")
        self.network.load_state_dict(state["network"])
        self.steps = state["steps"]

    def result(self) -> nn.Module:
        """Return a copy with the mean as its weights, mapped to their manifold."""
        network = deepcopy(self.network)
        retract(network)
        return network


def retract(model: nn.Module) -> None:
    """Map weights back to their manifold: call `retract` of each module that has it."""
    for module in model.modules():
        if callable(back := getattr(module, "retract", None)):
            back()
