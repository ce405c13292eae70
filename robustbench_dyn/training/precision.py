"""The precision of a training: bfloat16 only where products in it are fast.

Processors without instructions for bfloat16 emulate it, which makes a training many times slower.
"""

from __future__ import annotations

import logging
import time
from typing import Literal

import torch

log = logging.getLogger(__name__)

# Around products that take this many times longer than in float32, nothing is won by the smaller
# tensors. Emulated ones take 3 to 70 times as long; with instructions, they take half as long.
_SLOWER = 1.5
_SIZE, _REPEATS = 256, 5


def uses_bfloat16(precision: Literal["float32", "bfloat16"], device: torch.device) -> bool:
    """Say whether a training computes in bfloat16: where its recipe asks for it, and it is fast.

    It is measured on this device. Where bfloat16 is slow, a warning says that float32 is used.
    """
    if precision == "float32":
        return False
    slower = seconds_of_products(torch.bfloat16, device) / seconds_of_products(
        torch.float32, device
    )
    if slower <= _SLOWER:
        return True
    log.warning(
        "training in float32, though the recipe asks for bfloat16: here its products take %.0f "
        "times as long",
        slower,
    )
    return False


def seconds_of_products(dtype: torch.dtype, device: torch.device) -> float:
    """Return the least wall-clock time of a product of two square matrices."""
    a = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
    times = list[float]()
    for _ in range(_REPEATS):
        started = time.perf_counter()
        # Reading a number waits for the device.
        float((a @ a)[0, 0])
        times.append(time.perf_counter() - started)
    return min(times)
