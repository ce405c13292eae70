"""The certificate of a global Lipschitz bound: a margin cannot vanish closer than margin / L."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustbench_dyn.certification import Certifier
from robustbench_dyn.flows import pairwise_lipschitz
from robustbench_dyn.threat_models import Norm

# Stands for the rounding of a forward pass: this many units in the last place of the largest
# logit. Measured differences between float32 and float64 passes are below 40.
_ULPS = 256


def rival_radii(bounds: Tensor, logits: Tensor, y: Tensor, *, norm: Norm, dimension: int) -> Tensor:
    """Return (F_y - F_j) / L_yj in `norm`, rounded down, for each class j.

    bounds: (classes, classes) or (1, 1), L2 Lipschitz bounds of F_i - F_j. logits: (batch,
    classes) as the model computed them. y: (batch,). All j are needed, not the runner-up alone
    (arXiv 1802.04034, Section 4). An Linf ball of radius r / sqrt(dimension) and an L1 ball of
    radius r lie in the L2 ball of radius r. Returns (batch, classes), float64: inf for j = y, 0
    for ties and margins inside rounding, and a row of 0 for logits that are not finite.
    """
    rounding = _ULPS * torch.finfo(logits.dtype).eps
    scores = logits.detach().double().cpu()
    labels = y.cpu()
    n_classes = scores.shape[1]
    slack = rounding * scores.abs().amax(dim=1, keepdim=True).clamp_min(1.0)
    margins = scores.gather(1, labels[:, None]) - scores - slack
    lipschitz = bounds.expand(n_classes, n_classes)[labels]
    # A difference that cannot change (L = 0) never vanishes: its quotient is inf.
    radius = margins / lipschitz * (1.0 - 1e-12)
    if norm == "Linf":
        radius = radius / math.sqrt(dimension) * (1.0 - 1e-12)
    radius = radius.where(margins > 0, 0.0).scatter(1, labels[:, None], math.inf)
    return radius.where(scores.isfinite().all(dim=1, keepdim=True), 0.0)


def _label(norm: Norm) -> str:
    return "lipschitz" if norm == "L2" else "lipschitz-from-L2"


def _prepare(model: nn.Module) -> Tensor:
    return pairwise_lipschitz(model)


CERTIFIER = Certifier(
    name="lipschitz",
    description="global L2 Lipschitz bound of each logit difference",
    deterministic=True,
    prepare=_prepare,
    rival_radii=rival_radii,
    label=_label,
)
