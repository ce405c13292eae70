"""The L2 Lipschitz bound of a network, composed from rigorous bounds of its parts."""

from __future__ import annotations

from functools import singledispatch
from typing import cast

import torch
from torch import Tensor, nn

from robustbench_dyn.errors import CertificateError
from robustbench_dyn.flows.linear import UnitRowLinear
from robustbench_dyn.flows.norms import conv_norm, matrix_norm


class Classifier(nn.Module):
    """Features followed by a linear head: logits = head(features(x)), (batch, classes).

    The head is an nn.Linear or a UnitRowLinear; the split is what lets a certificate use the
    differences of the head's rows.
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
        return lipschitz_bound(self.features) * matrix_norm(head_weight(self.head))


def lipschitz_bound(module: object) -> float:
    """Return an upper bound on module's L2 Lipschitz constant, in eval mode.

    A module that knows its own constant has a method lipschitz_bound(); torch's own layers are
    listed below. Raises CertificateError, naming the module, where no bound is known.
    """
    own = getattr(module, "lipschitz_bound", None)
    if own is not None and not _is_of_another_forward(module):
        return float(own())
    listed = (kind for kind in type(module).__mro__ if kind in _layer_bound.registry)
    if not _forwards_as(module, next(listed)):
        raise CertificateError(
            f"no Lipschitz bound is known for {type(module).__name__}; "
            "give it a method lipschitz_bound() -> float, or choose another certifier"
        )
    return _layer_bound(module)


def _is_of_another_forward(module: object) -> bool:
    # A bound that a base class gives for its own forward says nothing of one that overrides it.
    lineage = [getattr(module, "__dict__", {})]
    lineage += [vars(kind) for kind in type(module).__mro__ if kind is not nn.Module]
    forwards = [depth for depth, names in enumerate(lineage) if "forward" in names]
    bounds = [depth for depth, names in enumerate(lineage) if "lipschitz_bound" in names]
    return len(forwards) > 1 and forwards[0] < bounds[0]


def _forwards_as(module: object, kind: type) -> bool:
    # A subclass or an instance with a forward of its own computes something else than its base.
    forward = getattr(getattr(module, "forward", None), "__func__", None)
    return forward is not None and forward is getattr(kind, "forward", None)


@singledispatch
def _layer_bound(module: object) -> float:
    raise NotImplementedError


@_layer_bound.register(nn.Identity)
@_layer_bound.register(nn.Flatten)
@_layer_bound.register(nn.PixelShuffle)
@_layer_bound.register(nn.PixelUnshuffle)
def _isometry(module: nn.Module) -> float:
    return 1.0


@_layer_bound.register(nn.ReLU)
@_layer_bound.register(nn.Tanh)
def _slopes_up_to_one(module: nn.Module) -> float:
    return 1.0


@_layer_bound.register
def _(module: nn.LeakyReLU) -> float:
    return max(1.0, abs(module.negative_slope))


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
    """Return 1 for windows that do not overlap.

    The maximum over one window W is 1-Lipschitz in the largest difference there: |max a - max b|
    <= max |a - b| <= |a - b|_W, the L2 norm over W. Windows without common pixels: the squares of
    the right-hand sides add up to at most |a - b|^2. An entry in k windows could move k outputs.
    """
    kernel, stride, dilation = (_pair(n) for n in (module.kernel_size, module.stride,
                                                   module.dilation))  # fmt: skip
    if any(s < k for k, s in zip(kernel, stride, strict=True)) or dilation != (1, 1):
        raise CertificateError(
            "MaxPool2d has a known bound only where windows do not overlap: stride at least "
            "kernel_size, and no dilation"
        )
    return 1.0


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
    bound = 1.0
    for part in module:
        bound *= lipschitz_bound(part)
    return bound


def pairwise_lipschitz(model: nn.Module) -> Tensor:
    """Return upper bounds on the Lipschitz constants of all logit differences F_i - F_j.

    Returns (classes, classes), float64, on the CPU; the number of classes is read off the head.
    With a linear head it is Lip(features) |w_i - w_j|_2, otherwise sqrt(2) Lip(F) (arXiv
    1802.04034). Raises CertificateError where a part has no known bound.
    """
    features, head = _split(model)
    if features is None:
        # (1, 1): broadcasts over all pairs, since this bound does not tell them apart
        return torch.full((1, 1), 2**0.5 * lipschitz_bound(model), dtype=torch.float64)
    weight = head_weight(head).detach().double().cpu()
    distances = (weight[:, None, :] - weight[None, :, :]).square().sum(dim=2).sqrt()
    return lipschitz_bound(features) * distances * (1.0 + 1e-12)


def head_weight(head: nn.Module) -> Tensor:
    """Return the matrix that a linear head multiplies with, (classes, features)."""
    if isinstance(head, UnitRowLinear) and _forwards_as(head, UnitRowLinear):
        return head.derived()
    if isinstance(head, nn.Linear) and _forwards_as(head, nn.Linear):
        return head.weight
    raise CertificateError(
        f"the head {type(head).__name__} is not known to be linear; "
        "give the classifier an nn.Linear or a UnitRowLinear, or choose another certifier"
    )


def _split(model: nn.Module) -> tuple[nn.Module | None, nn.Module]:
    if isinstance(model, Classifier) and _forwards_as(model, Classifier):
        return model.features, model.head
    if isinstance(model, nn.Sequential) and _forwards_as(model, nn.Sequential) and len(model):
        *features, head = model
        if isinstance(head, nn.Linear) and _forwards_as(head, nn.Linear):
            return nn.Sequential(*features), head
    return None, model
