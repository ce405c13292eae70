"""What depends on the parameters alone is computed once while the parameters are frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Derived(nn.Module):
    """A module whose forward needs tensors derived from its parameters, such as rescaled weights.

    `derived()` returns what `derive()` computes. While no parameter of the module asks for a
    gradient, the result is kept until a parameter changes; in training it is computed each time.
    """

    _kept: tuple[tuple[tuple[int, int], ...], Tensor] | None = None

    def derive(self) -> Tensor:
        """Compute the derived tensor from the parameters; a subclass says how."""
        raise TypeError(f"{type(self).__name__} must define derive()")

    def derived(self) -> Tensor:
        """Return derive(), kept while the parameters are frozen and unchanged."""
        parameters = list(self.parameters())
        if any(parameter.requires_grad for parameter in parameters):
            self._kept = None
            return self.derive()
        version = tuple((parameter.data_ptr(), parameter._version) for parameter in parameters)
        if self._kept is None or self._kept[0] != version:
            # What is made in inference mode could not serve an attack's gradient later.
            with torch.inference_mode(False):
                self._kept = (version, self.derive())
        return self._kept[1]


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Put model in eval mode with all parameters frozen, and put everything back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    wishes = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in wishes:
            parameter.requires_grad_(False)
        yield model
    finally:
        for parameter, wanted in wishes:
            parameter.requires_grad_(wanted)
        for module, training in modes:
            module.training = training


@torch.no_grad()
def thawed_forward(model: nn.Module, x: Tensor) -> Tensor:
    """Return model(x) as in training, where nothing is kept; the parameters are frozen afterwards.

    model: inside `frozen`. What the frozen forward gives has to equal this.
    """
    parameters = list(model.parameters())
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        logits: Tensor = model(x)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    return logits
