"""Data sets of torchvision by the name of their class, found or downloaded as torchvision does."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustbench_dyn.datasets.dataset import DatasetInfo, Split
from robustbench_dyn.datasets.preprocessing import preprocess
from robustbench_dyn.datasets.search_path import DATA_VARIABLE, download_root, search_roots
from robustbench_dyn.datasets.sources.examples import (
    ArrayExamples,
    Examples,
    as_labels,
    data_set,
    mixed,
)
from robustbench_dyn.datasets.sources.images import ImageFiles
from robustbench_dyn.errors import DataUnavailableError, InputError, IntegrityError, one_line
from robustbench_dyn.plugins import unknown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    # Examples, and the place of each in the data set that they are taken from.
    Ordered = tuple[Examples, NDArray[np.intp]]

# What torchvision's classes call a split, first choice first.
_SPLITS: Mapping[Split, tuple[str, ...]] = {
    "test": ("test", "val", "valid"),
    "train": ("train", "trainval"),
}
# The attributes in which its classes keep arrays, or the paths of images, and their labels.
_ARRAYS = (("data", "targets"), ("data", "labels"))
_PATHS = (("_image_files", "_labels"), ("_images", "_labels"), ("images", "labels"))
_PAIRS = ("samples", "_samples", "imgs")


def from_torchvision(
    dataset: str,
    *,
    root: str | os.PathLike[str] | None = None,
    preprocessing: str = "",
    name: str | None = None,
) -> DatasetInfo:
    """Return a data set of torchvision for classification: CIFAR100, SVHN, Food101, ...

    dataset: the name of its class; NAME/VARIANT for one that has variants, as EMNIST/letters.
    root: the folder to look in first and to download into; after it come the folder that
    DYNBENCH_DATA names and the user's cache. preprocessing: a name of RobustBench's. name: as a
    plugin registers it. A data set that torchvision does not split is a test split.
    Raises InputError for a name that torchvision does not have or that is no set of images with one
    label each, DataUnavailableError where it is neither found nor downloadable.
    """
    preprocess(preprocessing)  # refuses an unknown name before anything is downloaded
    kind, options = _kind(dataset)
    place = None if root is None else Path(root).expanduser()
    splits, classes = dict[Split, Examples](), tuple[str, ...]()
    for split in _SPLITS:
        found = _open(kind, split, options, place)
        if found is not None:
            splits[split] = _examples(found, f"{dataset} of torchvision", preprocessing)
            classes = classes or _classes(found)
    return data_set(
        splits,
        name=name,
        stem=dataset,
        source=f"torchvision.datasets.{kind.__name__}",
        class_names=classes,
        availability="found or fetched",
    )


def _kind(dataset: str) -> tuple[type[Any], dict[str, Any]]:
    """Return the class of a name, and the options that its variant means."""
    name, _, variant = dataset.partition("/")
    try:
        from torchvision import datasets
    # A torchvision built for another torch raises RuntimeError.
    except (ImportError, RuntimeError, OSError) as error:
        raise InputError(
            f"torchvision:{dataset} needs torchvision, which cannot be imported "
            f"({one_line(str(error))}); pip install torchvision, built for this torch"
        ) from error
    known = {
        one: kind
        for one in datasets.__all__
        if isinstance(kind := getattr(datasets, one), type) and "root" in _parameters(kind)
    }
    if name not in known:
        raise InputError(
            unknown("data set of torchvision", name, known, see="torchvision.datasets")
        )
    kind = known[name]
    needed = [
        parameter.name
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind is not parameter.VAR_KEYWORD
        and parameter.name != "root"
    ]
    if len(needed) > 1 or bool(needed) != bool(variant):
        wants = f"needs {' and '.join(needed)}" if needed else "has no variants"
        way = f"torchvision:{name}/VARIANT" if needed else f"torchvision:{name}"
        raise InputError(f"{name} of torchvision {wants}; give {way}")
    return kind, {needed[0]: variant} if needed else {}


def _parameters(kind: type[Any]) -> set[str]:
    """Name the parameters of a class, with those that it hands on to its bases."""
    found = set[str]()
    for base in kind.__mro__[:-1]:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base).parameters
        found |= set(parameters)
        if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            break
    return found


def _open(kind: type[Any], split: Split, options: dict[str, Any], root: Path | None) -> Any | None:
    """Return a split from the first folder that holds it, else downloaded; None for no split."""
    parameters = _parameters(kind)
    choices: list[dict[str, Any]]
    if "train" in parameters:
        choices = [{"train": split == "train"}]
    elif "split" in parameters and "split" not in options:
        choices = [{"split": name} for name in _SPLITS[split]]
    else:
        choices = [{}] if split == "test" else []
    reasons = list[str]()
    can_download = "download" in parameters
    places: list[tuple[Path, dict[str, Any]]] = [(place, {}) for place in search_roots(root)]
    if can_download:
        places.append((download_root(root), {"download": True}))
    for place, download in places:
        for choice in choices:
            try:
                # What it prints of a download is no result.
                with contextlib.redirect_stdout(sys.stderr):
                    return kind(root=str(place), **options, **choice, **download)
            except ModuleNotFoundError as error:
                raise InputError(f"{kind.__name__} of torchvision needs {error.name}") from error
            except ValueError as error:
                if "split" not in str(error):
                    raise InputError(f"{kind.__name__} of torchvision: {error}") from error
            # Each class raises errors of its own where files are missing or a download fails.
            except Exception as error:
                reasons.append(one_line(str(error)))
    if not reasons:
        return None
    looked_in = ", ".join(str(place) for place in search_roots(root))
    raise DataUnavailableError(
        f"the {split} split of torchvision's {kind.__name__} is in none of {looked_in}"
        f"{', and its download failed' if can_download else ''} ({reasons[-1]}); give the folder "
        f"that holds it as --data-dir (data_dir=) or in {DATA_VARIABLE}, or connect to a network"
    )


def _examples(found: Any, origin: str, preprocessing: str) -> Examples:
    """Return the examples of an open data set, read one by one where it says where they are."""
    first = found[0]
    if not (
        isinstance(first, tuple)
        and len(first) == 2
        and hasattr(first[0], "convert")
        and isinstance(first[1], (int, np.integer))
    ):
        raise InputError(
            f"{origin} is not for classification: an example must be an image and its label"
        )
    in_memory = () if preprocessing else _in_memory(found, origin)
    for examples, order in (*in_memory, *_in_files(found, preprocessing)):
        if _agrees(examples, order, found, preprocessing):
            return examples
    return _decoded(found, origin, preprocessing)


def _in_memory(found: Any, origin: str) -> Iterator[Ordered]:
    for of_inputs, of_labels in _ARRAYS:
        x, y = getattr(found, of_inputs, None), getattr(found, of_labels, None)
        if x is None or y is None:
            continue
        with contextlib.suppress(InputError, ValueError, TypeError):
            labels = as_labels(np.asarray(y), origin)
            order = mixed(labels)
            yield ArrayExamples(np.asarray(x)[order], labels[order], origin=origin), order


def _in_files(found: Any, preprocessing: str) -> Iterator[Ordered]:
    for paths, labels in _listings(found):
        if len(paths) != len(labels) or not all(isinstance(p, (str, Path)) for p in paths):
            continue
        folder = Path(os.path.commonpath([Path(path).parent for path in paths]))
        y = np.asarray(labels, dtype=np.int64)
        order = mixed(y)
        names = [Path(paths[i]).relative_to(folder).as_posix() for i in order]
        yield ImageFiles(folder, names, y[order], preprocessing=preprocessing), order


def _listings(found: Any) -> Iterator[tuple[list[Any], list[Any]]]:
    for of_paths, of_labels in _PATHS:
        if hasattr(found, of_paths) and hasattr(found, of_labels):
            yield list(getattr(found, of_paths)), list(getattr(found, of_labels))
    for of_pairs in _PAIRS:
        pairs = getattr(found, of_pairs, None)
        if isinstance(pairs, list) and pairs and len(pairs[0]) == 2:
            yield [path for path, _ in pairs], [label for _, label in pairs]


def _agrees(examples: Examples, order: NDArray[np.intp], found: Any, preprocessing: str) -> bool:
    """Say whether examples are those that the data set itself gives, by the first and the last."""
    n = len(examples)
    if n != len(found):
        return False
    for row in (0, n - 1):
        image, label = found[int(order[row])]
        x = examples.read(range(row, row + 1)).x[0]
        mode = "L" if len(x) == 1 else "RGB"
        pixels = np.asarray(preprocess(preprocessing)(image.convert(mode)))
        expected = pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
        if int(label) != examples.y[row] or not np.array_equal(x, expected):
            return False
    return True


def _decoded(found: Any, origin: str, preprocessing: str) -> Examples:
    """Read all images into memory, where nothing says in which files they are."""
    prepare = preprocess(preprocessing)
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for image, label in (found[i] for i in range(len(found))):
        grey = image.mode in ("1", "L") and not preprocessing
        pixels = np.asarray(prepare(image.convert("L" if grey else "RGB")))
        if images and pixels.shape != images[0].shape:
            raise IntegrityError(
                f"image {len(images)} of {origin} has other pixels or channels than the first; add "
                "a preprocessing, as in torchvision:NAME,Res256Crop224"
            )
        images.append(pixels)
        labels.append(int(label))
    y = np.asarray(labels, dtype=np.int64)
    order = mixed(y)
    return ArrayExamples(np.stack(images)[order], y[order], origin=origin)


def _classes(found: Any) -> tuple[str, ...]:
    """Return the names of its classes, where they are different texts."""
    names = getattr(found, "classes", None) or ()
    texts = tuple(name if isinstance(name, str) else ", ".join(name) for name in names)
    return texts if 2 <= len(set(texts)) == len(texts) else ()
