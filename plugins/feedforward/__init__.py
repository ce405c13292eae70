"""The classical feedforward network: alternating affine maps and activations, no ODE."""

from functools import partial

from torch import nn

from robustbench_dyn.flows import Classifier, two_scales


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 16,
    depth: int = 2,
    hidden: int = 64,
    strided: bool = False,
) -> nn.Module:
    """Build convolutions with ReLU and one hidden dense layer.

    Two scales of `depth` convolutions that keep the shape. strided: `depth` 4 x 4 convolutions that
    halve height and width instead, the first to `channels` channels and each later one to twice as
    many; few layers keep interval bounds tight.
    """
    if strided:
        layers, features = _strided(input_shape, channels, depth)
    else:
        layers, features = two_scales(input_shape, channels, partial(_same_size, depth))
    dense = [nn.Linear(features, hidden), nn.ReLU()]
    return Classifier(nn.Sequential(*layers, *dense), nn.Linear(hidden, n_classes))


def _same_size(depth: int, width: int, kernel_size: int) -> list[nn.Module]:
    return [
        layer
        for _ in range(depth)
        for layer in (nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2), nn.ReLU())
    ]


def _strided(
    input_shape: tuple[int, int, int], channels: int, depth: int
) -> tuple[list[nn.Module], int]:
    channels_in, height, width = input_shape
    layers: list[nn.Module] = []
    for k in range(depth):
        if height < 2 or width < 2:
            raise ValueError(f"inputs {input_shape} cannot be halved {depth} times; lower depth")
        channels_out = channels * 2**k
        layers += [nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1), nn.ReLU()]
        channels_in, height, width = channels_out, height // 2, width // 2
    return [*layers, nn.Flatten()], channels_in * height * width
