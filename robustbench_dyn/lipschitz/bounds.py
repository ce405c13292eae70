"""The L2 Lipschitz bound of a network, composed from rigorous bounds of its parts."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.errors import CertificateError
from robustbench_dyn.lipschitz.as_written import (
    check_as_written,
    check_as_written_alone,
    is_as_written,
)
from robustbench_dyn.lipschitz.norms import conv_norm, matrix_norm
from robustbench_dyn.models.freezing import CachedParametrization


class UnitRowLinear(CachedParametrization):
    """A linear head whose rows have unit norm, so that each logit by itself is 1-Lipschitz.

    Not spectrally 1-Lipschitz: certificates use the norms of differences of rows.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.orthogonal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def compute(self) -> Tensor:
        """Return the rows divided by their norms, (out_features, in_features)."""
        return F.normalize(self.weight, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_features) to logits, (batch, out_features)."""
        return F.linear(x, self.value(), self.bias)


class Classifier(nn.Module):
    """Features followed by a linear head: logits = head(features(x)), (batch, classes).

    The head is an nn.Linear or a UnitRowLinear, whose split from the features lets a certificate
    use the differences of its rows, or a module with a lipschitz_bound() of its own.
    """

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, classes)."""
        return cast(Tensor, self.head(self.features(x)))

    def lipschitz_bound(self) -> float:
        """Return Lip(features) |head|; certificates use pairwise_lipschitz, which is sharper."""
        features = lipschitz_bound(self.features)
        if _bounds_itself(self.head):
            return features * lipschitz_bound(self.head)
        return features * matrix_norm(head_weight(self.head))


def lipschitz_bound(module: nn.Module) -> float:
    """Return an upper bound on module's L2 Lipschitz constant, in eval mode.

    A module that knows its own constant has a method lipschitz_bound(); torch's own layers are
    listed below. A bound holds for the class that it was written for: weights that hooks of torch
    compute are brought up to date first, and any other hook or override is refused.
    Raises CertificateError, naming the module, where no bound is known.
    """
    owner = owner_of_bound(module)
    if owner is nn.Sequential:
        check_as_written_alone(module)
    elif owner is not None:
        check_as_written(module)
    if owner is None or not is_as_written(type(module), owner):
        raise CertificateError(
            f"no Lipschitz bound is known for {type(module).__name__}; "
            "give it a method lipschitz_bound() -> float, or choose another certifier"
        )
    own = getattr(module, "lipschitz_bound", None)
    return float(own()) if own is not None else _layer_bound(module)


def owner_of_bound(module: object) -> type | None:
    """Return the class whose forward a bound of module speaks of; None where there is no bound."""
    if "lipschitz_bound" in getattr(module, "__dict__", {}):
        return type(module)
    for kind in type(module).__mro__:
        if "lipschitz_bound" in vars(kind) or (
            kind is not object and kind in _layer_bound.registry
        ):
            return kind
    return None


@singledispatch
def _layer_bound(module: object) -> float:
    raise NotImplementedError


@_layer_bound.register(nn.Identity)
@_layer_bound.register(nn.Flatten)
@_layer_bound.register(nn.PixelShuffle)
@_layer_bound.register(nn.PixelUnshuffle)
def _isometry(module: nn.Module) -> float:
    return 1.0


@_layer_bound.register(nn.Hardtanh)
@_layer_bound.register(nn.ReLU)
@_layer_bound.register(nn.ReLU6)
@_layer_bound.register(nn.Tanh)
def _slopes_up_to_one(module: nn.Module) -> float:
    return 1.0


@_layer_bound.register
def _(module: nn.LeakyReLU) -> float:
    return max(1.0, abs(module.negative_slope))


@_layer_bound.register
def _(module: nn.PReLU) -> float:
    return max(1.0, float(module.weight.detach().abs().max()))


@_layer_bound.register
def _(module: nn.AvgPool2d) -> float:
    kernel, stride = module.kernel_size, module.stride
    if kernel != stride or not isinstance(kernel, int):
        raise CertificateError("AvgPool2d has a known bound only where stride equals kernel_size")
    # Windows across the border are not means of k^2 entries.
    if module.padding != 0 or module.ceil_mode:
        raise CertificateError("AvgPool2d has a known bound only without padding")
    # k x k windows do not overlap, and the sum of k^2 entries has norm k.
    return kernel / abs(module.divisor_override or kernel**2)


@_layer_bound.register
def _(module: nn.MaxPool2d) -> float:
    """Return the root of how many windows an entry may lie in; 1 where they do not overlap.

    The maximum over one window W is 1-Lipschitz in the largest difference there: |max a - max b|
    <= max |a - b| <= |a - b|_W, the L2 norm over W. The squares of the right-hand sides add up to
    at most |a - b|^2 times the number of windows. Along an axis an entry t lies in the windows i
    with t = i s + j d: every s / gcd(s, d) th place j of a window fits.
    """
    kernel, stride, dilation = (
        _pair(n) for n in (module.kernel_size, module.stride, module.dilation)
    )
    overlaps = (
        math.ceil(k * math.gcd(s, d) / s) for k, s, d in zip(kernel, stride, dilation, strict=True)
    )
    n = math.prod(overlaps)
    root = math.isqrt(n)
    return float(root) if root**2 == n else math.nextafter(math.sqrt(n), math.inf)


