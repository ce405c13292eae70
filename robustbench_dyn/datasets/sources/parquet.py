"""Images and labels in Parquet files, as data sets are downloaded from the Hugging Face hub."""

from __future__ import annotations

import io
import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustbench_dyn.datasets.dataset import DatasetInfo, Split
from robustbench_dyn.datasets.file_hashes import hash_file, reading
from robustbench_dyn.datasets.preprocessing import preprocess
from robustbench_dyn.datasets.sources.examples import (
    N_SAMPLED,
    Examples,
    Inputs,
    as_labels,
    data_set,
    existing,
    mixed,
)
from robustbench_dyn.datasets.sources.hub_names import LABELS, SPLITS
from robustbench_dyn.datasets.sources.images import ImageExamples
from robustbench_dyn.errors import InputError, IntegrityError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

# A split, and its part where it has several: test-00000-of-00003.parquet.
_NAME = re.compile(r"(?P<split>[a-z]+)(-\d+-of-\d+)?\.parquet")
# Of several columns of images, the one that is meant.
_IMAGES = ("img", "image")


def from_parquet(
    place: str | os.PathLike[str], *, preprocessing: str = "", name: str | None = None
) -> DatasetInfo:
    """Return the data set in Parquet files, whose images are decoded when they are asked for.

    place: a folder with test.parquet (or validation.parquet) and, if there is one, train.parquet,
    in one file or in several such as test-00000-of-00002.parquet, at any depth; or one file, which
    is the test split. A column of images holds their encoded bytes, img or image before others, as
    a struct with a field `bytes`; a column of whole numbers is the labels: label, or fine_label.
    The names of the classes are those in the schema, where it has them. preprocessing: a name of
    RobustBench's. name: as a plugin registers it; None names it by the folder and its hash.
    Raises InputError where the files have another layout, and IntegrityError, with file and row,
    where an image is damaged.
    """
    preprocess(preprocessing)
    found = existing(place, "a folder of .parquet files, or one of them")
    files: dict[Split, list[Path]] = {"test": [found]}
    if found.is_dir():
        files = _files_of(found)
    if "test" not in files:
        choices = " or ".join(f"{split}.parquet" for split in SPLITS["test"][:2])
        raise InputError(f"{found} has no test split; it must hold {choices}, or parts of it")
    images = {
        split: ParquetImages(paths, preprocessing=preprocessing) for split, paths in files.items()
    }
    splits: dict[Split, Examples] = {**images}
    classes = next((one.class_names for one in images.values() if one.class_names), ())
    return data_set(
        splits,
        name=name,
        stem=found.resolve().stem,
        source=str(found),
        class_names=classes,
    )


class ParquetImages(ImageExamples):
    """The images of a split, in the order of files and rows; mixed where labels are sorted.

    class_names: as the schema of the first file has them; none where it has not.
    """

    def __init__(self, paths: Sequence[Path], *, preprocessing: str = "") -> None:
        self.class_names = _class_names(paths[0])
        labels = [_labels(path, len(self.class_names)) for path in paths]
        self._paths, self._starts = paths, [0, *np.cumsum([len(part) for part in labels]).tolist()]
        y = np.concatenate(labels)
        if not len(y):
            raise InputError(f"{paths[0]} has no row; give a file with at least one")
        self._order = mixed(y)
        super().__init__(y[self._order], preprocessing=preprocessing)
        # Encoded images by example: of the first ones, which are looked at more than once, and of
        # those that are being read.
        self._first_ones = self._contents(range(min(N_SAMPLED, len(y))))
        self._held = dict[int, bytes]()

    def read(self, rows: range) -> Inputs:
        # Each group of rows is read once, however the examples are mixed.
        self._held = self._contents(rows)
        try:
            return super().read(rows)
        finally:
            self._held = {}

    def open(self, i: int) -> Image:
        from PIL import Image as Images

        content = self._held.get(i) or self._first_ones.get(i) or self._contents([i])[i]
        return Images.open(io.BytesIO(content))

    def where(self, i: int) -> str:
        path, row = self._place(i)
        return f"the image in row {row} of {path}"

    def contents(self) -> Sequence[str]:
        # Of whole files, which are hashed once and then remembered.
        return [hash_file(path) for path in self._paths]

    def _place(self, i: int) -> tuple[Path, int]:
        """Return the file of an example, and its row there."""
        at = int(self._order[i])
        k = bisect_right(self._starts, at) - 1
        return self._paths[k], at - self._starts[k]

    def _contents(self, examples: Iterable[int]) -> dict[int, bytes]:
        """Return the encoded images of some examples."""
        wanted: dict[Path, list[tuple[int, int]]] = {}
        for i in examples:
            path, row = self._place(i)
            wanted.setdefault(path, []).append((row, i))
        return {
            i: content
            for path, rows in wanted.items()
            for i, content in _encoded(path, sorted(rows))
        }


