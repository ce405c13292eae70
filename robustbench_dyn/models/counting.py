"""Count the passes of a model and of its surrogates."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustbench_dyn.errors import InputError
from robustbench_dyn.models.forward import call, call_with_graph
from robustbench_dyn.models.machine_errors import is_machine_error


def surrogates_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the networks on which transfer attacks on model are crafted, by name.

    A model names them by a method `surrogates()`, which returns modules of the same inputs and
    classes, the same ones at each call. Without that method there are none.
    Raises InputError where it returns anything else than a dict of names to modules.
    """
    named = getattr(model, "surrogates", None)
    found = named() if callable(named) else {}
    if not isinstance(found, dict) or not all(isinstance(m, nn.Module) for m in found.values()):
        raise InputError(
            f"surrogates() of {type(model).__name__} must return a dict of names to modules"
        )
    return found


class CountingModel(nn.Module):
    """A model that counts the examples that pass through it forwards and backwards.

    A network that differentiates inside its forward fails where no graph is recorded, as it is
    under no_grad; such a network gets a graph of its own there. The model's surrogates count as
    itself. seconds_per_pass: the fewest
    that a forward pass took, for each example of its batch; 0 before the first.
    """

    def __init__(self, model: nn.Module, count: Callable[[int, int], None] | None = None) -> None:
        super().__init__()
        self.model = model
        self.forward_passes = 0
        self.backward_passes = 0
        self.seconds_per_pass = 0.0
        self._count = count or self._add
        self._needs_graph = False

    def surrogates(self) -> dict[str, nn.Module]:
        """Return the model's surrogates, whose passes are counted here."""
        return {
            name: CountingModel(surrogate, self._count)
            for name, surrogate in surrogates_of(self.model).items()
        }

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's logits, (batch, classes)."""
        started = time.perf_counter()
        logits = self._forward(x)
        each = (time.perf_counter() - started) / max(1, len(x))
        self.seconds_per_pass = min(self.seconds_per_pass or each, each)
        return logits

    def _forward(self, x: Tensor) -> Tensor:
        self._count(len(x), 0)
        if torch.is_grad_enabled():
            logits = call(self.model, x)
            if isinstance(logits, Tensor) and logits.requires_grad:
                logits.register_hook(self._count_backward)  # type: ignore[no-untyped-call]
            return logits
        if not self._needs_graph:
            try:
                return call(self.model, x)
            except RuntimeError as error:
                if is_machine_error(error):
                    raise
                # Of another cause, it fails again below.
                logits = call_with_graph(self.model, x)
                self._needs_graph = True
                return logits
        return call_with_graph(self.model, x)

    def _count_backward(self, gradient: Tensor) -> None:
        self._count(0, len(gradient))

    def _add(self, forward: int, backward: int) -> None:
        self.forward_passes += forward
        self.backward_passes += backward
