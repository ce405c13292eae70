"""float32 as it says: no TF32, no bfloat16 in products, no autocast, while anything is judged.

GPUs may round the factors of float32 products to 10 bits (TF32), and some processors to bfloat16,
where a global flag allows it; in convolutions on GPUs torch allows it by default. That moves logits
by thousands of units in the last place, which no certificate allows for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch

# What results say of how they were computed.
PRECISION = "float32 without TF32"
_EACH = ("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn", "cuda.matmul", "cudnn.conv", "cudnn.rnn")
# Sums of half precision may be kept in half precision.
_REDUCED = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute products of float32 in float32, and outside of autocast; put all flags back."""
    before, each = torch.get_float32_matmul_precision(), _each()
    kept = [(holder, name, getattr(holder, name)) for holder, name, _ in each]
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        try:
            _set("highest", each)
            yield
        finally:
            _set(before, kept)


def _set(products: str, flags: list[tuple[Any, str, object]]) -> None:
    with warnings.catch_warnings():
        # torch warns of either of its two ways to say it.
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision(products)
        for holder, name, value in flags:
            setattr(holder, name, value)


def is_full() -> bool:
    """Say whether products of float32 are computed in float32 now."""
    autocast = any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))
    highest = torch.get_float32_matmul_precision() == "highest"
    return highest and not autocast and all(
        getattr(holder, name) == value for holder, name, value in _each()
    )  # fmt: skip


def _each() -> list[tuple[Any, str, object]]:
    """Return the flags of this version of torch: holder, name, and the value that is wanted."""
    found: list[tuple[Any, str, object]] = [
        (torch.backends.cuda.matmul, name, False)
        for name in _REDUCED
        if hasattr(torch.backends.cuda.matmul, name)
    ]
    if hasattr(torch.backends, "fp32_precision"):
        return found + [
            (attrgetter(path)(torch.backends), "fp32_precision", "ieee") for path in _EACH
        ]
    return [
        *found, (torch.backends.cuda.matmul, "allow_tf32", False),
        (torch.backends.cudnn, "allow_tf32", False),
    ]  # fmt: skip
