"""The multiplications that relaxing a network takes, estimated from its size alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from robustbench_dyn.certification.bounds.traced_network import parameter_dtype
from robustbench_dyn.certification.network.lowering import to_network
from robustbench_dyn.certification.network.tracer import trace

# Multiplications of a relaxation of one example that take about half a second of one core.
CHEAP = 1e10


class Effort(NamedTuple):
    """What a relaxation of one example takes.

    affine: whether there is nothing to relax, since the network has no activation.
    multiplications: that it takes to bound each neuron of one example from both sides by a linear
    relaxation with its initial slopes, each bound carried back through all before the neuron.
    """

    affine: bool
    multiplications: float

    @property
    def why_dear(self) -> str:
        """The reason why `auto` does not relax the network many times; empty if it is cheap."""
        if self.multiplications <= CHEAP:
            return ""
        return (
            f"relaxing one example may take {self.multiplications:.1e} multiplications, more than "
            f"{CHEAP:.0e}; name the certifier to run it"
        )


def effort_of(model: nn.Module, input_shape: tuple[int, ...]) -> Effort:
    """Trace a model and count; raises CertificateError, naming an operation without a handler."""
    network = to_network(trace(model, input_shape, parameter_dtype(model)), torch.float64)
    bounded = (*network.preactivations, len(network.nodes))
    needed = sum(2 * math.prod(network.shape(k)) * network.n_multiplications(k) for k in bounded)
    return Effort(not network.activations, float(needed))
