"""Hamiltonian flows q' = grad K(p), p' = -grad V(q), in symplectic steps."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import Classifier, HamiltonianStep, two_scales
from robustbench_dyn.properties import Invertible, Property, Symplectic, VolumePreserving


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 16,
    depth: int = 3,
    step_size: float = 0.5,
    symmetric: bool = True,
) -> nn.Module:
    """Build two scales of `depth` steps: Stoermer-Verlet if symmetric, else symplectic Euler."""

    def steps(width: int, kernel_size: int) -> list[nn.Module]:
        return [
            HamiltonianStep(
                width, width, kernel_size=kernel_size, step_size=step_size, symmetric=symmetric
            )
            for _ in range(depth)
        ]

    layers, features = two_scales(input_shape, channels, steps)
    return Classifier(nn.Sequential(*layers), nn.Linear(features, n_classes))


def properties(model: nn.Module) -> Iterator[Property]:
    """Claim that each step is symplectic, hence volume-preserving, and invertible."""
    for name, module in model.named_modules():
        if isinstance(module, HamiltonianStep):
            yield Symplectic(name)
            yield VolumePreserving(name)
            yield Invertible(name)
