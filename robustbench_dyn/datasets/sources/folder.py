"""Data sets in a folder of class folders, as torchvision's ImageFolder reads them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from robustbench_dyn.datasets.dataset import DatasetInfo, Split
from robustbench_dyn.datasets.file_hashes import reading
from robustbench_dyn.datasets.sources.examples import Examples, data_set, existing
from robustbench_dyn.datasets.sources.images import SUFFIXES, ImageFiles
from robustbench_dyn.errors import InputError

# The folders of a split, first choice first.
_SPLITS: Mapping[Split, tuple[str, ...]] = {
    "test": ("test", "val", "valid", "validation"),
    "train": ("train",),
}


def from_folder(
    folder: str | os.PathLike[str], *, preprocessing: str = "", name: str | None = None
) -> DatasetInfo:
    """Return the data set in a folder, whose images are decoded when they are asked for.

    folder: has the folders test (or val) and train, or is itself the test split. A split has a
    folder for each class, in whose order of names the labels count, with its images at any depth.
    The order of the examples is that of the SHA-256 of CLASS/FILE, so that the first ones are of
    all classes. preprocessing: a name of RobustBench's, such as Res256Crop224; without one, all
    images must have one size. name: as a plugin registers it; None names it by the folder and its
    hash.
    Raises InputError where the folder has another layout, and IntegrityError where an image is
    damaged.
    """
    root = existing(folder, "a folder of class folders")
    if not root.is_dir():
        raise InputError(f"{root} is a file; give a folder that has a folder of images a class")
    folders = {split: found for split in _SPLITS if (found := _folder_of(root, split))}
    if "train" in folders and "test" not in folders:
        raise InputError(f"{root} has train, and neither test nor val; add one of them")
    folders = folders or {"test": root}
    classes = sorted({name for part in folders.values() for name in _class_folders(part)})
    if len(classes) < 2:
        raise InputError(
            f"{folders['test']} has {len(classes)} class folders; give a folder for each class, "
            "two or more, with its images"
        )
    splits: dict[Split, Examples] = {
        split: _examples(part, classes, preprocessing) for split, part in folders.items()
    }
    stem = root.resolve().name
    return data_set(splits, name=name, stem=stem, source=str(root), class_names=classes)


def in_order_of_hashes(names: Sequence[str]) -> list[str]:
    """Sort names by their SHA-256: an order that is the same everywhere and follows no class."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def images_below(folder: Path) -> Iterator[str]:
    """Yield the path of each image at any depth below a folder, with / between its parts."""
    for place, _, names in os.walk(folder, followlinks=True, onerror=_refuse):
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()


def _refuse(error: OSError) -> None:
    with reading(Path(error.filename)):
        raise error


def _folder_of(root: Path, split: Split) -> Path | None:
    found = (root / name for name in _SPLITS[split])
    return next((path for path in found if path.is_dir()), None)


def _class_folders(split: Path) -> list[str]:
    with reading(split):
        return [
            path.name for path in split.iterdir() if path.is_dir() and not path.name.startswith(".")
        ]


def _examples(split: Path, classes: Sequence[str], preprocessing: str) -> ImageFiles:
    label_of = {name: label for label, name in enumerate(classes)}
    found = list(images_below(split))
    loose = next((name for name in found if "/" not in name), None)
    if loose is not None:
        raise InputError(f"{split / loose} is in no class folder; move it into that of its class")
    if not found:
        raise InputError(f"{split} has no images; their names end in {', '.join(SUFFIXES)}")
    names = in_order_of_hashes([name for name in found if name.split("/")[0] in label_of])
    y = np.array([label_of[name.split("/")[0]] for name in names], dtype=np.int64)
    return ImageFiles(split, names, y, preprocessing=preprocessing)
