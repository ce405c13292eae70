"""Full float32 precision during evaluation: no TF32, no bfloat16 products, no autocast.

GPUs may round the factors of float32 products to 10 bits (TF32), and some processors to bfloat16,
where a global flag allows it; torch allows it by default in convolutions on GPUs. That changes
logits by thousands of units in the last place, more than any certificate allows for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch

# The precision that results report.
PRECISION = "float32 without TF32"
_BACKENDS = ("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn", "cuda.matmul", "cudnn.conv", "cudnn.rnn")
# These flags let sums of half-precision products be accumulated in half precision.
_REDUCED = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in float32, without autocast; restore all flags afterwards."""
    precision, strict = torch.get_float32_matmul_precision(), _strict_flags()
    before = [(holder, name, getattr(holder, name)) for holder, name, _ in strict]
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        try:
            _set("highest", strict)
            yield
        finally:
            _set(precision, before)


def _set(matmul_precision: str, flags: list[tuple[Any, str, object]]) -> None:
    with warnings.catch_warnings():
        # torch has two APIs for these flags, and warns where both are used.
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision(matmul_precision)
        for holder, name, value in flags:
            setattr(holder, name, value)


def is_full() -> bool:
    """Return whether float32 products are computed in float32 now."""
    autocast = any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))
    highest = torch.get_float32_matmul_precision() == "highest"
    strict = all(getattr(holder, name) == value for holder, name, value in _strict_flags())
    return highest and not autocast and strict


def _strict_flags() -> list[tuple[Any, str, object]]:
    """Return the flags of this version of torch: holder, name, and the strict value."""
    flags: list[tuple[Any, str, object]] = [
        (torch.backends.cuda.matmul, name, False)
        for name in _REDUCED
        if hasattr(torch.backends.cuda.matmul, name)
    ]
    if hasattr(torch.backends, "fp32_precision"):
        backends = [attrgetter(path)(torch.backends) for path in _BACKENDS]
        return [*flags, *((backend, "fp32_precision", "ieee") for backend in backends)]
    return [
        *flags,
        (torch.backends.cuda.matmul, "allow_tf32", False),
        (torch.backends.cudnn, "allow_tf32", False),
    ]
