"""Circular padding as a selection of places, which can be traced.

torch writes its parts into a new tensor, one after the other, as no affine map does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class CircularPadding(TorchFunctionMode):
    """Replaces torch.nn.functional.pad in circular mode by an operation with the same values."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.pad:
            given = dict(zip(("input", "pad", "mode"), args, strict=False)) | kwargs
            if given.get("mode") == "circular":
                return _padded(given["input"], given["pad"])
        return function(*args, **kwargs)


def _padded(x: Tensor, pad: tuple[int, ...]) -> Tensor:
    """Return x with each dimension continued periodically; pad: before and after, last first."""
    for k, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim, size = x.dim() - 1 - k, x.shape[-1 - k]
        places = torch.arange(-before, size + after, device=x.device) % size
        x = x.index_select(dim, places)
    return x
