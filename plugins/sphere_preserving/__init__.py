"""Sphere-preserving flows x' = S(x) x with S(x) skew-symmetric, in Cayley steps."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import Classifier, SphereStep, ZeroPadChannels
from robustbench_dyn.properties import NormPreserving, Property


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    rank: int = 16,
    depth: int = 6,
    step_size: float = 1.0,
    lift: int = 16,
) -> nn.Module:
    """Build `depth` steps on the flattened input; points are lifted to `lift` dimensions."""
    channels, height, width = input_shape
    features, layers = channels * height * width, list[nn.Module]()
    largest_norm = features**0.5
    if height == width == 1:
        layers, features = [ZeroPadChannels(lift)], lift
        rank = min(rank, lift // 2)
    layers.append(nn.Flatten())
    layers += [
        SphereStep(features, rank, step_size=step_size, max_norm=largest_norm) for _ in range(depth)
    ]
    return Classifier(nn.Sequential(*layers), nn.Linear(features, n_classes))


def properties(model: nn.Module) -> Iterator[Property]:
    """Claim that each step preserves the norm."""
    for name, module in model.named_modules():
        if isinstance(module, SphereStep):
            yield NormPreserving(name)
