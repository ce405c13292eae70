"""The certificate of a global Lipschitz bound: a margin cannot vanish closer than margin / L."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn

from robustbench_dyn.certification import Certifier, Cost, Proof, name_from_l2
from robustbench_dyn.certification.margins import safe_margins
from robustbench_dyn.flows import pairwise_lipschitz
from robustbench_dyn.threat_models import Norm, ThreatModel

# Networks trained with cross-entropy have margins of 1 to 10: a steeper difference of logits
# proves no radius that anybody asks for.
USEFUL = 30.0


def rival_radii(bounds: Tensor, logits: Tensor, y: Tensor, *, norm: Norm, dimension: int) -> Tensor:
    """Return (F_y - F_j) / L_yj in `norm`, rounded down, for each class j.

    bounds: (classes, classes) or (1, 1), L2 Lipschitz bounds of F_i - F_j. logits: (batch,
    classes) as the model computed them. y: (batch,). All j are needed, not the runner-up alone
    (arXiv 1802.04034, Section 4). An Linf ball of radius r / sqrt(dimension) and an L1 ball of
    radius r lie in the L2 ball of radius r. Returns (batch, classes), float64: inf for j = y, 0
    for ties and margins inside rounding, and a row of 0 for logits that are not finite.
    """
    labels = y.cpu()
    n_classes = logits.shape[1]
    margins = safe_margins(logits, labels)
    lipschitz = bounds.expand(n_classes, n_classes)[labels]
    # A difference that cannot change (L = 0) never vanishes: its quotient is inf.
    radius = margins / lipschitz * (1.0 - 1e-12)
    if norm == "Linf":
        radius = radius / math.sqrt(dimension) * (1.0 - 1e-12)
    radius = radius.where(margins > 0, 0.0).scatter(1, labels[:, None], math.inf)
    return radius.where(margins.isfinite().all(dim=1, keepdim=True), 0.0)


def is_useful(bounds: Tensor) -> bool:
    """Say whether the bounds of all logit differences are small enough to prove something."""
    # Written so that NaN fails it.
    return bool((bounds <= USEFUL).all())


def _prepare(model: nn.Module, _input_shape: tuple[int, ...]) -> Tensor:
    return pairwise_lipschitz(model)


def prove(bounds: Tensor, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel) -> Proof:
    """Return the radii of the global bound; x is asked for its dimension alone."""
    dimension = math.prod(x.shape[1:])
    return Proof(rival_radii(bounds, logits, y, norm=threat_model.norm, dimension=dimension))


CERTIFIER = Certifier(
    name="lipschitz",
    description="global L2 Lipschitz bound of each logit difference",
    deterministic=True,
    prepare=_prepare,
    prove=prove,
    label=partial(name_from_l2, "lipschitz"),
    cost=Cost.NOTHING,
)
