"""Choose a batch size: the largest one that still gains speed and fits into memory."""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor, nn

from robustbench_dyn.models.machine_errors import is_machine_error

_SMALLEST, _LARGEST = 16, 1024
# Doubling the batch must gain this factor in speed per input to be worth its memory.
_MIN_SPEEDUP = 1.05
# A forward pass and its graph may fill this fraction of the free memory.
_MEMORY_FRACTION = 0.25


def choose_batch_size(model: nn.Module, x: Tensor) -> int:
    """Measure a forward and backward pass at growing batch sizes; return the best batch size.

    x: (n, *input_shape), on the model's device; its inputs are repeated to fill a batch. A size at
    which the machine fails ends the measurement.
    """
    largest = min(
        _LARGEST, max(1, int(_MEMORY_FRACTION * _free_memory(x) / _bytes_per_input(model, x)))
    )
    best, fastest = min(_SMALLEST, largest), 0.0
    size = best
    while size <= largest:
        try:
            speed = size / _seconds(model, x, size)
        except Exception as error:
            if not is_machine_error(error):
                raise
            break
        if speed < _MIN_SPEEDUP * fastest:
            break
        best, fastest = size, speed
        size *= 2
    return best


def _seconds(model: nn.Module, x: Tensor, size: int) -> float:
    batch = x[torch.arange(size, device=x.device) % len(x)]
    best = float("inf")
    # The first pass at a new size may select kernels, so that the fastest pass counts.
    for _ in range(3):
        inputs = batch.clone().requires_grad_()
        started = time.perf_counter()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(model(inputs).sum(), inputs, allow_unused=True)
        if gradient is not None and gradient.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def _bytes_per_input(model: nn.Module, x: Tensor) -> int:
    """Estimate the memory of a forward and backward pass: twice the outputs of all modules."""
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
    except (AttributeError, ValueError, OSError):  # not every system has it
        return 2**30
