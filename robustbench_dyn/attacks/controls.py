"""Negative controls of the contract of attacks: a correct attack, and ways to break it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_dyn.attacks.halfspaces import Halfspaces, step_across
from robustbench_dyn.threat_models import ThreatModel

# Of candidates, the model, and x: the candidates that the broken attack returns.
Damage = Callable[[Tensor, Any, Tensor], Tensor]


@dataclass(frozen=True)
class Damaged:
    """A correct attack, and what is done to its candidates."""

    damage: Damage

    def search(
        self, model: Halfspaces, x: Tensor, y: Tensor, threat_model: ThreatModel, **_: object
    ) -> Tensor:
        """Return damaged candidates."""
        return self.damage(step_across(model, x, y, threat_model), model, x)


def step_at_random(_x_adv: Tensor, _model: nn.Module, x: Tensor) -> Tensor:
    """Return x with noise, whatever the attack found."""
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def draw(x_adv: Tensor, _model: nn.Module, _x: Tensor) -> Tensor:
    """Draw from torch's generator."""
    torch.rand(1)
    return x_adv


def leave_eval_mode(x_adv: Tensor, model: nn.Module, _x: Tensor) -> Tensor:
    """Leave the model in eval mode."""
    model.eval()
    return x_adv


def freeze(x_adv: Tensor, model: nn.Module, _x: Tensor) -> Tensor:
    """Leave the parameters without gradients."""
    model.requires_grad_(False)
    return x_adv


def add_gradients(x_adv: Tensor, model: nn.Module, _x: Tensor) -> Tensor:
    """Leave gradients of the parameters."""
    model(x_adv).sum().backward()
    return x_adv


def overwrite(x_adv: Tensor, _model: nn.Module, x: Tensor) -> Tensor:
    """Write the candidates into x."""
    return x.copy_(x_adv)
