"""Optimizers and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import lr_scheduler

from robustbench_dyn.strict_yaml import StrictFile

OptimizerName = Literal["adam", "adamw", "sgd"]
LearningRate = Annotated[float, Field(gt=0, le=1e3)]
WeightDecay = Annotated[float, Field(ge=0, le=1e3)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class Decay(StrictFile):
    """Divide the learning rate by `factor` every `every` epochs."""

    every: Annotated[int, Field(ge=1, le=1_000_000)]
    factor: Annotated[float, Field(gt=1, le=1e6)] = 10.0


class OptimizerSettings(StrictFile):
    """An optimizer and its settings; only sgd has a momentum, nesterov is its look-ahead."""

    optimizer: OptimizerName = "adam"
    momentum: Momentum = 0.0
    nesterov: bool = False
    learning_rate: LearningRate = 1e-3
    weight_decay: WeightDecay = 0.0

    @model_validator(mode="after")
    def _check_momentum(self) -> Self:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"only sgd has momentum, not {self.optimizer}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0; give one or drop it")
        return self


def make_optimizer(
    settings: OptimizerSettings, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the optimizer of these parameters."""
    rate, weight_decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=rate,
            weight_decay=weight_decay,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(parameters, lr=rate, weight_decay=weight_decay)


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


class Descent(NamedTuple):
    """An optimizer and its schedule, which take their steps together."""

    optimizer: torch.optim.Optimizer
    schedule: lr_scheduler.LRScheduler

    def step(self) -> None:
        """Take one step of both."""
        self.optimizer.step()
        self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Load both; raises where a value has not the type or shape of this training's own."""
        optimizer, schedule = kept["optimizer"], kept["schedule"]
        _check_like(schedule, self.schedule.state_dict())
        groups, own = optimizer["param_groups"], self.optimizer.state_dict()["param_groups"]
        for group, expected in zip(groups, own, strict=True):
            _check_like(group, expected)
        self.optimizer.load_state_dict(optimizer)
        self.schedule.load_state_dict(schedule)
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape not in ((), parameter.shape):
                    raise ValueError(f"{name} has shape {tuple(value.shape)}")


def _check_like(content: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise ValueError unless the keys are those expected, with values of the same types."""
    if set(content) != set(expected):
        raise ValueError(f"it has the keys {sorted(content)}")
    for name, value in expected.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        kinds = (int, float) if number else type(value)
        if not isinstance(content[name], kinds):
            raise ValueError(f"{name} is {content[name]!r}")
