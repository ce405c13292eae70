"""The examples of a split in files, read one range at a time, and the data set that they make."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from robustbench_dyn.datasets.dataset import (
    Availability,
    DatasetInfo,
    RawSplit,
    Rows,
    Split,
)
from robustbench_dyn.datasets.identity import name_of
from robustbench_dyn.datasets.stable_random import permute
from robustbench_dyn.errors import InputError, IntegrityError, one_line, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Bytes whose largest value, over so many examples, is below this are levels of another scale, such
# as 0 to 16.
_LEAST_BRIGHTEST = 32
N_SAMPLED = 64


class Inputs(NamedTuple):
    """Inputs as they were read. x: (n, C, H, W), uint8 or float32; x / white lies in [0, 1]."""

    x: NDArray[Any]
    white: float


class Examples(ABC):
    """The examples of one split. Subclasses say where they are and how a range of them is read.

    y: (n,), int64, known before any input is read.
    """

    y: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    @abstractmethod
    def read(self, rows: range) -> Inputs:
        """Read the inputs of some examples, a range with step 1."""

    @abstractmethod
    def hash(self) -> str:
        """Return the SHA-256 of all of the split: inputs, labels, order, and how they are read."""

    @cached_property
    def sha256(self) -> str:
        """As hash() returns it, computed once."""
        return self.hash()

    def rows(self, rows: range) -> Rows:
        """Read some examples, with their labels and the hash of the split."""
        x, white = self.read(rows)
        return Rows(x, self.y[rows.start : rows.stop], white, self.sha256)


class ArrayExamples(Examples):
    """Examples that are in memory; origin: names them in messages."""

    def __init__(self, x: NDArray[Any], y: NDArray[Any], *, origin: str) -> None:
        self._x, self.y, self._origin = as_images(x, origin), as_labels(y, origin), origin
        check_lengths(len(x), len(y), origin)
        check_scale(self._x[:N_SAMPLED], origin)

    def read(self, rows: range) -> Inputs:
        return checked_inputs(self._x[rows.start : rows.stop], rows, self._origin)

    def hash(self) -> str:
        about = f"arrays 1 {self._x.dtype.str} {self._x.shape}"
        little_endian = np.ascontiguousarray(
            self._x, dtype=self._x.dtype.newbyteorder("<")
        ).tobytes()
        return digest_of(about, little_endian, self.y.astype("<i8").tobytes())


def digest_of(*parts: str | bytes) -> str:
    """Return the SHA-256 of parts, each with its length before it, so that none merge."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(f"{len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def data_set(
    splits: Mapping[Split, Examples],
    *,
    name: str | None,
    stem: str,
    source: str,
    class_names: Sequence[str] = (),
    availability: Availability = "shipped",
    licence: str = "not stated",
) -> DatasetInfo:
    """Return the data set that some splits make.

    name: as it is registered; None names it by stem and the hash of the test split. class_names:
    where they are known; else they are the labels as digits.
    Raises InputError where a label has no class, and IntegrityError where an input is damaged.
    """
    n_classes = 1 + max(int(examples.y.max()) for examples in splits.values())
    if class_names and n_classes > len(class_names):
        split, row = next(
            (split, int(np.argmax(examples.y >= len(class_names))))
            for split, examples in splits.items()
            if examples.y.max() >= len(class_names)
        )
        raise InputError(
            f"label {splits[split].y[row]} of example {row} of the {split} split of {source} has "
            f"no class: there are {len(class_names)} class names, and labels count from 0"
        )
    names = tuple(class_names) or tuple(str(label) for label in range(max(2, n_classes)))
    _, *shape = splits["test"].read(range(1)).x.shape

    def load_rows(split: Split, rows: range, _data_dir: Path | None) -> Rows:
        return splits[split].rows(rows)

    def load_raw(split: Split, _data_dir: Path | None) -> RawSplit:
        examples = splits[split]
        x, white = examples.read(range(len(examples)))
        return RawSplit(x, examples.y, white)

    return DatasetInfo(
        name=name or name_of(stem, splits["test"].sha256),
        input_shape=(shape[0], shape[1], shape[2]),
        class_names=names,
        sizes={split: len(examples) for split, examples in splits.items()},
        availability=dict.fromkeys(splits, availability),
        source=source,
        licence=licence,
        load_raw=load_raw,
        load_rows=load_rows,
    )


def check_lengths(n_inputs: int, n_labels: int, origin: str) -> None:
    """Raise InputError where inputs and labels are not as many, or there are none."""
    if n_inputs != n_labels or n_inputs == 0:
        raise InputError(
            f"{origin} has {n_inputs} inputs and {n_labels} labels; give one label for each input, "
            "and at least one of them"
        )


def as_labels(y: NDArray[Any], origin: str) -> NDArray[np.int64]:
    """Return labels as (n,), int64; raises InputError where they are none."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise InputError(
            f"the labels of {origin} are {y.dtype} of shape {y.shape}; give integers of shape "
            "(n,), the number of each example's class, from 0"
        )
    if len(y) and y.min() < 0:
        row = int(np.argmax(y < 0))
        raise InputError(f"label {y[row]} of example {row} of {origin} is negative; count from 0")
    if len(y) and y.max() > np.iinfo(np.int32).max:
        row = int(np.argmax(y))
        raise InputError(f"label {y[row]} of example {row} of {origin} is no number of a class")
    return y.astype(np.int64)


def images_shape(shape: Sequence[int], origin: str) -> tuple[tuple[int, int, int], bool]:
    """Return what (n, ...) is of inputs as (C, H, W), and whether channels come last.

    (n, d) are points, and become (d, 1, 1); (n, H, W) are grey images. Of (n, H, W, C), the last
    axis is the channels where it has 1, 3 or 4 of them and the second has other than 1 or 3.
    Raises InputError for any other shape.
    """
    if len(shape) not in (2, 3, 4) or min(shape[1:]) < 1:
        raise InputError(
            f"the inputs of {origin} have shape {tuple(shape)}; give (n, C, H, W), (n, H, W, C), "
            "(n, H, W) or (n, d)"
        )
    if len(shape) == 2:
        return (shape[1], 1, 1), False
    if len(shape) == 3:
        return (1, shape[1], shape[2]), False
    _, a, b, c = shape
    if c in (1, 3, 4) and a not in (1, 3) and min(a, b) > 4:
        return (c, a, b), True
    return (a, b, c), False


def as_images(x: NDArray[Any], origin: str) -> NDArray[Any]:
    """Return inputs as (n, C, H, W), uint8 or float32; raises InputError where they are none."""
    shape, channels_last = images_shape(x.shape, origin)
    check_type(x.dtype, origin)
    x = x if x.dtype == np.uint8 else x.astype(np.float32)
    return np.moveaxis(x, -1, 1) if channels_last else x.reshape(len(x), *shape)


def check_type(dtype: np.dtype[Any], origin: str) -> None:
    """Raise InputError where inputs of this type are neither bytes nor floats."""
    if dtype.kind != "f" and dtype != np.uint8:
        raise InputError(
            f"the inputs of {origin} are {dtype}; give uint8 from 0 to 255, or floats in [0, 1]"
        )


def checked_inputs(x: NDArray[Any], rows: range, origin: str) -> Inputs:
    """Return inputs with their white; raises IntegrityError, with the row, for one out of range."""
    if x.dtype == np.uint8:
        return Inputs(np.ascontiguousarray(x), 255)
    flat = x.reshape(len(x), -1)
    # Written so that NaN fails it.
    wrong = ~((flat.min(axis=1) >= 0) & (flat.max(axis=1) <= 1))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise IntegrityError(
            f"example {rows[i]} of {origin} has values from {flat[i].min():g} to "
            f"{flat[i].max():g}; inputs must lie in [0, 1]: divide by 255, and put any "
            "normalisation inside the model"
        )
    return Inputs(np.ascontiguousarray(x), 1)


def check_scale(sample: NDArray[Any], origin: str) -> None:
    """Raise InputError where bytes are too small to be parts of 255; sample: N_SAMPLED examples."""
    if sample.dtype == np.uint8 and 0 < sample.max() < _LEAST_BRIGHTEST:
        raise InputError(
            f"the inputs of {origin} are bytes up to {sample.max()}, which is nearly black where "
            "255 is white; give bytes up to 255, or floats in [0, 1]"
        )


def mixed(y: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the order in which to take examples: a fixed permutation where labels are sorted.

    Else the first examples, which an evaluation takes, would be of one class.
    """
    n = len(y)
    is_sorted = y[0] != y[-1] and bool((np.diff(y) >= 0).all())
    return permute(n, seed=0) if is_sorted else np.arange(n)


def existing(path: str | os.PathLike[str], what: str) -> Path:
    """Return the path of a regular file or a folder, ~ expanded.

    Raises InputError where nothing is there, or a pipe or a device, which could be read for ever.
    """
    try:
        found = Path(path).expanduser()
        if found.is_file() or found.is_dir():
            return found
        state = "is no file" if found.exists() else "does not exist"
    # A name that is too long, and a user after ~ who does not exist.
    except (OSError, RuntimeError, ValueError) as error:
        state = f"cannot be opened ({one_line(str(error), most=80)})"
    raise InputError(f"{shown(str(path))} {state}; give {what}")
