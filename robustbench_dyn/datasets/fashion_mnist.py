"""Fashion-MNIST: 28 x 28 grey images of clothes (arXiv:1708.07747); its test split is shipped."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from robustbench_dyn.datasets.dataset import DatasetInfo, RawSplit, Split
from robustbench_dyn.datasets.idx import gunzip, parse_idx
from robustbench_dyn.datasets.search_path import DATA_VARIABLE, download_root, search_roots
from robustbench_dyn.datasets.torchvision_sets import download
from robustbench_dyn.errors import DataUnavailableError, IntegrityError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHIPPED_FOLDER = Path(__file__).parent / "fashion_mnist_files"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


class IdxFile(NamedTuple):
    """One IDX file: name without .gz, shape, and SHA-256 of its uncompressed bytes."""

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def n_bytes(self) -> int:
        """Length of the uncompressed file: magic number, one word an axis, then the bytes."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape)


class IdxPair(NamedTuple):
    """The two files of a split."""

    images: IdxFile
    labels: IdxFile


# Mirrors compress the same content to different .gz files, so the content is what is checked.
FILES: dict[Split, IdxPair] = {
    "train": IdxPair(
        IdxFile(
            "train-images-idx3-ubyte",
            (60_000, 28, 28),
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        IdxFile(
            "train-labels-idx1-ubyte",
            (60_000,),
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
    ),
    "test": IdxPair(
        IdxFile(
            "t10k-images-idx3-ubyte",
            (10_000, 28, 28),
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        IdxFile(
            "t10k-labels-idx1-ubyte",
            (10_000,),
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
}

# Of the shipped .gz files as they stand.
SHIPPED_SHA256 = {
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}


def load_raw(split: Split, data_dir: Path | None) -> RawSplit:
    """Read the shipped test split, or find or fetch the training split; x is (n, 1, 28, 28).

    Raises IntegrityError where a file is not the published one, and DataUnavailableError where
    the training split is nowhere and cannot be downloaded.
    """
    locate = {"test": _locate_shipped, "train": _locate_or_download}[split]
    images_path, labels_path = locate(data_dir)
    images, labels = FILES[split]
    x = _read(images, images_path)
    return RawSplit(x=x[:, None], y=_read(labels, labels_path), white=255)


def _locate_shipped(data_dir: Path | None) -> tuple[Path, Path]:
    del data_dir  # the shipped files are the published ones: no folder could hold better
    images, labels = (SHIPPED_FOLDER / f"{file.name}.gz" for file in FILES["test"])
    for path in (images, labels):
        found = hashlib.sha256(_bytes_of(path)).hexdigest()
        expected = SHIPPED_SHA256[path.name]
        if found != expected:
            raise IntegrityError(
                f"{path} has SHA-256 {found}, expected {expected}; "
                "the shipped file is damaged: reinstall robustbench-dyn"
            )
    return images, labels


def _locate_or_download(data_dir: Path | None) -> tuple[Path, Path]:
    found = _locate_pair(FILES["train"], data_dir)
    if found is not None:
        return found
    root = download_root(data_dir)
    reason = download("FashionMNIST", root)
    # Even a download that failed at a later file may have left these two.
    found = _locate_pair(FILES["train"], root)
    if found is not None:
        return found
    looked_in = ", ".join(map(str, (*search_roots(data_dir), DEBIAN_FOLDER)))
    raise DataUnavailableError(
        f"the training split of fashion_mnist is in none of {looked_in}, and its download into "
        f"{root} failed ({reason or 'it left no files'}); do one of these: give the folder that "
        f"holds {FILES['train'].images.name}.gz as --data-dir (data_dir=) or in {DATA_VARIABLE}; "
        "apt install dataset-fashion-mnist; connect to a network for torchvision's download"
    )


def _locate_pair(pair: IdxPair, data_dir: Path | None) -> tuple[Path, Path] | None:
    """Find the first folder that holds both files, each of them packed or not."""
    for folder in _candidate_folders(data_dir):
        images, labels = (_present(folder, file) for file in pair)
        if images is not None and labels is not None:
            return images, labels
    return None


def _candidate_folders(data_dir: Path | None) -> Iterator[Path]:
    *named, cache = search_roots(data_dir)
    for root in named:
        yield from (root, root / "FashionMNIST" / "raw", root / "fashion-mnist")
    yield DEBIAN_FOLDER
    yield cache / "FashionMNIST" / "raw"


def _present(folder: Path, file: IdxFile) -> Path | None:
    candidates = (folder / f"{file.name}.gz", folder / file.name)
    return next((path for path in candidates if path.is_file()), None)


def _read(file: IdxFile, path: Path) -> NDArray[np.uint8]:
    """Read one file, packed or not, and check its format and its content."""
    content = _bytes_of(path)
    if path.suffix == ".gz":
        content = gunzip(content, n_bytes=file.n_bytes, origin=str(path))
    array = parse_idx(content, shape=file.shape, origin=str(path))
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise IntegrityError(
            f"the content of {path} has SHA-256 {found}, expected {file.sha256}; it is damaged or "
            "another data set with the same file names: delete it or name another folder"
        )
    return array


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise IntegrityError(
            f"{path} cannot be read ({error.strerror}), expected a file of Fashion-MNIST; "
            "check its permissions, or reinstall robustbench-dyn if it is part of it"
        ) from error


INFO = DatasetInfo(
    name="fashion_mnist",
    input_shape=(1, 28, 28),
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    sizes={"train": 60_000, "test": 10_000},
    availability={"train": "found or fetched", "test": "shipped"},
    source="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT, Copyright (c) 2017 Zalando SE",
    load_raw=load_raw,
)
