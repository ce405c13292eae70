"""Training on what interval bounds prove of each example's ball (arXiv 1810.12715)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from robustbench_dyn.certification.bounds.traced_network import trainable_network
from robustbench_dyn.certification.network.graph import Network
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.strict_yaml import Eps, StrictFile
from robustbench_dyn.threat_models import Norm, ThreatModel
from robustbench_dyn.training.ibp import worst_logits

Epochs = Annotated[int, Field(ge=0)]


class CertifiedTraining(StrictFile):
    """The ball that is to be certified, and how training gets there.

    The loss is kappa times that of the logits plus 1 - kappa times that of the worst logits that
    interval bounds allow within the ball. During warm_up_epochs it is that of the logits alone;
    over ramp_epochs the radius grows from 0 to eps and the share of the logits falls from 1 to
    kappa, both linearly (arXiv 1810.12715, Section 4). eps takes 8/255 too.
    """

    norm: Norm
    eps: Eps
    warm_up_epochs: Epochs = 0
    ramp_epochs: Epochs = 0
    kappa: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _has_a_ball(self) -> Self:
        ThreatModel(self.norm, self.eps)
        return self

    def at(self, epochs: float) -> tuple[float, float]:
        """Return the radius and the share of the plain loss after so many epochs."""
        grown = epochs - self.warm_up_epochs
        if self.ramp_epochs:
            progress = min(max(grown / self.ramp_epochs, 0.0), 1.0)
        else:
            progress = float(grown >= 0)
        return progress * self.eps, 1 - progress * (1 - self.kappa)


def follow(model: nn.Module, input_shape: tuple[int, ...]) -> Callable[[], Network]:
    """Return what gives the network to bound, with the model's weights at the time of each call.

    Raises InputError, naming the operation, where interval bounds cannot treat the model.
    """
    try:
        return trainable_network(model, input_shape)
    except CertificateError as error:
        raise InputError(f"the model cannot be trained by certified_training: {error}") from error


def certified_loss(
    model: nn.Module, network: Callable[[], Network], x: Tensor, y: Tensor,
    loss: Callable[[Tensor], Tensor], settings: CertifiedTraining, *, epochs: float,
) -> Tensor:  # fmt: skip
    """Return the loss after so many epochs of training; x: (batch, *input_shape) in [0, 1].

    network: as follow() gives it. loss: from logits to a number.
    """
    eps, share = settings.at(epochs)
    # The plain logits cost a third of a step, and at the end a recipe may not ask for them.
    plain = share * loss(model(x)) if share else x.new_zeros(())
    if share == 1:
        return plain
    worst = worst_logits(network(), x, y, ThreatModel(settings.norm, eps))
    return plain + (1 - share) * loss(worst)
