"""Affine maps and activations in turn: the classical network, and no dynamical system."""

from torch import nn

from robustbench_dyn.flows import Classifier, two_scales


def build(
    input_shape: tuple[int, int, int], n_classes: int, *, channels: int = 16, depth: int = 2
) -> nn.Module:
    """Build scales of `depth` convolutions with ReLU, and one hidden dense layer."""

    def layers(width: int, kernel_size: int) -> list[nn.Module]:
        return [
            layer
            for _ in range(depth)
            for layer in (nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2), nn.ReLU())
        ]

    trunk, features = two_scales(input_shape, channels, layers)
    hidden = [nn.Linear(features, 64), nn.ReLU()]
    return Classifier(nn.Sequential(*trunk, *hidden), nn.Linear(64, n_classes))
