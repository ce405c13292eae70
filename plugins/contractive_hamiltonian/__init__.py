"""Damped Hamiltonian systems x' = (J - g I) grad H(x) whose explicit Euler steps contract."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from robustbench_dyn.flows import (
    Classifier,
    ContractiveHamiltonianStep,
    ConvContractiveHamiltonianStep,
    DenseContractiveHamiltonianStep,
    UnitRowLinear,
    two_scales,
)
from robustbench_dyn.properties import EnergyDecreasing, LogarithmicNorm, Nonexpansive, Property


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 8,
    terms: int = 48,
    depth: int = 2,
    dense_depth: int = 3,
    angle: float = 0.1,
    bound: float = 1.0,
    activation: str = "tanh",
) -> nn.Module:
    """Build convolutional steps at half and quarter resolution, then dense ones.

    angle: between a step and the gradient; the larger, the more Hamiltonian. bound: of the
    Lipschitz constant of each step. terms: number of terms (hidden units) of each dense potential.
    """
    options: dict[str, Any] = {"angle": angle, "bound": bound, "activation": activation}

    def steps(width: int, kernel_size: int) -> list[nn.Module]:
        return [
            ConvContractiveHamiltonianStep(width, 2 * width, kernel_size=kernel_size, **options)
            for _ in range(depth)
        ]

    layers, features = two_scales(input_shape, channels, steps)
    terms = min(terms, features)
    layers += [
        DenseContractiveHamiltonianStep(features, terms, **options) for _ in range(dense_depth)
    ]
    return Classifier(nn.Sequential(*layers), UnitRowLinear(features, n_classes))


def properties(model: nn.Module) -> Iterator[Property]:
    """Claim that features do not expand, fields contract, and each step lowers H."""
    yield Nonexpansive("features")
    for name, module in model.named_modules():
        if isinstance(module, ContractiveHamiltonianStep):
            yield LogarithmicNorm(name, bound=module.contraction - 1)
            yield EnergyDecreasing(name)
