"""Data sets in one .npz file of numpy: arrays x and y, or those of each split."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from robustbench_dyn.datasets.dataset import DatasetInfo, Split
from robustbench_dyn.datasets.file_hashes import hash_file
from robustbench_dyn.datasets.sources.examples import (
    N_SAMPLED,
    Examples,
    Inputs,
    as_images,
    as_labels,
    check_lengths,
    check_scale,
    check_type,
    checked_inputs,
    data_set,
    digest_of,
    existing,
    images_shape,
)
from robustbench_dyn.errors import InputError, IntegrityError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The names of inputs and labels, first choice first: ours and those of Keras, then of MedMNIST.
_KEYS: Mapping[Split, tuple[tuple[str, str], ...]] = {
    "test": (("x_test", "y_test"), ("test_images", "test_labels"), ("x", "y")),
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
}
_CLASS_NAMES = "class_names"
# What zipfile, zlib and numpy raise where a file is not what it should be.
_DAMAGE = (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def from_npz(file: str | os.PathLike[str], *, name: str | None = None) -> DatasetInfo:
    """Return the data set in an .npz file, whose inputs are read when they are asked for.

    Its arrays are x_test and y_test, and x_train and y_train where it has a training split; or x
    and y, which are the test split. Inputs: (n, C, H, W), (n, H, W, C), (n, H, W) or (n, d), uint8
    or floats in [0, 1]. Labels: (n,), integers from 0. class_names, an array of texts, is optional.
    name: as a plugin registers it; None names it by the file and its hash.
    Raises InputError where an array is missing or has another form, and IntegrityError where the
    file is damaged.
    """
    path = existing(file, "an .npz file, which numpy.savez writes")
    archive = _Archive(path)
    splits = dict[Split, Examples]()
    for split, choices in _KEYS.items():
        keys = next((pair for pair in choices if archive.arrays.keys() & set(pair)), None)
        if keys is not None:
            splits[split] = _NpzExamples(archive, split, *keys)
    if "test" not in splits:
        found = ", ".join(archive.arrays) or "none"
        raise InputError(
            f"{path} has no examples to test on: its arrays are {found}; save x and y, or x_test "
            "and y_test (and x_train and y_train to train on)"
        )
    return data_set(
        splits, name=name, stem=path.stem, source=str(path), class_names=archive.class_names()
    )


class _Header(NamedTuple):
    """What stands before the bytes of an array."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]


class _Archive:
    """The arrays in an .npz file: their headers, and their content a piece at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrays = dict[str, _Header]()
        with self._open() as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as stream:
                        self.arrays[member.removesuffix(".npy")] = _read_header(stream)

    def read(self, key: str, rows: range | None = None) -> NDArray[Any]:
        """Read an array, or some rows of it; raises IntegrityError where the file is damaged."""
        header = self.header(key)
        if header.dtype.hasobject:
            raise InputError(
                f"array {key} of {self.path} holds Python objects, which are not read; save numbers"
            )
        with self._open() as archive, archive.open(f"{key}.npy") as stream:
            _read_header(stream)
            if rows is None or header.fortran_order:
                whole = _read_items(stream, header, math.prod(header.shape))
                order = "F" if header.fortran_order else "C"
                array = whole.reshape(header.shape, order=order)  # type: ignore[call-overload]
                return array if rows is None else array[rows.start : rows.stop]
            items = math.prod(header.shape[1:])
            # Read, and not loaded: what lies before the rows passes through in pieces.
            stream.seek(rows.start * items * header.dtype.itemsize, os.SEEK_CUR)
            return _read_items(stream, header, len(rows) * items).reshape(-1, *header.shape[1:])

    def header(self, key: str) -> _Header:
        """Return what an array is; raises InputError where there is none of that name."""
        if key not in self.arrays:
            raise InputError(
                f"{self.path} has no array {key}; it has {', '.join(self.arrays)}: save inputs and "
                "labels together"
            )
        return self.arrays[key]

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, none where the file does not say them."""
        if _CLASS_NAMES not in self.arrays:
            return ()
        names = self.read(_CLASS_NAMES)
        if names.dtype.kind != "U" or names.ndim != 1:
            raise InputError(f"{_CLASS_NAMES} of {self.path} must be texts, of shape (n_classes,)")
        return tuple(names.tolist())

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except _DAMAGE as error:
            if isinstance(error, InputError):
                raise
            reason = one_line(str(error))
            raise IntegrityError(
                f"{self.path} cannot be read as an .npz file ({reason}); write it anew with "
                "numpy.savez"
            ) from error


class _NpzExamples(Examples):
    """A split of an .npz file."""

    def __init__(self, archive: _Archive, split: Split, x: str, y: str) -> None:
        self._archive, self._split, self._x = archive, split, x
        self._origin = f"array {x} of {archive.path}"
        header = archive.header(x)
        self.y = as_labels(archive.read(y), f"array {y} of {archive.path}")
        # What cannot be inputs is refused before anything is read.
        images_shape(header.shape, self._origin)
        check_type(header.dtype, self._origin)
        check_lengths(header.shape[0], len(self.y), self._origin)
        check_scale(archive.read(x, range(min(N_SAMPLED, len(self.y)))), self._origin)

    def read(self, rows: range) -> Inputs:
        x = as_images(self._archive.read(self._x, rows), self._origin)
        return checked_inputs(x, rows, self._origin)

    def hash(self) -> str:
        return digest_of("npz 1", self._split, hash_file(self._archive.path))


def _read_header(stream: Any) -> _Header:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version} of the format .npy is unknown")
    return _Header(*read(stream))


def _read_items(stream: Any, header: _Header, n: int) -> NDArray[Any]:
    content = stream.read(n * header.dtype.itemsize)
    if len(content) < n * header.dtype.itemsize:
        raise EOFError("it ends early")
    return np.frombuffer(content, header.dtype, n).copy()
