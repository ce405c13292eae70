"""Check the data and the store of an evaluation, and bring them into one form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_dyn.datasets import DATASETS, Dataset, DatasetInfo, load_dataset
from robustbench_dyn.datasets.dataset import SPLITS, is_verified, mark_verified
from robustbench_dyn.datasets.identity import name_of
from robustbench_dyn.errors import InputError
from robustbench_dyn.models.identity import hash_tensors
from robustbench_dyn.names import check_name
from robustbench_dyn.results.store import Store

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
Data = Dataset | DatasetInfo | str | tuple[Tensor | NDArray[Any], Tensor | NDArray[Any]]
_WANTED = (
    "data must be the name of a data set or of files (npz:FILE, folder:DIR, ...), a Dataset, or a "
    "pair (x, y) of tensors or arrays"
)
# What else holds examples, and how to get a pair out of it, by the name of its class.
_PAIR_OF = {
    "DataLoader": "join its batches: x, y = (torch.cat(parts) for parts in zip(*loader))",
    "TensorDataset": "give its tensors: dataset.tensors",
    "Subset": "join its examples: x, y = map(torch.stack, ...)",
}


def as_dataset(data: Data, n_examples: int | None, *, first: int = 0) -> Dataset:
    """Return a range of examples of a data set by name, a Dataset, or tensors, once checked.

    Tensors and arrays that nothing named are custom-1a2b3c4d, by the first digits of their SHA-256.
    n_examples: how many, all from the example at position `first` where it is None.
    Raises InputError for tensors that are no examples, and for a Dataset whose sha256 belongs to
    other tensors.
    """
    if n_examples is not None and (isinstance(n_examples, bool) or not _is_integer(n_examples)):
        raise InputError(f"n_examples={n_examples!r} is not a whole number")
    if isinstance(first, bool) or not _is_integer(first):
        raise InputError(f"first={first!r} is not a whole number")
    if isinstance(data, (str, DatasetInfo)):
        data, first = load_dataset(data, first=first, n_examples=n_examples), 0
    if not isinstance(data, Dataset):
        data = _from_tensors(data)
    _check_tensors(data.x, data.y)
    _check_ids(data)
    if not is_verified(data):
        data = _verified(data)
    n = len(data)
    if not 0 <= first < n:
        raise InputError(f"first={first} must lie between 0 and {n - 1}, the last example there is")
    if n_examples is not None and not 1 <= n_examples <= n - first:
        after = f" from example {first} on" if first else ""
        raise InputError(
            f"n_examples={n_examples} must lie between 1 and the {n - first} there are{after}"
        )
    part = data.rows(int(first), n if n_examples is None else int(first + n_examples))
    return mark_verified(replace(part, y=part.y.long(), ids=part.ids.long()))


def _from_tensors(data: object) -> Dataset:
    """Return a pair of tensors or arrays (x, y) as a Dataset, named by its content."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        kind = type(data).__name__
        raise InputError(f"data is of type {kind}; {_PAIR_OF.get(kind, _WANTED)}")
    x, y = (cast("Tensor", _as_tensor(part)) for part in data)
    _check_tensors(x, y)
    sha256 = hash_tensors({"x": x, "y": y})
    return mark_verified(
        Dataset(
            x=x,
            y=y.long(),
            ids=torch.arange(len(x)),
            name=name_of("custom", sha256),
            split="test",
            class_names=(),
            sha256=sha256,
        )
    )


def _as_tensor(part: object) -> object:
    """Return an array as a tensor of its own memory, and anything else as it is.

    Floats become float32, which networks take, though numpy's own are float64.
    """
    if not isinstance(part, np.ndarray) or part.dtype.kind not in "fiu":
        return part
    return torch.from_numpy(part.astype(np.float32 if part.dtype.kind == "f" else np.int64))


def _verified(data: Dataset) -> Dataset:
    """Return a Dataset that no loader made, or that was changed since, with its own sha256."""
    check_name(data.name, "data set")
    if data.split not in SPLITS:
        raise InputError(f"split={data.split!r} is unknown; choose one of {', '.join(SPLITS)}")
    tensors = {"x": data.x, "y": data.y}
    if not torch.equal(data.ids.cpu(), torch.arange(len(data))):
        tensors["ids"] = data.ids
    sha256 = hash_tensors(tensors)
    if data.sha256 not in ("", sha256):
        raise InputError(
            f"sha256={data.sha256!r} does not belong to the tensors of this {data.name}; give "
            "sha256='', and it is computed"
        )
    # What a registered name stands for is known, and these tensors are others.
    name = name_of(data.name, sha256) if data.name in DATASETS else data.name
    return replace(data, name=name, sha256=sha256)


def _check_tensors(x: Tensor, y: Tensor) -> None:
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise InputError(_WANTED)
    for name, tensor in (("x", x), ("y", y)):
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise InputError(f"{name} must be an ordinary dense tensor; call to_dense() on it")
    if x.dim() < 2 or len(x) == 0 or y.shape != x.shape[:1]:
        raise InputError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; "
            "give x as (n, *input_shape) and y as (n,), n at least 1"
        )
    if x.dtype not in _FLOATS or y.dtype not in _INTEGERS:
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
    if not isinstance(ids, Tensor) or ids.shape != y.shape or ids.dtype not in _INTEGERS:
        raise InputError("ids must be a tensor of integers, (n,), one for each example")
    if len(set(ids.tolist())) < len(ids) or ids.min() < 0:
        raise InputError("ids must be different for all examples, and 0 or more")
    names = data.class_names
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
        raise InputError(f"class_names={names!r} must be a tuple of strings, empty where unknown")
    if data.n_classes and y.max() >= data.n_classes:
        raise InputError(
            f"labels go up to {int(y.max())}, but {data.name} has {data.n_classes} classes; "
            "labels count from 0"
        )


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer))


@contextmanager
def open_store(store: Store | Path | str | None) -> Iterator[Store]:
    """Yield a store, which is closed again if it was opened here; in memory for None."""
    if isinstance(store, Store):
        yield store
        return
    if store is not None and not isinstance(store, (str, Path)):
        raise InputError(f"store={store!r} must be a Store, the path of a file, or None")
    opened = Store(Path(store) if store is not None else None)
    try:
        yield opened
    finally:
        opened.close()
