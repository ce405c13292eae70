"""Properties that architectures claim, and the tests of them."""

from robustbench_dyn.properties.attraction import Attracting
from robustbench_dyn.properties.base import Finding, Property
from robustbench_dyn.properties.check import check_properties, claims_for_all
from robustbench_dyn.properties.convergence import Convergent
from robustbench_dyn.properties.determinism import BatchIndependent, Deterministic
from robustbench_dyn.properties.invariants import (
    AtEquilibrium,
    EnergyDecreasing,
    EquilibriumPreserving,
    Invertible,
    MassPreserving,
    NormPreserving,
    SimplexPreserving,
)
from robustbench_dyn.properties.jacobians import (
    Lipschitz,
    LogarithmicNorm,
    Nonexpansive,
    Symplectic,
    VolumePreserving,
)

__all__ = [
    "AtEquilibrium",
    "Attracting",
    "BatchIndependent",
    "Convergent",
    "Deterministic",
    "EnergyDecreasing",
    "EquilibriumPreserving",
    "Finding",
    "Invertible",
    "Lipschitz",
    "LogarithmicNorm",
    "MassPreserving",
    "Nonexpansive",
    "NormPreserving",
    "Property",
    "SimplexPreserving",
    "Symplectic",
    "VolumePreserving",
    "check_properties",
    "claims_for_all",
]
