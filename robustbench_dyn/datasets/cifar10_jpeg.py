"""Copies of CIFAR-10 as JPEG files of quality 75: other images of the same classes.

A copy lies farther from its original than any eps of a leaderboard, so that a figure on the copies
is none on CIFAR-10. They do not ship and are not downloaded: the folder that holds them is given.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from robustbench_dyn.datasets.cifar10 import INFO as CIFAR10
from robustbench_dyn.datasets.dataset import DatasetInfo, RawSplit, Rows, Split
from robustbench_dyn.datasets.file_hashes import hash_file
from robustbench_dyn.datasets.search_path import DATA_VARIABLE, search_roots
from robustbench_dyn.datasets.sources.parquet import ParquetImages
from robustbench_dyn.errors import DataUnavailableError, IntegrityError

FOLDER = "cifar10_jpeg"
# Of the files NAME.parquet.
SHA256: dict[Split, str] = {
    "train": "5378c6d979d2080b3c91b1e2e26b68346bbbf228358690fc07315fb4788ad166",
    "test": "1cbcc446ffe74cadc8928f4999662a3a3f903ad6b46950a0317fd52865f75d82",
}


def load_rows(split: Split, rows: range, data_dir: Path | None) -> Rows:
    """Decode some images; x is (n, 3, 32, 32).

    Raises DataUnavailableError where no folder has the split, and IntegrityError where its file is
    another one.
    """
    return _images(_path(split, data_dir), split).rows(rows)


def load_raw(split: Split, data_dir: Path | None) -> RawSplit:
    """Decode all images; see load_rows."""
    x, y, white, _ = load_rows(split, range(INFO.sizes[split]), data_dir)
    return RawSplit(x, y, white)


def _path(split: Split, data_dir: Path | None) -> Path:
    roots = search_roots(data_dir)
    for root in roots:
        for folder in (root / FOLDER, root):
            path = folder / f"{split}.parquet"
            if path.is_file():
                return path
    raise DataUnavailableError(
        f"the {split} split of the JPEG copies of CIFAR-10 is in none of "
        f"{', '.join(map(str, roots))}, and is not published for download; give the folder that "
        f"holds {split}.parquet, or {FOLDER}/{split}.parquet, as --data-dir (data_dir=) or in "
        f"{DATA_VARIABLE}; for another data set in such files: --dataset parquet:FOLDER"
    )


def _images(path: Path, split: Split) -> ParquetImages:
    found = hash_file(path)
    if found != SHA256[split]:
        raise IntegrityError(
            f"{path} has SHA-256 {found}, and the {split} split of {FOLDER} has {SHA256[split]}; "
            "it is damaged or another data set: evaluate it as parquet:FOLDER, or name another "
            "folder"
        )
    return _opened(path, found)


@lru_cache(maxsize=2)
def _opened(path: Path, _sha256: str) -> ParquetImages:
    return ParquetImages([path])


INFO = DatasetInfo(
    name="cifar10_jpeg",
    input_shape=CIFAR10.input_shape,
    class_names=CIFAR10.class_names,
    sizes=CIFAR10.sizes,
    availability={"train": "found or fetched", "test": "found or fetched"},
    source="JPEG copies of https://www.cs.toronto.edu/~kriz/cifar.html",
    licence=CIFAR10.licence,
    load_raw=load_raw,
    load_rows=load_rows,
)
