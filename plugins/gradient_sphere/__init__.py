"""Alternating gradient flows and sphere-preserving flows: dense in the continuous maps."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import (
    Classifier,
    DenseGradientStep,
    SphereStep,
    ZeroPadChannels,
    lipschitz_bound,
)
from robustbench_dyn.properties import EnergyDecreasing, NormPreserving, Property


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    terms: int = 64,
    rank: int = 12,
    depth: int = 4,
    step_size: float = 1.0,
    lift: int = 16,
) -> nn.Module:
    """Build `depth` pairs of steps on the flattened input; points are lifted to `lift`."""
    channels, height, width = input_shape
    features, layers = channels * height * width, list[nn.Module]()
    if height == width == 1:
        layers, features = [ZeroPadChannels(lift)], lift
        rank, terms = min(rank, lift // 2), min(terms, lift)
    layers.append(nn.Flatten())
    for _ in range(depth):
        layers.append(DenseGradientStep(features, terms))
        layers.append(SphereStep(features, rank, step_size=step_size))
    largest_norm = (channels * height * width) ** 0.5
    return Classifier(Alternating(layers, largest_norm), nn.Linear(features, n_classes))


class Alternating(nn.Sequential):
    """A sequence of layers for inputs of norm at most largest_norm, which its bound needs."""

    def __init__(self, layers: list[nn.Module], largest_norm: float) -> None:
        super().__init__(*layers)
        self.largest_norm = largest_norm

    def lipschitz_bound(self) -> float:
        """Return the product of the bounds of the layers on their reachable states.

        A gradient step is L-Lipschitz and moves the origin by a known distance; the other layers
        preserve norms.
        """
        bound, max_norm = 1.0, self.largest_norm
        for layer in self:
            if isinstance(layer, SphereStep):
                bound *= layer.bound_within(max_norm)
                continue
            layer_bound = lipschitz_bound(layer)
            bound *= layer_bound
            if isinstance(layer, DenseGradientStep):
                origin = layer.weight.new_zeros(1, layer.weight.shape[1])
                shift = float(layer(origin).detach().norm())
                # 1e-4 is far above the rounding errors of float32.
                max_norm = (layer_bound * max_norm + shift) * (1 + 1e-4)
        return bound


def properties(model: nn.Module) -> Iterator[Property]:
    """Claim that potentials decrease and that the other steps keep the norm."""
    for name, module in model.named_modules():
        if isinstance(module, DenseGradientStep):
            yield EnergyDecreasing(name)
        if isinstance(module, SphereStep):
            yield NormPreserving(name)
