"""The content of a safetensors file, or named tensors, as the weights of a network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from robustbench_dyn.errors import IntegrityError, one_line, shown


def fill(model: nn.Module, content: bytes) -> None:
    """Copy the tensors of a safetensors file into a network.

    Raises IntegrityError, with the reason alone, where the content is no such file, or its tensors
    are not those of the network.
    """
    try:
        tensors = load(content)
    # Of its format, of types that torch does not have, and of what numpy says of odd sizes.
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise IntegrityError(
            f"it is no safetensors file: {type(error).__name__}: {one_line(str(error))}"
        ) from error
    fill_with(model, tensors)


def fill_with(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy named tensors into a network.

    Raises IntegrityError, with the reason alone, where they do not have the names, shapes and types
    of the network's own, all of them finite.
    """
    own = model.state_dict()
    for name, tensor in tensors.items():
        if name in own:
            _check(name, tensor, own[name])
    try:
        model.load_state_dict(tensors)
    # A network may load its weights in its own way.
    except Exception as error:
        raise IntegrityError(one_line(str(error))) from error


def _check(name: str, tensor: object, own: object) -> None:
    if not isinstance(tensor, Tensor):
        raise IntegrityError(f"{shown(name)} is {type(tensor).__name__}, and no tensor")
    # load_state_dict would round float64, and take integers for weights.
    if isinstance(own, Tensor) and tensor.dtype != own.dtype:
        raise IntegrityError(
            f"{shown(name)} is {tensor.dtype}, and the network's own is {own.dtype}; save the "
            "weights in the network's types"
        )
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise IntegrityError(f"{shown(name)} has entries that are NaN or infinite; train it again")
