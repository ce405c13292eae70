"""How a model is called: with a copy of its input that nothing else holds, and never with more."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def call(model: nn.Module, x: Tensor) -> Tensor:
    """Return model(x) for a copy of x, as a tensor of its own.

    A forward that writes into its input changes the copy alone, and one that writes its output into
    the same memory at each call does not change what was returned before. Differentiable in x where
    a graph is recorded.
    """
    logits: Tensor = model(x.clone())
    # What is no tensor is for the caller to refuse.
    return logits.clone() if isinstance(logits, Tensor) else logits


def call_without_graph(model: nn.Module, x: Tensor) -> Tensor:
    """Return model(x) as `call` does, without a graph.

    A network that differentiates inside its forward fails where no graph is recorded; such a one
    gets a graph of its own.
    """
    with torch.no_grad():
        try:
            return call(model, x)
        except RuntimeError:
            # Of another cause, it fails again below.
            return call_with_graph(model, x)


def call_with_graph(model: nn.Module, x: Tensor) -> Tensor:
    """Return model(x) as `call` does, computed with a graph that is forgotten."""
    with torch.inference_mode(False), torch.enable_grad():
        logits = call(model, x.detach().clone().requires_grad_())
    return logits.detach()


def writes_into_input(model: nn.Module, x: Tensor) -> bool:
    """Say whether model's forward writes into its input; x is a copy's worth of examples."""
    given = x.detach().clone()
    with torch.no_grad():
        try:
            model(given)
        except RuntimeError:
            return False
    # The bytes, so that NaN equals itself; a counter of versions would miss writes past autograd.
    return not torch.equal(given.view(torch.uint8), x.detach().clone().view(torch.uint8))
