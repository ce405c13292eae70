"""Operation hardtanh: min(max(z, -1), 1), which interval bounds and relaxations then know."""

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import Activation
from robustbench_dyn.certification.network.graph import Node
from robustbench_dyn.certification.network.operations import OperationContext


class HardTanh(Activation):
    """Increasing, convex below 0 and concave above it; linear bounds follow from what is here."""

    secant_upper = False
    piecewise_linear = True

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return z.clamp(-1, 1)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        return (z.abs() < 1).to(z)

    def critical_points(self, slope: Tensor) -> list[Tensor]:
        """Return the kinks: f(z) - slope z has its extrema there or at the ends."""
        return [torch.ones_like(slope), -torch.ones_like(slope)]


def hardtanh(context: OperationContext) -> Node:
    """Return the node of a traced hardtanh; refuse other ends than -1 and 1."""
    if tuple(context.args[1:]) not in ((), (-1, 1)):
        raise context.refuse(f" with ends {context.args[1:]}")
    return context.pointwise(HardTanh())


OPERATIONS = {"hardtanh": hardtanh}
