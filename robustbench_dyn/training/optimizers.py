"""Optimizers and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim import lr_scheduler

from robustbench_dyn.strict_yaml import StrictFile

OptimizerName = Literal["adam", "adamw", "sgd"]


class Decay(StrictFile):
    """Divide the learning rate by `factor` every `every` epochs."""

    every: Annotated[int, Field(ge=1, le=1_000_000)]
    factor: Annotated[float, Field(gt=1, le=1e6)] = 10.0


def make_optimizer(
    name: OptimizerName,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Return the optimizer; only sgd uses the momentum, nesterov for its look-ahead."""
    if name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=learning_rate,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(parameters, lr=learning_rate, weight_decay=weight_decay)


def make_schedule(
    optimizer: torch.optim.Optimizer,
    decay: Decay | None,
    *,
    learning_rate: float,
    warmup: float,
    epochs: int,
    steps_per_epoch: int,
) -> lr_scheduler.LRScheduler:
    """Return the schedule, to be stepped after each batch: step decay, or else one cycle.

    One cycle (arXiv 1708.07120) rises over the fraction `warmup` of all steps, then falls to 0.
    """
    if decay is not None:
        return lr_scheduler.StepLR(optimizer, decay.every * steps_per_epoch, gamma=1 / decay.factor)
    return lr_scheduler.OneCycleLR(
        optimizer,
        learning_rate,
        total_steps=steps_per_epoch * epochs,
        pct_start=warmup,
        # The recipe sets the momentum of sgd, which stays constant.
        cycle_momentum=not isinstance(optimizer, torch.optim.SGD),
    )