def _pair(n: int | tuple[int, ...]) -> tuple[int, ...]:
    return n if isinstance(n, tuple) else (n, n)


@_layer_bound.register
def _(module: nn.Linear) -> float:
    return matrix_norm(module.weight)


@_layer_bound.register(nn.Conv2d)
@_layer_bound.register(nn.ConvTranspose2d)
def _convolution(module: nn.Conv2d | nn.ConvTranspose2d) -> float:
    if module.padding_mode != "zeros" or module.groups != 1 or module.dilation != (1, 1):
        raise CertificateError(
            f"{type(module).__name__} has a known bound only with zero padding and one group"
        )
    return conv_norm(module.weight, stride=(module.stride[0], module.stride[1]))


@_layer_bound.register
def _(module: nn.Sequential) -> float:
    return math.prod(bound for _, bound in parts_in_a_row(module))


def parts_in_a_row(module: nn.Module) -> list[tuple[nn.Module, float]]:
    """Return modules that module applies one after another, each with its Lipschitz bound.

    Raises CertificateError where one has no known bound.
    """
    if not _is_row(module):
        return [(module, lipschitz_bound(module))]
    check_as_written_alone(module)
    # A part may stand in it twice.
    parts = cast(nn.Sequential, module)
    return [pair for part in parts for pair in parts_in_a_row(part)]


def _is_row(module: nn.Module) -> bool:
    """Say whether a module is a Sequential that a bound is known for by its parts."""
    owner = owner_of_bound(module)
    return owner is nn.Sequential and is_as_written(type(module), nn.Sequential)


class Layers(NamedTuple):
    """A network as parts in a row, and a linear head of this weight, (classes, features).

    weight and bias are None where the last part gives the logits.
    """

    parts: list[tuple[nn.Module, float]]
    weight: Tensor | None
    bias: Tensor | None

    @property
    def bound(self) -> float:
        """An upper bound on the L2 Lipschitz constant of all parts together."""
        return math.prod(bound for _, bound in self.parts)

    def pairwise(self) -> Tensor:
        """Return upper bounds on the Lipschitz constants of all logit differences F_i - F_j.

        Returns (classes, classes), float64, on the CPU: Lip(features) |w_i - w_j|_2 with a linear
        head; otherwise (1, 1), sqrt(2) Lip(F) (arXiv 1802.04034), which does not tell pairs apart.
        """
        if self.weight is None:
            return torch.full((1, 1), 2**0.5 * self.bound, dtype=torch.float64)
        weight = self.weight.detach().double().cpu()
        distances = (weight[:, None, :] - weight[None, :, :]).square().sum(dim=2).sqrt()
        return self.bound * distances * (1.0 + 1e-12)


def layers_of(model: nn.Module) -> Layers:
    """Return a network's layers; raises CertificateError where a part has no known bound."""
    features, head = _split(model)
    if features is None:
        return Layers(parts_in_a_row(head), None, None)
    weight = head_weight(head)
    return Layers(parts_in_a_row(features), weight, cast("Tensor | None", head.bias))


def pairwise_lipschitz(model: nn.Module) -> Tensor:
    """Return upper bounds on the Lipschitz constants of all logit differences F_i - F_j.

    Returns (classes, classes) or (1, 1), float64, on the CPU; see Layers.pairwise. Raises
    CertificateError where a part has no known bound.
    """
    return layers_of(model).pairwise()


def head_weight(head: nn.Module) -> Tensor:
    """Return the matrix that a linear head multiplies with, (classes, features)."""
    for kind in (UnitRowLinear, nn.Linear):
        if isinstance(head, kind) and is_as_written(type(head), kind):
            check_as_written(head)
            return head.value() if isinstance(head, UnitRowLinear) else head.weight
    raise CertificateError(
        f"the head {type(head).__name__} is not known to be linear; "
        "give the classifier an nn.Linear or a UnitRowLinear, or choose another certifier"
    )


def _bounds_itself(head: nn.Module) -> bool:
    return callable(getattr(head, "lipschitz_bound", None))


def _split(model: nn.Module) -> tuple[nn.Module | None, nn.Module]:
    """Return features and head of a network that ends with a linear one, or None and the network.

    A subclass, or a hook on the whole, may compute something between the two.
    """
    if isinstance(model, Classifier) and is_as_written(type(model), Classifier):
        check_as_written_alone(model)
        if _bounds_itself(model.head):
            return None, nn.Sequential(model.features, model.head)
        return model.features, model.head
    if _is_row(model) and isinstance(model, nn.Sequential) and len(model):
        check_as_written_alone(model)
        *features, head = model
        if isinstance(head, nn.Linear) and is_as_written(type(head), nn.Linear):
            return nn.Sequential(*features), head
    return None, model
