"""What architectures are made of: fields, integrators, and operator norms that can be trusted."""

from robustbench_dyn.flows.euler import EulerStep
from robustbench_dyn.flows.frozen import Derived, frozen
from robustbench_dyn.flows.gradient import (
    ConvGradientStep,
    DenseGradientStep,
    GradientStep,
    OrthonormalGradientStep,
)
from robustbench_dyn.flows.linear import UnitRowLinear, ZeroPadChannels
from robustbench_dyn.flows.lipschitz import Classifier, lipschitz_bound, pairwise_lipschitz

__all__ = [
    "Classifier",
    "ConvGradientStep",
    "DenseGradientStep",
    "Derived",
    "EulerStep",
    "GradientStep",
    "OrthonormalGradientStep",
    "UnitRowLinear",
    "ZeroPadChannels",
    "frozen",
    "lipschitz_bound",
    "pairwise_lipschitz",
]
