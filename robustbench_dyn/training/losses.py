"""Training losses: margin losses of the logits, and the orthogonality penalty."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.errors import InputError
from robustbench_dyn.strict_yaml import StrictFile
from robustbench_dyn.training.class_margins import ClassMargins


class Loss(StrictFile):
    """kind cross_entropy: temperature * cross_entropy((logits - offset * onehot) / temperature).

    A larger offset enforces a larger margin and trades clean for certified accuracy (Prach &
    Lampert, arXiv 2208.03160, eq. 9). offset 0 and temperature 1 give the plain cross-entropy.
    annealing b multiplies each example's loss by (1 - p)^b, p the probability of its label in it,
    so that examples with a wide margin count little (LA loss, arXiv 2505.15174).
    kind hinge: the multi-class hinge sum_j max(0, margin - F_y + F_j) / classes, j other than y
    (Crammer & Singer, JMLR 2, 2001).
    kind radius: T softplus(log sum_j exp((radius - r_j) / T)) for the certified L2 radii r_j
    against the other classes and T the temperature; a small T gives the hinge max_j max(0, radius -
    r_j) (arXiv 2207.07208). saturation S makes S (1 - exp(-l / S)) of each example's loss l, so
    that an example far on the wrong side counts little, as in a ramp loss (Collobert, Sinz, Weston
    & Bottou, ICML 2006): more is certified at wide radii, at the cost of clean accuracy. It falls
    from infinity to S in the first half of the training.
    kind emma: cross-entropy of the margins less what they can lose within a radius: logits d_j +
    e_j eps m_j against 0 of the label, with margins -d_j, their slopes m_j, and e_j = clip(r_j /
    eps, 0.01, 1) without gradient; eps grows from a tenth of `radius` to three times it in the
    first half of the training (arXiv 2301.12549).
    Kinds radius and emma need a Classifier with a linear head or a MaxAffine (class_margins.py).
    """

    kind: Literal["cross_entropy", "hinge", "radius", "emma"] = "cross_entropy"
    offset: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    annealing: Annotated[float, Field(ge=0, le=100)] = 0.0
    temperature: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    margin: Annotated[float, Field(gt=0, le=1e6)] | None = None
    radius: Annotated[float, Field(gt=0, le=1e6)] | None = None
    saturation: Annotated[float, Field(gt=0, le=1e6)] | None = None

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.kind == "hinge") != (self.margin is not None):
            raise ValueError("kind hinge requires a margin, and only hinge has one")
        if self.of_margins != (self.radius is not None):
            raise ValueError("kinds radius and emma require a radius, and only they have one")
        if self.kind in ("hinge", "emma") and self.temperature != 1.0:
            raise ValueError("temperature belongs to cross_entropy and radius")
        if self.saturation is not None and self.kind != "radius":
            raise ValueError("saturation belongs to radius")
        if self.kind != "cross_entropy" and (self.offset or self.annealing):
            raise ValueError("offset and annealing belong to cross_entropy")
        return self

    @property
    def of_margins(self) -> bool:
        """Whether the loss is one of margins and their slopes, rather than of logits."""
        return self.kind in ("radius", "emma")


def margin_loss(logits: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Return the mean loss; logits: (batch, classes), y: (batch,)."""
    if loss.margin is not None:
        return F.multi_margin_loss(logits, y, margin=loss.margin)
    onehot = F.one_hot(y, logits.shape[1])
    shifted = (logits - loss.offset * onehot) / loss.temperature
    if not loss.annealing:
        return loss.temperature * F.cross_entropy(shifted, y)
    each = F.cross_entropy(shifted, y, reduction="none")
    return loss.temperature * (each * (1 - torch.exp(-each)) ** loss.annealing).mean()


def loss_of_margins(found: ClassMargins, loss: Loss, *, done: float) -> Tensor:
    """Return the mean loss of kind radius or emma; done: the share of the training, 0 to 1."""
    assert loss.radius is not None
    if loss.kind == "radius":
        lacking = torch.logsumexp((loss.radius - found.radii) / loss.temperature, dim=1)
        each = loss.temperature * F.softplus(lacking)
        if loss.saturation is not None and done:
            most = loss.saturation / min(2 * done, 1.0)
            each = -most * torch.expm1(-each / most)
        return each.mean()
    eps = loss.radius * (0.1 + 2.9 * min(2 * done, 1.0))
    share = (found.radii / eps).clamp(0.01, 1).detach()
    left = found.margins - share * eps * found.slopes
    return F.softplus(torch.logsumexp(-left, dim=1)).mean()


def orthogonality_penalty(model: nn.Module) -> Tensor:
    """Return the sum of `orthogonality_penalty()` over the modules that have it.

    Raises InputError if no module has it.
    """
    penalties = [
        penalty()
        for module in model.modules()
        if callable(penalty := getattr(module, "orthogonality_penalty", None))
    ]
    if not penalties:
        raise InputError(
            "the recipe sets orthogonality, but no module of the model has the method "
            "orthogonality_penalty(); drop the key"
        )
    return torch.stack(penalties).sum()
