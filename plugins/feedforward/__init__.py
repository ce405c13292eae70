"""Affine maps and activations in turn: the classical network, and no dynamical system."""

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

    Two scales of `depth` convolutions that keep the shape; or, strided, `depth` of 4 x 4 that halve
    height and width, the first to `channels` channels and each other one to twice as many: the few
    layers that interval bounds can follow.
    """
    if strided:
        trunk, features = _strided(input_shape, channels, depth)
    else:
        trunk, features = two_scales(input_shape, channels, partial(_same_size, depth))
    dense = [nn.Linear(features, hidden), nn.ReLU()]
    return Classifier(nn.Sequential(*trunk, *dense), nn.Linear(hidden, n_classes))


def _same_size(depth: int, width: int, kernel_size: int) -> list[nn.Module]:
    return [
        layer
        for _ in range(depth)
        for layer in (nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2), nn.ReLU())
    ]


def _strided(
    input_shape: tuple[int, int, int], channels: int, depth: int
) -> tuple[list[nn.Module], int]:
    width, height, across = input_shape
    layers: list[nn.Module] = []
    for k in range(depth):
        if height < 2 or across < 2:
            raise ValueError(f"inputs {input_shape} cannot be halved {depth} times; lower depth")
        wider = channels * 2**k
        layers += [nn.Conv2d(width, wider, 4, stride=2, padding=1), nn.ReLU()]
        width, height, across = wider, height // 2, across // 2
    return [*layers, nn.Flatten()], width * height * across
