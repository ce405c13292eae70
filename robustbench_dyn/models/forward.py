"""Call a model safely: on a copy of its input, and with a copy of its output."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_dyn.models.isolated import IsolatedModel
from robustbench_dyn.models.machine_errors import is_machine_error


def call(model: nn.Module, x: Tensor) -> Tensor:
    """Return model(x) for a copy of x, as a copy of the output.

    The output is a plain tensor. A forward that writes into its input changes only the copy, and a
    forward that reuses the memory of its output does not change earlier results. Differentiable in
    x where a graph is recorded.
    """
    logits: Tensor = model(x.clone())
    # The caller refuses an output that is no tensor.
    return plain(logits).clone() if isinstance(logits, Tensor) else logits


def plain(tensor: Tensor) -> Tensor:
    """Return a tensor of torch's own class: a subclass may compare and compute by other rules."""
    if type(tensor) is Tensor:
        return tensor
    with torch._C.DisableTorchFunctionSubclass():
        return torch.Tensor.as_subclass(tensor, torch.Tensor)


def call_without_graph(model: nn.Module, x: Tensor) -> Tensor:
    """Return model(x) as `call` does, without a graph.

    A network that differentiates inside its forward fails without a graph; it gets one.
    """
    with torch.no_grad():
        try:
            return call(model, x)
        except RuntimeError as error:
            if is_machine_error(error):
                raise
            # An error with another cause is raised again here.
            return call_with_graph(model, x)


def call_with_graph(model: nn.Module, x: Tensor) -> Tensor:
    """Return model(x) as `call` does, computed with a graph, then detached."""
    with torch.inference_mode(False), torch.enable_grad():
        logits = call(model, x.detach().clone().requires_grad_())
    return logits.detach()


def writes_into_input(model: nn.Module, x: Tensor) -> bool:
    """Return whether the forward of model writes into its input; x stays as it is."""
    if isinstance(model, IsolatedModel):
        return model.writes_into_input(x)
    copy = x.detach().clone()
    with torch.no_grad():
        try:
            model(copy)
        except RuntimeError as error:
            if is_machine_error(error):
                raise
            return False
    # Compare bytes, so that NaN equals itself; version counters miss writes that bypass autograd.
    return not torch.equal(copy.view(torch.uint8), x.detach().clone().view(torch.uint8))