def _class_names(path: Path) -> tuple[str, ...]:
    """Return the names of the classes that the schema of a file has; nothing where there are none.

    The library `datasets` writes them into the schema's metadata.
    """
    with _opened(path) as file:
        about = (file.schema_arrow.metadata or {}).get(b"huggingface")
        label = _label_column(file, path)
    try:
        feature = json.loads(about or b"{}")["info"]["features"][label]
        names = feature["names"] if feature.get("_type") == "ClassLabel" else ()
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()
    texts = isinstance(names, list) and all(isinstance(one, str) for one in names)
    return tuple(names) if texts and len(set(names)) == len(names) else ()


def _files_of(folder: Path) -> dict[Split, list[Path]]:
    """Return the files of each split, in the order of their names."""
    named: dict[str, list[Path]] = {}
    with reading(folder):
        for path in sorted(folder.rglob("*.parquet")):
            if (match := _NAME.fullmatch(path.name)) and path.is_file():
                named.setdefault(match["split"], []).append(path)
    found = {
        split: next((named[one] for one in names if one in named), [])
        for split, names in SPLITS.items()
    }
    return {split: paths for split, paths in found.items() if paths}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file; raises IntegrityError for what pyarrow says of a damaged one."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with reading(path), parquet.ParquetFile(path) as file:
            yield file
    except pa.ArrowException as error:
        raise IntegrityError(
            f"{path} cannot be read as a Parquet file ({one_line(str(error))}); download it anew"
        ) from error


def _label_column(file: Any, path: Path) -> str:
    import pyarrow as pa

    schema = file.schema_arrow
    whole = [field.name for field in schema if pa.types.is_integer(field.type)]
    for name in (*LABELS, *(whole if len(whole) == 1 else ())):
        if name in whole:
            return name
    raise InputError(
        f"{path} has the columns {_told(schema)}; one of whole numbers must be called "
        f"{', '.join(LABELS[:-1])} or {LABELS[-1]}, and hold the labels"
    )


def _image_column(file: Any, path: Path) -> str:
    import pyarrow as pa

    schema = file.schema_arrow
    images = [
        field.name
        for field in schema
        if pa.types.is_struct(field.type)
        and field.type.get_field_index("bytes") >= 0
        and _is_binary(field.type.field("bytes").type)
    ]
    for name in (*_IMAGES, *images[:1]):
        if name in images:
            return name
    raise InputError(
        f"{path} has the columns {_told(schema)}; one must hold images, as a struct with a field "
        "bytes"
    )


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _told(schema: Any) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"


def _labels(path: Path, n_classes: int) -> NDArray[np.int64]:
    """Return the labels of a file, (n,); n_classes: that the schema names, 0 for none."""
    with _opened(path) as file:
        _image_column(file, path)
        column = _label_column(file, path)
        values = file.read(columns=[column]).column(column)
    if values.null_count:
        row = values.is_null().index(True).as_py()
        raise InputError(f"row {row} of {path} has no label; give one to each row")
    y = as_labels(values.to_numpy(), str(path))
    if n_classes and len(y) and y.max() >= n_classes:
        row = int(np.argmax(y >= n_classes))
        raise InputError(
            f"label {y[row]} in row {row} of {path} has no class: its schema names {n_classes} "
            "classes, and labels count from 0"
        )
    return y


def _encoded(path: Path, rows: Sequence[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    """Yield the encoded image of some rows; rows: (row, example), by row."""
    with _opened(path) as file:
        column, start, at = _image_column(file, path), 0, 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            here = []
            while at < len(rows) and rows[at][0] < stop:
                here.append(rows[at])
                at += 1
            if here:
                images = file.read_row_group(group, columns=[column]).column(column)
                taken = images.take([row - start for row, _ in here])
                for (row, example), image in zip(here, taken.to_pylist(), strict=True):
                    content = (image or {}).get("bytes")
                    if not content:
                        raise IntegrityError(
                            f"row {row} of {path} has no bytes of an image; a path to a file is "
                            "not followed: write the bytes into the table"
                        )
                    yield example, content
            start = stop
