"""Mass-preserving flows x' = S(x) 1 with S(x) skew-symmetric: mass moves between neighbours."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import Classifier, Flow, FluxField, TransportStep, two_scales
from robustbench_dyn.properties import MassPreserving, Property, SimplexPreserving


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 16,
    depth: int = 2,
    n_steps: int = 2,
    duration: float = 1.0,
    method: str = "heun",
    gain: float = 1.0,
    simplex: bool = False,
) -> nn.Module:
    """Build two scales of `depth` flux flows, or, with simplex=True, of steps x+ = P(x) x.

    P(x) has columns that sum to 1 and no negative entry, so that the sum and x >= 0 are preserved.
    """
    in_channels, height, width = input_shape
    mass = float(in_channels * height * width)

    def steps(width: int, kernel_size: int) -> list[nn.Module]:
        if simplex:
            return [
                TransportStep(width, kernel_size=kernel_size, max_entry=mass) for _ in range(depth)
            ]
        fields = [FluxField(width, width, kernel_size=kernel_size, gain=gain) for _ in range(depth)]
        return [Flow(f, method=method, n_steps=n_steps, duration=duration) for f in fields]

    layers, features = two_scales(input_shape, channels, steps)
    return Classifier(nn.Sequential(*layers), nn.Linear(features, n_classes))


def properties(model: nn.Module) -> Iterator[Property]:
    """Claim that each step preserves the sum of the state, and each P(x) the simplex."""
    for name, module in model.named_modules():
        if isinstance(module, (Flow, TransportStep)):
            yield MassPreserving(name)
        if isinstance(module, TransportStep):
            yield SimplexPreserving(name)
