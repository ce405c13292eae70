"""How many inputs to give a model at once: where more of them stop being faster, or do not fit."""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor, nn

_SMALLEST, _LARGEST = 16, 1024
# Twice the batch has to be this much faster an input, or it is not worth its memory.
_WORTH = 1.05
# A forward and its graph may fill this share of the free memory.
_SHARE_OF_MEMORY = 0.25


def choose_batch_size(model: nn.Module, x: Tensor) -> int:
    """Measure a forward and backward pass of model at growing batches; return the best batch.

    x: (n, *input_shape), on the model's device; its inputs are repeated to fill a batch.
    """
    largest = min(_LARGEST, max(1, int(_SHARE_OF_MEMORY * _free_memory(x) / _bytes_each(model, x))))
    best, fastest = min(_SMALLEST, largest), 0.0
    size = best
    while size <= largest:
        speed = size / _seconds(model, x, size)
        if speed < _WORTH * fastest:
            break
        best, fastest = size, speed
        size *= 2
    return best


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error says that memory ran out, on a CPU or on a GPU."""
    out_of_memory = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, out_of_memory) or "allocate memory" in str(error)


def _seconds(model: nn.Module, x: Tensor, size: int) -> float:
    batch = x[torch.arange(size, device=x.device) % len(x)]
    best = float("inf")
    # The first pass at a new size may choose its kernels; the fastest one counts.
    for _ in range(3):
        inputs = batch.clone().requires_grad_()
        started = time.perf_counter()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(model(inputs).sum(), inputs, allow_unused=True)
        if gradient is not None and gradient.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def _bytes_each(model: nn.Module, x: Tensor) -> int:
    """Estimate what one input's forward and backward hold: every module's output, twice."""
    total = 0

    def add(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()

    hooks = [module.register_forward_hook(add) for module in model.modules()]
    try:
        with torch.no_grad():
            model(x[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return 2 * max(total, 1)


def _free_memory(x: Tensor) -> int:
    if x.is_cuda:
        return int(torch.cuda.mem_get_info(x.device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return 2**30
