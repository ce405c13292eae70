"""What training minimises: margin losses on logits, and a pull towards orthogonal weights."""

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

    The offset asks for a margin: it decides where between clean and certified accuracy one lands
    (Prach & Lampert, arXiv 2208.03160, eq. 9). offset 0 and temperature 1 is cross-entropy.
    kind hinge: the multi-class hinge sum_j max(0, margin - F_y + F_j) / classes, j other than y
    (Crammer & Singer, JMLR 2, 2001).
    """

    kind: Literal["cross_entropy", "hinge"] = "cross_entropy"
    offset: float = 0.0
    temperature: Annotated[float, Field(gt=0)] = 1.0
    margin: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if (self.kind == "hinge") != (self.margin is not None):
            raise ValueError("a hinge needs a margin, and no other loss has one")
        if self.kind == "hinge" and (self.offset, self.temperature) != (0.0, 1.0):
            raise ValueError("offset and temperature belong to cross_entropy")
        return self


def margin_loss(logits: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Return the loss, averaged; logits: (batch, classes), y: (batch,)."""
    if loss.margin is not None:
        return F.multi_margin_loss(logits, y, margin=loss.margin)
    onehot = F.one_hot(y, logits.shape[1])
    shifted = (logits - loss.offset * onehot) / loss.temperature
    return loss.temperature * F.cross_entropy(shifted, y)


def orthogonality_penalty(model: nn.Module) -> Tensor:
    """Return the sum over the modules that say how far from orthogonal their weights are.

    Raises InputError where none does: a recipe that asks for it is for another network.
    """
    penalties = [
        penalty()
        for module in model.modules()
        if callable(penalty := getattr(module, "orthogonality_penalty", None))
    ]
    if not penalties:
        raise InputError("the recipe asks for orthogonality, and no part of the model measures it")
    return torch.stack(penalties).sum()
