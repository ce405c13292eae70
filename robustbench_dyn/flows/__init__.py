"""Building blocks of architectures: fields, integrators, and layers with rigorous norm bounds."""

from robustbench_dyn.flows.activations import MaxMin
from robustbench_dyn.flows.contractive import (
    ContractiveHamiltonianStep,
    ConvContractiveHamiltonianStep,
    DenseContractiveHamiltonianStep,
)
from robustbench_dyn.flows.equilibrium import MonotoneEquilibrium
from robustbench_dyn.flows.euler import EulerStep, residual_features
from robustbench_dyn.flows.fields import Autonomous, ConvPotential, NonautonomousConv
from robustbench_dyn.flows.gradient import (
    ConvGradientStep,
    DenseGradientStep,
    GradientStep,
    OrthonormalGradientStep,
)
from robustbench_dyn.flows.integrators import Flow
from robustbench_dyn.flows.linear import (
    AlmostOrthogonalConv,
    AlmostOrthogonalLinear,
    UnitNormConv,
    ZeroPadChannels,
)
from robustbench_dyn.flows.lognorm import LogNormFlow
from robustbench_dyn.flows.mass import FluxField, TransportStep
from robustbench_dyn.flows.multiscale import two_scales
from robustbench_dyn.flows.orthogonal import (
    Orthonormal,
    OrthonormalLinear,
    Rotation,
    ShiftedRotation,
)
from robustbench_dyn.flows.periodic import PeriodicConv
from robustbench_dyn.flows.prototypes import Prototypes
from robustbench_dyn.flows.runge_kutta import (
    ConvRungeKuttaStep,
    DenseRungeKuttaStep,
    RungeKuttaGradientStep,
    circle_radius,
)
from robustbench_dyn.flows.shear import HamiltonianStep, ShearStep
from robustbench_dyn.flows.sphere import SphereField, SphereStep
from robustbench_dyn.flows.switching import NaiveStep, SwitchingPair
from robustbench_dyn.lipschitz.bounds import (
    Classifier,
    UnitRowLinear,
    lipschitz_bound,
    pairwise_lipschitz,
)
from robustbench_dyn.lipschitz.max_affine import AffinePieces, MaxAffine
from robustbench_dyn.lipschitz.norms import conv_norm, matrix_norm
from robustbench_dyn.models.freezing import (
    CachedParametrization,
    frozen_eval,
    trainable_eval,
    trainable_forward,
)

__all__ = [
    "AffinePieces",
    "AlmostOrthogonalConv",
    "AlmostOrthogonalLinear",
    "Autonomous",
    "CachedParametrization",
    "Classifier",
    "ContractiveHamiltonianStep",
    "ConvContractiveHamiltonianStep",
    "ConvGradientStep",
    "ConvPotential",
    "ConvRungeKuttaStep",
    "DenseContractiveHamiltonianStep",
    "DenseGradientStep",
    "DenseRungeKuttaStep",
    "EulerStep",
    "Flow",
    "FluxField",
    "GradientStep",
    "HamiltonianStep",
    "LogNormFlow",
    "MaxAffine",
    "MaxMin",
    "MonotoneEquilibrium",
    "NaiveStep",
    "NonautonomousConv",
    "Orthonormal",
    "OrthonormalGradientStep",
    "OrthonormalLinear",
    "PeriodicConv",
    "Prototypes",
    "Rotation",
    "RungeKuttaGradientStep",
    "ShearStep",
    "ShiftedRotation",
    "SphereField",
    "SphereStep",
    "SwitchingPair",
    "TransportStep",
    "UnitNormConv",
    "UnitRowLinear",
    "ZeroPadChannels",
    "circle_radius",
    "conv_norm",
    "frozen_eval",
    "lipschitz_bound",
    "matrix_norm",
    "pairwise_lipschitz",
    "residual_features",
    "trainable_eval",
    "trainable_forward",
    "two_scales",
]
