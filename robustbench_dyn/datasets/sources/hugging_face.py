"""Data sets of the Hugging Face hub, or saved by its library, where that is installed."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustbench_dyn.datasets.dataset import DatasetInfo, Split
from robustbench_dyn.datasets.preprocessing import preprocess
from robustbench_dyn.datasets.sources.examples import Examples, as_labels, data_set, mixed
from robustbench_dyn.datasets.sources.hub_names import LABELS, SPLITS
from robustbench_dyn.datasets.sources.images import ImageExamples
from robustbench_dyn.errors import DataUnavailableError, InputError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

# What the library's save_to_disk writes.
_SAVED = ("dataset_dict.json", "state.json")


def from_huggingface(
    where: str | os.PathLike[str], *, preprocessing: str = "", name: str | None = None
) -> DatasetInfo:
    """Return a data set of the Hugging Face hub, whose images are decoded when they are asked for.

    where: the name of a data set on the hub, or a folder: one that save_to_disk wrote, or one that
    the library can load, of Parquet files or images. Its test split is `test`, or `validation`.
    preprocessing: a name of RobustBench's. name: as a plugin registers it.
    Raises InputError where the library is not installed, or the data set has no images or no
    labels; DataUnavailableError where it is neither here nor downloadable.
    """
    preprocess(preprocessing)  # refuses an unknown name before anything is downloaded
    found = _load(os.fspath(where))
    splits, classes = dict[Split, Examples](), tuple[str, ...]()
    for split, names in SPLITS.items():
        part = next((found[one] for one in names if one in found), None)
        if part is not None:
            origin = f"the {split} split of hf:{where}"
            image, label, classes = _columns(part, origin)
            splits[split] = _HubImages(part, image, label, origin, preprocessing)
    if "test" not in splits:
        raise InputError(
            f"hf:{where} has the splits {', '.join(found)}; one of them must be "
            f"{' or '.join(SPLITS['test'])}"
        )
    return data_set(
        splits,
        name=name,
        stem=Path(where).name,
        source=f"https://huggingface.co/datasets/{where}"
        if not Path(where).exists()
        else str(where),
        class_names=classes,
        availability="found or fetched",
    )


def _load(where: str) -> dict[str, Any]:
    """Return the splits by their names."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"hf:{where} needs the package datasets, which is not installed; pip install datasets"
        ) from error
    folder = Path(where).expanduser()
    with _quiet(datasets), _explained(where):
        if any((folder / name).is_file() for name in _SAVED):
            found = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(str(folder) if folder.is_dir() else where)
    return dict(found) if isinstance(found, dict) else {"test": found}


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Show no progress bars, which would mix with ours; the setting is put back."""
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Raise what the library says, in any of its errors, as one sentence."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"hf:{where} cannot be read: {one_line(str(error))}") from error
    except Exception as error:
        raise DataUnavailableError(
            f"hf:{where} is neither a folder here nor can it be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {one_line(str(error))}); check its name, connect to a "
            "network, or give the folder that save_to_disk wrote"
        ) from error


def _columns(part: Any, origin: str) -> tuple[str, str, tuple[str, ...]]:
    """Return the columns of images and of labels, and the names of the classes."""
    kinds = {name: type(feature).__name__ for name, feature in part.features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    labels += [
        name
        for name, feature in part.features.items()
        if name in LABELS and "int" in str(getattr(feature, "dtype", "")) and name not in labels
    ]
    if not images or not labels:
        raise InputError(
            f"{origin} has the columns {', '.join(f'{n} ({k})' for n, k in kinds.items())}; one "
            "must be an Image, and one a ClassLabel or whole numbers"
        )
    label = next((name for name in LABELS if name in labels), labels[0])
    names = getattr(part.features[label], "names", None) or ()
    return images[0], label, tuple(names)


class _HubImages(ImageExamples):
    """Images in the table of a split; the rows of the table stay as they are stored."""

    def __init__(self, part: Any, image: str, label: str, origin: str, preprocessing: str) -> None:
        from datasets import Image as Stored

        y = as_labels(np.asarray(part.select_columns([label])[:][label]), origin)
        self._order: NDArray[np.intp] = mixed(y)
        super().__init__(y[self._order], preprocessing=preprocessing)
        self._rows = part.select_columns([image]).cast_column(image, Stored(decode=False))
        self._image, self._origin = image, origin

    def open(self, i: int) -> Image:
        from PIL import Image as Images

        return Images.open(io.BytesIO(self._content(i)))

    def where(self, i: int) -> str:
        return f"row {self._order[i]} of {self._origin}"

    def contents(self) -> Sequence[str]:
        return [hashlib.sha256(self._content(i)).hexdigest() for i in range(len(self))]

    def _content(self, i: int) -> bytes:
        stored = self._rows[int(self._order[i])][self._image] or {}
        if stored.get("bytes") is not None:
            return bytes(stored["bytes"])
        return Path(stored.get("path") or "").read_bytes()
