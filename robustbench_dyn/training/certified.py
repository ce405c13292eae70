"""Certified training with interval bounds (IBP, arXiv 1810.12715), of small boxes too (SABR)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from robustbench_dyn.certification.bounds.traced_network import trainable_network
from robustbench_dyn.certification.network.graph import Network
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.strict_yaml import Eps, StrictFile
from robustbench_dyn.threat_models import Norm, ThreatModel
from robustbench_dyn.training.adversarial import Adversary, perturb
from robustbench_dyn.training.ibp import worst_logits

Epochs = Annotated[int, Field(ge=0)]
_N_STEPS = 8


class CertifiedTraining(StrictFile):
    """The ball to certify, and the schedule of its radius.

    The loss is kappa times the loss of the logits plus 1 - kappa times the loss of the worst-case
    logits that interval bounds allow within the ball. During warm_up_epochs only the logits count;
    over ramp_epochs the radius grows from 0 to eps and the weight of the logits falls from 1 to
    kappa, both linearly (arXiv 1810.12715, Section 4). eps may be written as 8/255.
    box: below 1, bounds hold within a ball of only this share of the radius, around the adversarial
    example that n_steps steps of PGD (8 by default) find in the rest of it (SABR, arXiv 2210.04871,
    Section 3): less regularisation, which certifiers above interval bounds make good.
    """

    norm: Norm
    eps: Eps
    warm_up_epochs: Epochs = 0
    ramp_epochs: Epochs = 0
    kappa: Annotated[float, Field(ge=0, lt=1)] = 0.0
    box: Annotated[float, Field(gt=0, le=1)] = 1.0
    n_steps: Annotated[int, Field(ge=1, le=10_000)] | None = None

    @model_validator(mode="after")
    def _check_ball(self) -> Self:
        ThreatModel(self.norm, self.eps)
        if self.box == 1 and self.n_steps is not None:
            raise ValueError("n_steps belongs to a box below 1; give one or drop n_steps")
        return self

    def at(self, epochs: float) -> tuple[float, float]:
        """Return the radius and the weight of the clean loss after this many epochs."""
        ramp = epochs - self.warm_up_epochs
        if self.ramp_epochs:
            progress = min(max(ramp / self.ramp_epochs, 0.0), 1.0)
        else:
            progress = float(ramp >= 0)
        return progress * self.eps, 1 - progress * (1 - self.kappa)


def trace_for_training(model: nn.Module, input_shape: tuple[int, ...]) -> Callable[[], Network]:
    """Return a function that returns the traced network with the current weights of the model.

    Raises InputError, naming the operation, where interval bounds do not support the model.
    """
    try:
        return trainable_network(model, input_shape)
    except CertificateError as error:
        raise InputError(f"certified_training does not support the model: {error}") from error


def certified_loss(
    model: nn.Module,
    network: Callable[[], Network],
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor], Tensor],
    settings: CertifiedTraining,
    generator: torch.Generator,
    *,
    epochs: float,
) -> Tensor:
    """Return the loss after this many epochs of training; x: (batch, *input_shape) in [0, 1].

    network: as trace_for_training returns it. loss: maps logits to a scalar. generator: of the
    adversarial examples at which small boxes lie.
    """
    eps, weight = settings.at(epochs)
    # The clean logits cost a third of a step; skip them where their weight is 0.
    clean = weight * loss(model(x)) if weight else x.new_zeros(())
    if weight == 1:
        return clean
    if settings.box < 1:
        steps, share = settings.n_steps or _N_STEPS, 1 - settings.box
        rest = Adversary(norm=settings.norm, eps=share * eps, n_steps=steps)
        x = perturb(model, x, loss, rest, generator)
    worst = worst_logits(network(), x, y, ThreatModel(settings.norm, settings.box * eps))
    return clean + (1 - weight) * loss(worst)
