"""The margins of a network against competing classes, and how fast they can fall, in training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.lipschitz.bounds import Classifier, head_weight, lipschitz_bound
from robustbench_dyn.lipschitz.max_affine import MaxAffine

# Keeps quotients finite where two rows of a head are equal.
_FLOOR = 1e-6


class ClassMargins(NamedTuple):
    """margins: by how much the label leads; slopes: bounds of how fast that falls, in L2.

    Both (batch, classes - 1). Their quotients are certified radii, up to rounding.
    """

    margins: Tensor
    slopes: Tensor

    @property
    def radii(self) -> Tensor:
        """The certified L2 radii against each competing class, (batch, classes - 1)."""
        return self.margins / self.slopes


def class_margins(model: nn.Module, x: Tensor, y: Tensor) -> ClassMargins:
    """Return the margins of a Classifier whose head is linear, or a MaxAffine.

    x: (batch, C, H, W); y: (batch,). Gradients reach the network through the margins, and the head
    through the slopes, too; the Lipschitz bound of the features counts as a constant.
    Raises InputError for any other network.
    """
    if not isinstance(model, Classifier):
        raise InputError(
            f"the loss needs a Classifier of features and a head, not {type(model).__name__}; "
            "choose kind cross_entropy or hinge"
        )
    features, bound = model.features(x).float(), lipschitz_bound(model.features)
    with torch.autocast(x.device.type, enabled=False):
        if isinstance(model.head, MaxAffine):
            radii = model.head.competing_radii(features, y) / bound
            return ClassMargins(radii, torch.ones_like(radii))
        try:
            weight = head_weight(model.head)
        except CertificateError as error:
            raise InputError(f"the loss cannot be computed: {error}") from error
        logits = model.head(features)
        margins = logits.gather(1, y[:, None]) - logits
        between = (weight[y][:, None, :] - weight).norm(dim=2).clamp_min(_FLOOR)
        others = torch.ones_like(logits, dtype=torch.bool).scatter(1, y[:, None], False)
        shape = (len(y), logits.shape[1] - 1)
        return ClassMargins(margins[others].view(shape), (bound * between)[others].view(shape))
