"""Files of weights of the user's own: safetensors, or what torch.save wrote."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_dyn.errors import IntegrityError, one_line
from robustbench_dyn.models.sources.base import check_file

if TYPE_CHECKING:
    from torch import nn

# What training scripts call the state_dict among other things that they save with it.
_KEYS = ("state_dict", "model_state_dict", "model")


def fill_from_file(model: nn.Module, path: Path) -> str:
    """Fill a network with the tensors of a file; return the SHA-256 of the file.

    Raises InputError where there is no such file, IntegrityError where it holds no weights of this
    network. A pickle is read as data: no code of it runs.
    """
    from robustbench_dyn.models.weights import fill, fill_with

    check_file(path)
    content = path.read_bytes()
    try:
        if path.suffix == ".safetensors":
            fill(model, content)
        else:
            fill_with(model, _unpickled(content))
    except IntegrityError as error:
        raise IntegrityError(f"the weights in {path} do not fit: {error}") from error
    return hashlib.sha256(content).hexdigest()


def _unpickled(content: bytes) -> dict[str, Any]:
    import io

    import torch

    try:
        held = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    # A damaged pickle may raise anything.
    except Exception as error:
        raise IntegrityError(
            f"it is no file of torch.save that holds tensors alone: {type(error).__name__}: "
            f"{one_line(str(error))}; save model.state_dict(), best as safetensors"
        ) from error
    for key in _KEYS:
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict) or not all(isinstance(name, str) for name in held):
        raise IntegrityError(f"it holds {type(held).__name__}, and no state_dict")
    # torch's DataParallel puts this before all names.
    if held and all(name.startswith("module.") for name in held):
        held = {name.removeprefix("module."): tensor for name, tensor in held.items()}
    return held
