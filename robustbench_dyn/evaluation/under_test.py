"""The model under test for the time of one task: frozen, in full precision, its failures told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from robustbench_dyn.datasets import Dataset
from robustbench_dyn.isolation.process import reported
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.machine_errors import machine_errors_explained
from robustbench_dyn.models.precision import full_precision
from robustbench_dyn.models.validation import ModelUnderTest


@contextmanager
def under_test(
    model: nn.Module,
    dataset: Dataset,
    *,
    device: torch.device,
    seed: int,
    batch_size: int | Literal["auto"],
    name: str | None = None,
) -> Iterator[ModelUnderTest]:
    """Move a model to a device, freeze it in eval mode, and yield it as counted and identified.

    It is given back as it was. name: how an unregistered model is called. Inside, the end of a
    plugin's process is a ForeignCodeError and a failure of the machine a MachineError.
    """
    with (
        reported(),
        machine_errors_explained(),
        full_precision(),
        frozen_eval(model.to(device)),
    ):
        yield ModelUnderTest(
            model, dataset, device=device, seed=seed, batch_size=batch_size, name=name
        )
