"""Examples of a data set as tensors, checked against what its description promises."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from robustbench_dyn.datasets.catalogue import dataset_info
from robustbench_dyn.datasets.dataset import (
    SPLITS,
    Dataset,
    DatasetInfo,
    Rows,
    Split,
    mark_verified,
)
from robustbench_dyn.datasets.identity import fingerprint
from robustbench_dyn.errors import InputError, IntegrityError, shown

# What files of one's own lack where they have a single split.
_HOW_TO_ADD: Mapping[Split, str] = {
    "train": ", or add one: x_train and y_train in an .npz, DIR/train beside DIR/test in a folder",
    "test": "",
}


def load_dataset(
    dataset: str | DatasetInfo,
    *,
    split: Split = "test",
    first: int = 0,
    n_examples: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Load examples of a split as CPU tensors in [0, 1]: n_examples, or all, from `first` on.

    dataset: a registered name; files in one of the forms, as npz:FILE or folder:DIR; or a
    DatasetInfo. first: an example_id, from 0. data_dir: folder to look in first, and to download
    into; after it come the folder that the environment variable DYNBENCH_DATA names and the user's
    cache.
    Raises InputError where an argument breaks a rule, DataUnavailableError where the split is
    neither shipped, found nor downloadable, and IntegrityError where its files are damaged.
    """
    folder = folder_of_data(data_dir)
    info = dataset if isinstance(dataset, DatasetInfo) else dataset_info(dataset, data_dir=folder)
    if split not in SPLITS:
        raise InputError(f"split={shown(split)} is unknown; choose one of {', '.join(SPLITS)}")
    if split not in info.sizes:
        how = _HOW_TO_ADD[split] if info.is_unregistered else ""
        raise InputError(f"{info.name} has no {split} split; choose {' or '.join(info.sizes)}{how}")
    kept = example_range(info, split, first, n_examples)
    raw = read_rows(info, split, kept, folder)

    import torch  # noqa: PLC0415 - listing the data sets must not import torch

    x = raw.x.astype(np.float32) / np.float32(raw.white)
    return mark_verified(
        Dataset(
            x=torch.from_numpy(x),
            y=torch.from_numpy(raw.y.astype(np.int64)),
            ids=torch.arange(kept.start, kept.stop),
            name=info.name,
            split=split,
            class_names=info.class_names,
            sha256=raw.sha256,
        )
    )


def read_rows(info: DatasetInfo, split: Split, rows: range, data_dir: Path | None) -> Rows:
    """Read some examples of a split as arrays, and no others where the data set can do so.

    Raises IntegrityError where they are not what info promises, and what the data set's own
    functions raise.
    """
    if info.load_rows is not None:
        read = info.load_rows(split, rows, data_dir)
        _check_promises(info, split, read, len(rows))
        return read
    x, y, white = info.load_raw(split, data_dir)
    _check_promises(info, split, Rows(x, y, white, ""), info.sizes[split])
    part = slice(rows.start, rows.stop)
    return Rows(x[part], y[part], white, fingerprint(x, y))


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


def folder_of_data(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """Return data_dir as a path, ~ expanded; raises InputError where it is no folder."""
    if data_dir is None:
        return None
    if not isinstance(data_dir, (str, os.PathLike)):
        raise InputError(f"data_dir={data_dir!r} must be the path of a folder")
    folder = Path(data_dir).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"data_dir={str(folder)!r} is a file; give the folder that holds the data")
    return folder


def _check_promises(info: DatasetInfo, split: Split, raw: Rows, n: int) -> None:
    """Raise IntegrityError where arrays of n examples are not what the catalogue says of them."""
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
