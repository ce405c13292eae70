"""Training losses: margin losses of the logits, and the orthogonality penalty."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.errors import InputError
from robustbench_dyn.strict_yaml import StrictFile


class Loss(StrictFile):
    """kind cross_entropy: temperature * cross_entropy((logits - offset * onehot) / temperature).

    A larger offset enforces a larger margin and trades clean for certified accuracy (Prach &
    Lampert, arXiv 2208.03160, eq. 9). offset 0 and temperature 1 give the plain cross-entropy.
    kind hinge: the multi-class hinge sum_j max(0, margin - F_y + F_j) / classes, j other than y
    (Crammer & Singer, JMLR 2, 2001).
    kind radius: T softplus(log sum_j exp((radius - r_j) / T)) for the certified L2 radii r_j
    against the other classes and T the temperature; a small T gives the hinge max_j max(0, radius -
    r_j) (arXiv 2207.07208). The model must end with a head of affine pieces.
    """

    kind: Literal["cross_entropy", "hinge", "radius"] = "cross_entropy"
    offset: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    temperature: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    margin: Annotated[float, Field(gt=0, le=1e6)] | None = None
    radius: Annotated[float, Field(gt=0, le=1e6)] | None = None

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.kind == "hinge") != (self.margin is not None):
            raise ValueError("kind hinge requires a margin, and only hinge has one")
        if (self.kind == "radius") != (self.radius is not None):
            raise ValueError("kind radius requires a radius, and only radius has one")
        if (self.kind == "hinge" and self.temperature != 1.0) or (
            self.kind != "cross_entropy" and self.offset
        ):
            raise ValueError(
                "offset and temperature belong to cross_entropy, and temperature to radius as well"
            )
        return self


def margin_loss(logits: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Return the mean loss; logits: (batch, classes), y: (batch,)."""
    if loss.margin is not None:
        return F.multi_margin_loss(logits, y, margin=loss.margin)
    onehot = F.one_hot(y, logits.shape[1])
    shifted = (logits - loss.offset * onehot) / loss.temperature
    return loss.temperature * F.cross_entropy(shifted, y)


def radius_loss(radii: Tensor, loss: Loss) -> Tensor:
    """Return the mean loss of kind radius; radii: (batch, classes - 1), to competing classes."""
    assert loss.radius is not None
    lacking = torch.logsumexp((loss.radius - radii) / loss.temperature, dim=1)
    return loss.temperature * F.softplus(lacking).mean()


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
