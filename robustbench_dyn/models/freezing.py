"""What depends on the parameters alone is computed once while the parameters are frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class CachedParametrization(nn.Module):
    """A module whose forward needs tensors derived from its parameters, such as rescaled weights.

    `value()` returns what `compute()` computes. While no parameter of the module asks for a
    gradient, the result is kept until a parameter changes; in training it is computed each time.
    """

    _kept: tuple[tuple[tuple[int, int], ...], Tensor] | None = None

    def compute(self) -> Tensor:
        """Compute the derived tensor from the parameters; a subclass says how."""
        raise TypeError(f"{type(self).__name__} must define compute()")

    def value(self) -> Tensor:
        """Return compute(), kept while the parameters are frozen and unchanged."""
        parameters = list(self.parameters())
        if any(parameter.requires_grad for parameter in parameters):
            self._kept = None
            return self.compute()
        version = tuple((parameter.data_ptr(), parameter._version) for parameter in parameters)
        if self._kept is None or self._kept[0] != version:
            # What is made in inference mode could not serve an attack's gradient later.
            with torch.inference_mode(False):
                self._kept = (version, self.compute())
        return self._kept[1]


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[nn.Module]:
    """Put model in eval mode with all parameters frozen, and put everything back afterwards."""
    with _evaluating(model, requires_grad=False):
        yield model


@contextmanager
def trainable_eval(model: nn.Module) -> Iterator[nn.Module]:
    """Put model in eval mode with no parameter frozen: nothing that is derived of them is kept.

    Everything is put back afterwards.
    """
    with _evaluating(model, requires_grad=True):
        yield model


@contextmanager
def _evaluating(model: nn.Module, *, requires_grad: bool) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    wishes = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in wishes:
            parameter.requires_grad_(requires_grad)
        yield
    finally:
        for parameter, wanted in wishes:
            parameter.requires_grad_(wanted)
        for module, training in modes:
            module.training = training


@torch.no_grad()
def trainable_forward(model: nn.Module, x: Tensor) -> Tensor:
    """Return model(x) as in training, where nothing is kept; the parameters are frozen afterwards.

    model: inside `frozen`. What the frozen forward gives has to equal this.
    """
    with trainable_eval(model):
        logits: Tensor = model(x)
    return logits
