"""Heads whose logits are maxima of affine functions of their input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.errors import CertificateError
from robustbench_dyn.lipschitz.as_written import (
    check_as_written,
    check_as_written_alone,
    is_as_written,
)
from robustbench_dyn.lipschitz.bounds import Classifier, parts_in_a_row

# Keeps quotients finite where two pieces are equal.
_FLOOR = 1e-6


class AffinePieces(NamedTuple):
    """The logits max_k (w_ck . z + b_ck) of classes c.

    weight: (classes, pieces, features); bias: (classes, pieces).
    """

    weight: Tensor
    bias: Tensor

    def values(self, z: Tensor) -> Tensor:
        """Return w_ck . z + b_ck, (batch, classes, pieces); z: (batch, features)."""
        flat = F.linear(z, self.weight.flatten(0, 1), self.bias.flatten())
        return flat.view(len(z), *self.bias.shape)


class MaxAffine(nn.Module):
    """The logit of class c is max_k (w_ck . z + b_ck): convex, and affine between its kinks.

    A network that ends with it, `Classifier(features, head)`, gets the certifiers `max_affine` and
    `max_affine_exact`. A subclass may compute its pieces from other parameters, in affine_pieces(),
    and override no more.
    """

    def __init__(self, features: int, n_classes: int, *, pieces: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_classes, pieces, features))
        nn.init.kaiming_uniform_(self.weight.flatten(0, 1), a=5**0.5)
        self.bias = nn.Parameter(torch.zeros(n_classes, pieces))

    def affine_pieces(self) -> AffinePieces:
        """Return the affine functions whose maxima are the logits."""
        return AffinePieces(self.weight, self.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Map (batch, features) to logits, (batch, classes)."""
        return self.affine_pieces().values(z).amax(dim=2)

    def lipschitz_bound(self) -> float:
        """Return the root of sum_c max_k |w_ck|^2: each logit is max_k |w_ck|-Lipschitz in L2."""
        squares = self.affine_pieces().weight.detach().double().square().sum(dim=2)
        return float(squares.amax(dim=1).sum().sqrt()) * (1.0 + 1e-12)

    def competing_radii(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the certified L2 radii against the other classes, (batch, classes - 1).

        z: (batch, features); y: (batch,). Of class c, min_l (a_i - a_cl) / |w_i - w_cl| with the
        label's largest piece a_i; negative where class c is above the label. Differentiable, and
        without the rounding that a certificate subtracts (arXiv 2207.07208).
        """
        pieces = self.affine_pieces()
        own, competing = _nearest(pieces, z.detach(), y)
        weight, bias = pieces.weight.flatten(0, 1), pieces.bias.flatten()
        between = F.embedding(own, weight)[:, None, :] - F.embedding(competing, weight)
        margin = torch.bmm(between, z[:, :, None])[:, :, 0] + bias[own][:, None] - bias[competing]
        return margin / between.norm(dim=2).clamp_min(_FLOOR)


class Split(NamedTuple):
    """A network as parts in a row, each with its Lipschitz bound, and the pieces of its head."""

    parts: list[tuple[nn.Module, float]]
    pieces: AffinePieces

    @property
    def on_inputs(self) -> bool:
        """Whether the pieces are affine functions of the flat input itself."""
        return all(type(part) in (nn.Flatten, nn.Identity) for part, _ in self.parts)


def split_pieces(model: nn.Module) -> Split:
    """Return the parts of a network that ends with a head of affine pieces.

    The network is a Classifier, or an nn.Sequential whose last part is the head. A head is a
    MaxAffine, or of a subclass that computes its pieces in another way and their maxima in the same
    one. Raises CertificateError for any other network, and where a part before the head has no
    known bound.
    """
    features, head = _ends(model)
    own = ("affine_pieces",)
    if not isinstance(head, MaxAffine) or not is_as_written(type(head), MaxAffine, but_for=own):
        raise CertificateError(
            f"the logits are not known to be maxima of affine functions: {type(head).__name__} is "
            "no MaxAffine, or overrides more of it than affine_pieces(); end the model with "
            "MaxAffine or Prototypes, or choose another certifier"
        )
    if head is not model:
        check_as_written_alone(model)
    check_as_written(head)
    parts = [pair for part in features for pair in parts_in_a_row(part)]
    return Split(parts, _checked(head))


def ends_with_pieces(model: nn.Module) -> bool:
    """Say whether the head of a network is of affine pieces."""
    return isinstance(_ends(model)[1], MaxAffine)


def _ends(model: nn.Module) -> tuple[list[nn.Module], nn.Module]:
    """Return what a network applies before its head, and the head: itself where it is no row."""
    if isinstance(model, Classifier) and is_as_written(type(model), Classifier):
        return [model.features], model.head
    if (
        isinstance(model, nn.Sequential)
        and is_as_written(type(model), nn.Sequential)
        and len(model)
    ):
        *features, head = model
        return features, head
    return [], model


@torch.no_grad()
def _checked(head: MaxAffine) -> AffinePieces:
    """Return the pieces of a head in float64; raise CertificateError where they are none."""
    weight, bias = (part.detach().double() for part in head.affine_pieces())
    if weight.dim() != 3 or weight.shape[:2] != bias.shape:
        raise CertificateError(
            f"affine_pieces() of {type(head).__name__} returns shapes {tuple(weight.shape)} and "
            f"{tuple(bias.shape)}; return (classes, pieces, features) and (classes, pieces)"
        )
    if not bool(weight.isfinite().all() and bias.isfinite().all()):
        raise CertificateError(f"affine_pieces() of {type(head).__name__} are not finite")
    return AffinePieces(weight, bias)


@torch.no_grad()
def _nearest(pieces: AffinePieces, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label's largest piece, and the pieces of other classes of the least radii to it.

    As indices among all pieces, (batch,) and (batch, classes - 1).
    """
    n_classes, n_pieces = pieces.bias.shape
    values = pieces.values(z)
    rows = torch.arange(len(z), device=z.device)
    largest, within = values[rows, y].max(dim=1)
    own = y * n_pieces + within
    weight = pieces.weight.flatten(0, 1)
    squares = weight.square().sum(dim=1)
    between = squares[own][:, None] + squares - 2 * weight[own] @ weight.T
    between = between.clamp_min(_FLOOR**2).sqrt().view_as(values)
    nearest = ((largest[:, None, None] - values) / between).argmin(dim=2)
    nearest = nearest + n_pieces * torch.arange(n_classes, device=z.device)
    others = torch.ones_like(nearest, dtype=torch.bool).scatter(1, y[:, None], False)
    return own, nearest[others].view(len(z), n_classes - 1)
