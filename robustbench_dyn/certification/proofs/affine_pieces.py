"""A network whose logits are maxima of affine functions of its features, and how it rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.rounding.allowance import (
    LayerRounding,
    head_rounding,
    surface_points,
)
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.lipschitz.bounds import Layers
from robustbench_dyn.lipschitz.max_affine import Split, split_pieces
from robustbench_dyn.models.forward import call_without_graph
from robustbench_dyn.threat_models import Norm

# Of distances between pieces, in float64: 2 GB.
_MOST_DISTANCES = 250_000_000
_UNIT = 2.0**-53


class Rounded(NamedTuple):
    """What is known of some inputs, anywhere within reach of them.

    values: (batch, classes, pieces), of the affine functions in exact arithmetic, float64.
    errors: of the same shape, how far the network's own are from the affine functions of its
    features as it computes them. feature_error: (batch,), in L2, how far these are from exact ones.
    consistent: (batch,) bool, whether the logits are the maxima of the pieces, up to these errors,
    where both were computed.
    observed: (batch, classes), the largest difference between logits and exact ones.
    """

    values: Tensor
    errors: Tensor
    feature_error: Tensor
    consistent: Tensor
    observed: Tensor

    def at(self, rows: Tensor) -> Rounded:
        """Return what is known of some of the inputs."""
        return Rounded(*(part[rows] for part in self))


@dataclass(frozen=True)
class PiecesState:
    """A network that ends with a head of affine pieces.

    strict: the worst case of the rounding is subtracted, which is always known to be small where
    nothing is computed before the pieces.
    """

    split: Split
    rounding: LayerRounding
    strict: bool
    _distances: dict[tuple[Norm, int], Tensor] = field(default_factory=dict)

    @property
    def lipschitz(self) -> float:
        """An upper bound of the L2 Lipschitz constant of all before the head."""
        return self.rounding.layers.bound

    def distances(self, norm: Norm, label: int) -> Tensor:
        """Return upper bounds of |w_i - w_l| in the dual norm, (pieces, classes * pieces).

        i: the pieces of the label; l: all pieces. They are kept.
        """
        if (norm, label) not in self._distances:
            weight = self.split.pieces.weight
            own, every = weight[label], weight.flatten(0, 1)
            exact = torch.cdist(
                own, every, p=dual_exponent(norm), compute_mode="donot_use_mm_for_euclid_dist"
            )
            slack = 1.0 + (weight.shape[2] + 8) * 4 * _UNIT
            self._distances[norm, label] = exact * slack
        return self._distances[norm, label]

    def rounded(self, x: Tensor, logits: Tensor, reach: Tensor) -> Rounded:
        """Return the values of the pieces at x, and how the network rounds within reach of it.

        reach: (batch,), in L2. logits: (batch, classes), as the network computed them at x.
        """
        points = surface_points(x, reach, "L2")
        features = self.rounding.through_parts(x, reach, points)
        pieces = self.split.pieces
        around = features.drift + 2 * features.error
        flat = pieces.weight.flatten(0, 1)
        errors = head_rounding(flat, pieces.bias.flatten(), features.value, around)
        errors = errors.view(len(x), *pieces.bias.shape)
        # The values that are returned are sums, too, in float64.
        errors = errors * (1 + 2 * _UNIT / torch.finfo(features.value.dtype).eps) * (1 + 1e-9)
        values = pieces.values(features.exact)
        at_points = pieces.values(features.exact_points).amax(dim=2)
        seen = call_without_graph(self.rounding.model, points).double()
        observed = torch.maximum(
            (logits.double() - values.amax(dim=2)).abs(), (seen - at_points).abs()
        )
        steepest = pieces.weight.norm(dim=2).amax(dim=1)
        allowed = errors.amax(dim=2) + features.error[:, None] * steepest * (1 + 1e-9)
        # Written so that NaN fails it.
        consistent = (observed <= allowed).all(dim=1)
        return Rounded(values, errors, features.error, consistent, observed)


@torch.no_grad()
def prepare(model: nn.Module, *, strict_rounding: bool) -> PiecesState:
    """Raise CertificateError where model does not end with a head of affine pieces."""
    split = split_pieces(model)
    n_pieces = split.pieces.bias.numel()
    if n_pieces**2 > _MOST_DISTANCES:
        raise CertificateError(
            f"{n_pieces} affine pieces have more than {_MOST_DISTANCES:,} distances; use fewer"
        )
    rounding = LayerRounding(model, Layers(split.parts, None, None), strict_rounding)
    return PiecesState(split, rounding, strict=strict_rounding or split.on_inputs)


def dual_exponent(norm: Norm) -> float:
    """Return p of the dual norm: |w|_p eps is the most that w . x changes within eps."""
    return {"Linf": 1.0, "L2": 2.0, "L1": math.inf}[norm]
