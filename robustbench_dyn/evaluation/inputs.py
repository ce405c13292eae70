"""Check what an evaluation is given, and bring it into one form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from robustbench_dyn.datasets import Dataset, load_dataset
from robustbench_dyn.errors import InputError, shown
from robustbench_dyn.models.identity import hash_tensors
from robustbench_dyn.results.store import Store
from robustbench_dyn.threat_models import Norm, ThreatModel

Data = Dataset | str | tuple[Tensor, Tensor]


def check_options(
    threat_models: Sequence[ThreatModel], batch_size: int | Literal["auto"], audit_share: float
) -> Norm:
    """Return the norm of the threat models; raises InputError for options that make no sense."""
    norms = {threat_model.norm for threat_model in threat_models}
    if len(norms) != 1:
        raise InputError(
            f"give threat models of one norm, and at least one; these have {sorted(norms)}"
        )
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
        raise InputError(f"batch_size={shown(batch_size)} must be 'auto' or a number of at least 1")
    if not 0 <= audit_share <= 1:
        raise InputError(f"audit_share={audit_share} must be a fraction between 0 and 1")
    return norms.pop()


def as_dataset(data: Data, n_examples: int | None) -> Dataset:
    """Return the first examples of a data set by name, a Dataset, or tensors, once checked."""
    if isinstance(data, str):
        data = load_dataset(data, n_examples=n_examples)
    if not isinstance(data, Dataset):
        x, y = data
        _check_tensors(x, y)
        data = Dataset(
            x=x,
            y=y.long(),
            ids=torch.arange(len(x)),
            name="custom",
            split="test",
            class_names=(),
            sha256=hash_tensors({"x": x, "y": y}),
        )
    _check_tensors(data.x, data.y)
    _check_ids(data)
    n = len(data)
    if n_examples is not None and not 1 <= n_examples <= n:
        raise InputError(f"n_examples={n_examples} must lie between 1 and the {n} there are")
    first = data.rows(0, n if n_examples is None else n_examples)
    return replace(first, y=first.y.long(), ids=first.ids.long())


def _check_tensors(x: Tensor, y: Tensor) -> None:
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise InputError("data must be a data set's name, a Dataset, or a pair of tensors (x, y)")
    if x.dim() < 2 or len(x) == 0 or y.shape != x.shape[:1]:
        raise InputError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; "
            "give x as (n, *input_shape) and y as (n,), n at least 1"
        )
    if not x.is_floating_point() or y.is_floating_point():
        raise InputError(f"x is {x.dtype} and y {y.dtype}; give float inputs and integer labels")
    if not x.isfinite().all() or x.min() < 0 or x.max() > 1:
        raise InputError(
            f"inputs lie in [{float(x.min()):g}, {float(x.max()):g}]; they must lie in [0, 1]: "
            "divide by 255, and put any normalisation inside the model"
        )
    if y.min() < 0:
        raise InputError(f"labels must be 0 or more; the smallest is {int(y.min())}")


def _check_ids(data: Dataset) -> None:
    """Raise InputError where a verdict could be taken for that of another example or class."""
    ids, y = data.ids, data.y
    if not isinstance(ids, Tensor) or ids.shape != y.shape or ids.is_floating_point():
        raise InputError("ids must be a tensor of integers, (n,), one for each example")
    if len(set(ids.tolist())) < len(ids) or ids.min() < 0:
        raise InputError("ids must be different for all examples, and 0 or more")
    if data.n_classes and y.max() >= data.n_classes:
        raise InputError(
            f"labels go up to {int(y.max())}, but {data.name} has {data.n_classes} classes; "
            "labels count from 0"
        )


def device_of(model: nn.Module, device: str | torch.device | None) -> torch.device:
    """Return the device that is named, or else that of the model's tensors."""
    if device is not None:
        return torch.device(device)
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def open_store(store: Store | Path | str | None) -> Iterator[Store]:
    """Yield a store, which is closed again if it was opened here; in memory for None."""
    if isinstance(store, Store):
        yield store
        return
    opened = Store(Path(store) if store is not None else None)
    try:
        yield opened
    finally:
        opened.close()
