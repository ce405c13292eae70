"""An orthogonal convolutional network: the 1-Lipschitz baseline without residual connections."""

from collections.abc import Iterator

import torch
from orthogonium.layers import AdaptiveOrthoConv2d, OrthoLinear
from orthogonium.model_factory.classparam import ClassParam
from orthogonium.reparametrizers import BatchedIdentity, BatchedQROrthogonalization, OrthoParams
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.flows import (
    CachedParametrization,
    Classifier,
    MaxMin,
    Prototypes,
    UnitRowLinear,
    conv_norm,
    matrix_norm,
)
from robustbench_dyn.properties import Nonexpansive, Property

# QR has no state that a forward pass changes, is exact up to rounding, and is ten times as fast as
# the library's default, Bjorck's iteration.
_BY_QR = OrthoParams(
    spectral_normalizer=BatchedIdentity,
    orthogonalizer=ClassParam(BatchedQROrthogonalization),
)


class OrthogonalConv(CachedParametrization):
    """An orthogonal convolution of orthogonium (AOC, arXiv 2501.07930) with circular padding.

    The kernel is computed in float32 even under autocast, and once while the network is frozen. Its
    bound is computed from the kernel, and does not rely on the library's orthogonality.
    """

    def __init__(self, n_in: int, n_out: int, *, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.layer = AdaptiveOrthoConv2d(
            n_in, n_out, kernel_size, stride=stride, padding=0, ortho_params=_BY_QR
        )
        self.stride = (stride, stride)
        margin = kernel_size - stride
        self.margins = (margin // 2, margin - margin // 2) * 2

    def compute(self) -> Tensor:
        """Return the kernel, (out, in, kernel_size, kernel_size)."""
        with torch.autocast(self.layer.bias.device.type, enabled=False):
            kernel: Tensor = self.layer.weight
        return kernel

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, out, h / stride, w / stride)."""
        padded = F.pad(x, self.margins, mode="circular")
        return F.conv2d(padded, self.value(), self.layer.bias, stride=self.stride)

    def lipschitz_bound(self) -> float:
        """Return a bound of the norm of the convolution with this kernel."""
        return conv_norm(self.value(), stride=self.stride)


class OrthogonalLinear(CachedParametrization):
    """A dense layer of orthogonium with orthonormal rows or columns; see OrthogonalConv."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.layer = OrthoLinear(n_in, n_out, ortho_params=_BY_QR)

    def compute(self) -> Tensor:
        """Return the matrix, (n_out, n_in)."""
        with torch.autocast(self.layer.bias.device.type, enabled=False):
            weight: Tensor = self.layer.weight
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, n_in) to (batch, n_out)."""
        return F.linear(x, self.value(), self.layer.bias)

    def lipschitz_bound(self) -> float:
        """Return a bound of the norm of this matrix."""
        return matrix_norm(self.value())


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 32,
    features: int = 512,
    dense_depth: int = 2,
    prototypes: int = 0,
) -> nn.Module:
    """Build the network "Large" of BCOP (Li et al., arXiv 1911.00937), with MaxMin between layers.

    Images: two 3 x 3 convolutions to `channels`, then a 4 x 4 convolution of stride 2 and a 3 x 3
    one to twice as many. Points, with H = W = 1: no convolutions. Then dense_depth dense layers to
    `features`. Height and width must be divisible by 4. prototypes: number of prototypes a class in
    the head, points among the features; 0 for a linear head.
    """
    n_in, height, width = input_shape
    layers = list[nn.Module]()
    if height > 1:
        if height % 4 or width % 4:
            raise ValueError(f"inputs {input_shape} need height and width divisible by 4")
        layers.append(nn.PixelUnshuffle(2))
        n_in = 4 * n_in
        for n_out, stride in ((channels, 1), (channels, 1), (2 * channels, 2), (2 * channels, 1)):
            layers += [OrthogonalConv(n_in, n_out, kernel_size=2 + stride, stride=stride), MaxMin()]
            n_in = n_out
        height, width = height // 4, width // 4
    layers.append(nn.Flatten())
    length = n_in * height * width
    for _ in range(dense_depth):
        layers += [OrthogonalLinear(length, features), MaxMin()]
        length = features
    head = (
        Prototypes(length, n_classes, prototypes=prototypes)
        if prototypes
        else UnitRowLinear(length, n_classes)
    )
    return Classifier(nn.Sequential(*layers), head)


def properties(_model: nn.Module) -> Iterator[Property]:
    """Claim that the features, all layers before the head, are nonexpansive."""
    yield Nonexpansive("features")
