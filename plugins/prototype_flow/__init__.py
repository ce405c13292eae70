"""The nearest prototype, attractor of a gradient flow, with the certificate of its own."""

import math
from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import Classifier, Prototypes
from robustbench_dyn.properties import Attracting, EnergyDecreasing, Property


def build(input_shape: tuple[int, int, int], n_classes: int, *, prototypes: int = 200) -> nn.Module:
    """Build a classifier of `prototypes` prototypes a class, points of the input space."""
    features = math.prod(input_shape)
    head = Prototypes(features, n_classes, prototypes=prototypes)
    return Classifier(nn.Sequential(nn.Flatten()), head)


def properties(_model: nn.Module) -> Iterator[Property]:
    """Claim that V decreases along the flow, and that it ends in the basin of the class named."""
    yield EnergyDecreasing("head")
    yield Attracting("head")
