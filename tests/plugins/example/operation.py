"""Operation atan: the arctangent, which interval bounds and relaxations then know."""

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import ClosedFormActivation
from robustbench_dyn.certification.network.graph import Node
from robustbench_dyn.certification.network.operations import OperationContext


class Arctangent(ClosedFormActivation):
    """Increasing, convex below 0 and concave above it; linear bounds follow from what is here."""

    secant_upper = False

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return torch.atan(z)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        return 1 / (1 + z.square())

    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return +-z with f'(z) = slope: f(z) - slope z has its extrema there or at the ends."""
        z = (1 / slope.clamp(1e-16, 1) - 1).sqrt()
        return [z, -z]


def atan(context: OperationContext) -> Node:
    """Return the node of a traced arctangent."""
    return context.pointwise(Arctangent())


OPERATIONS = {"atan": atan}
