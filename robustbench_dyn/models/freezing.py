"""Frozen evaluation of a model, and tensors cached while its parameters are frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class CachedParametrization(nn.Module):
    """A module whose forward needs tensors derived from its parameters, such as rescaled weights.

    `value()` returns the result of `compute()`. While no parameter of the module requires a
    gradient, the result is cached until a parameter changes; in training it is computed each time.
    """

    _cache: tuple[tuple[tuple[int, int], ...], Tensor] | None = None

    def compute(self) -> Tensor:
        """Compute the derived tensor from the parameters; a subclass defines this."""
        raise TypeError(f"{type(self).__name__} must define compute()")

    def value(self) -> Tensor:
        """Return compute(), cached while the parameters are frozen and unchanged."""
        parameters = list(self.parameters())
        if any(parameter.requires_grad for parameter in parameters):
            self._cache = None
            return self.compute()
        version = tuple((parameter.data_ptr(), parameter._version) for parameter in parameters)
        if self._cache is None or self._cache[0] != version:
            # A tensor made in inference mode could not take part in an attack's gradient later.
            with torch.inference_mode(False):
                self._cache = (version, self.compute())
        return self._cache[1]


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[nn.Module]:
    """Put model in eval mode with all parameters frozen; restore both afterwards."""
    with _evaluating(model, requires_grad=False):
        yield model


@contextmanager
def trainable_eval(model: nn.Module) -> Iterator[nn.Module]:
    """Put model in eval mode with no parameter frozen, so that nothing is cached.

    Restores both afterwards.
    """
    with _evaluating(model, requires_grad=True):
        yield model


@contextmanager
def _evaluating(model: nn.Module, *, requires_grad: bool) -> Iterator[None]:
    training_flags = [(module, module.training) for module in model.modules()]
    requires_grad_flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in requires_grad_flags:
            parameter.requires_grad_(requires_grad)
        yield
    finally:
        for parameter, flag in requires_grad_flags:
            parameter.requires_grad_(flag)
        for module, training in training_flags:
            module.training = training


@torch.no_grad()
def trainable_forward(model: nn.Module, x: Tensor) -> Tensor:
    """Return model(x) without cached tensors; restores the flags of the parameters afterwards.

    The forward of the frozen model must return the same logits.
    """
    with trainable_eval(model):
        logits: Tensor = model(x)
    return logits
