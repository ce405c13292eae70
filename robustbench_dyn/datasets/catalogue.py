"""Data sets by name, and how they are loaded."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from robustbench_dyn.datasets import cifar10, digits, fashion_mnist, isolated, mnist, toys
from robustbench_dyn.datasets.dataset import (
    SPLITS,
    Dataset,
    DatasetInfo,
    RawSplit,
    Split,
    mark_verified,
)
from robustbench_dyn.errors import InputError, IntegrityError, shown
from robustbench_dyn.plugins import Entry, Registry, from_plugins


def _check_type(_name: str, info: object) -> None:
    if not isinstance(info, DatasetInfo):
        raise InputError(f"it is a {type(info).__name__}, and must be a DatasetInfo")


DATASETS: Registry[DatasetInfo] = Registry(
    "data set",
    (
        Entry(info.name, info, description=info.source)
        for info in (
            fashion_mnist.INFO,
            mnist.INFO,
            cifar10.INFO,
            digits.INFO,
            toys.MOONS,
            toys.SPIRALS,
        )
    ),
    from_plugins=from_plugins("datasets", _check_type, of_foreign=isolated.of_foreign_plugin),
)


def dataset_names() -> tuple[str, ...]:
    """Name every data set that load_dataset can load."""
    return tuple(name for name, entry in DATASETS.entries().items() if not entry.problem)


def dataset_info(name: str) -> DatasetInfo:
    """Return a data set's facts without loading it.

    Raises InputError, with the nearest name, where there is none of that name.
    """
    if not isinstance(name, str):
        raise InputError(f"{name!r} is no name of a data set; choose {', '.join(DATASETS)}")
    return DATASETS.get(name)


def load_dataset(
    dataset: str | DatasetInfo,
    *,
    split: Split = "test",
    first: int = 0,
    n_examples: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Load examples of a split as CPU tensors in [0, 1]: n_examples, or all, from `first` on.

    dataset: a name, or a DatasetInfo. first: an example_id, from 0. data_dir: folder to look in
    first, and to download into; after it come the folder that the environment variable
    DYNBENCH_DATA names and the user's cache.
    Raises InputError where an argument breaks a rule, DataUnavailableError where the split is
    neither shipped, found nor downloadable, and IntegrityError where its files are damaged.
    """
    info = dataset if isinstance(dataset, DatasetInfo) else dataset_info(dataset)
    if split not in SPLITS:
        raise InputError(f"split={shown(split)} is unknown; choose one of {', '.join(SPLITS)}")
    if split not in info.sizes:
        raise InputError(f"{info.name} has no {split} split; choose {' or '.join(info.sizes)}")
    kept = example_range(info, split, first, n_examples)
    raw = info.load_raw(split, _folder(data_dir))
    _check_promises(info, split, raw)

    import torch  # noqa: PLC0415 - listing the data sets must not import torch

    x = raw.x[kept.start : kept.stop].astype(np.float32) / np.float32(raw.white)
    return mark_verified(
        Dataset(
            x=torch.from_numpy(x),
            y=torch.from_numpy(raw.y[kept.start : kept.stop].astype(np.int64)),
            ids=torch.arange(kept.start, kept.stop),
            name=info.name,
            split=split,
            class_names=info.class_names,
            sha256=fingerprint(raw),
        )
    )


def example_range(info: DatasetInfo, split: Split, first: int, n_examples: int | None) -> range:
    """Return the ids of n_examples, or of all, from `first` on; nothing is loaded.

    Raises InputError where the split has no such examples.
    """
    size = info.sizes[split]
    has = f"the {split} split of {info.name} has {size} examples"
    if isinstance(first, bool) or not isinstance(first, (int, np.integer)):
        raise InputError(f"first={shown(first)} is not a whole number; give 0 to {size - 1}")
    if not 0 <= first < size:
        raise InputError(f"first={first} is out of range: {has}; give 0 to {size - 1}")
    left = size - int(first)
    if n_examples is None:
        return range(int(first), size)
    if isinstance(n_examples, bool) or not isinstance(n_examples, (int, np.integer)):
        raise InputError(f"n_examples={shown(n_examples)} is not a whole number; give 1 to {left}")
    if not 1 <= n_examples <= left:
        after = f", {left} from example {first} on" if first else ""
        raise InputError(f"n_examples={n_examples} is out of range: {has}{after}; give 1 to {left}")
    return range(int(first), int(first + n_examples))


def _folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    if data_dir is None:
        return None
    if not isinstance(data_dir, (str, os.PathLike)):
        raise InputError(f"data_dir={data_dir!r} must be the path of a folder")
    folder = Path(data_dir).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"data_dir={str(folder)!r} is a file; give the folder that holds the data")
    return folder


def _check_promises(info: DatasetInfo, split: Split, raw: RawSplit) -> None:
    """Raise IntegrityError where the arrays are not what the catalogue says about them."""
    n = info.sizes[split]
    what = f"the {split} split of {info.name}"
    remedy = "delete the files and load it again"
    if raw.x.shape != (n, *info.input_shape) or raw.y.shape != (n,):
        raise IntegrityError(
            f"{what} has x of shape {raw.x.shape} and y of shape {raw.y.shape}, expected "
            f"{(n, *info.input_shape)} and {(n,)}; {remedy}"
        )
    if raw.y.min() < 0 or raw.y.max() >= info.n_classes:
        raise IntegrityError(
            f"{what} has labels from {raw.y.min()} to {raw.y.max()}, expected 0 to "
            f"{info.n_classes - 1}; {remedy}"
        )
    # Written so that NaN fails it.
    if not (raw.x.min() >= 0 and raw.x.max() <= raw.white):
        raise IntegrityError(
            f"{what} has inputs from {raw.x.min()} to {raw.x.max()}, expected 0 to "
            f"{raw.white:g}; {remedy}"
        )


def fingerprint(raw: RawSplit) -> str:
    """SHA-256 of x's own bytes (little-endian), then of y as one byte a label."""
    little_endian = raw.x.dtype.newbyteorder("<")
    digest = hashlib.sha256(raw.x.astype(little_endian, copy=False).tobytes())
    digest.update(raw.y.astype(np.uint8).tobytes())
    return digest.hexdigest()
