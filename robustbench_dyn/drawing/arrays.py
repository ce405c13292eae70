"""Inputs and adversarial examples as arrays, and tensors where a model takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_dyn.results.verdicts import Verdict

if TYPE_CHECKING:
    from robustbench_dyn.datasets import Dataset

Array = NDArray[np.floating[Any]]


def adversarial_array(verdict: Verdict, data: Dataset) -> Array | None:
    """Return the adversarial example of a verdict in the shape and dtype of its input, or None."""
    if verdict.x_adv is None:
        return None
    like = data.x[:1]
    x_adv = torch.frombuffer(bytearray(verdict.x_adv), dtype=like.dtype).reshape(like.shape[1:])
    return x_adv.numpy()


def on_device_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return x on the device of the model's parameters, or where it is if there are none."""
    return x.to(next((parameter.device for parameter in model.parameters()), x.device))
