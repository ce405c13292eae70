"""The plain residual network, explicit Euler steps x + h f(x) of fields without constraints."""

from torch import nn

from robustbench_dyn.flows import Classifier, residual_features


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 16,
    depth: int = 2,
    step_size: float = 0.5,
) -> nn.Module:
    """Build scales of `depth` Euler steps; f(x) = B relu(A x + b), the classical block."""
    layers, features = residual_features(
        input_shape, channels=channels, depth=depth, step_size=step_size
    )
    return Classifier(nn.Sequential(*layers), nn.Linear(features, n_classes))
