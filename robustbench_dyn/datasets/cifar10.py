"""CIFAR-10: 32 x 32 colour images of ten kinds of objects."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from robustbench_dyn.datasets.dataset import DatasetInfo, RawSplit, Split
from robustbench_dyn.datasets.download import download, from_first_mirror
from robustbench_dyn.datasets.published import (
    CIFAR10,
    CIFAR10_ARCHIVE,
    CIFAR10_ARCHIVE_MIRRORS,
    PublishedFile,
)
from robustbench_dyn.datasets.search_path import DATA_VARIABLE, download_root, search_roots
from robustbench_dyn.datasets.verified_files import (
    LATER,
    check_content,
    find_together,
    read_verified,
)
from robustbench_dyn.errors import DataUnavailableError, IntegrityError
from robustbench_dyn.files import write_bytes


def load_raw(split: Split, data_dir: Path | None) -> RawSplit:
    """Read a split from the first folder that holds it, else download it; x is (n, 3, 32, 32).

    Raises IntegrityError where a file is not the published one, DataUnavailableError where the
    split is nowhere and cannot be downloaded, and OutputError where it cannot be stored.
    """
    files = CIFAR10.files[split]
    roots = search_roots(data_dir)
    folders = [folder for root in roots for folder in (root / CIFAR10.folder, root)]
    paths = find_together(files, folders, suffixes=("",))
    if paths is None:
        target = download_root(data_dir) / CIFAR10.folder
        try:
            _fetch(target)
        except DataUnavailableError as error:
            raise DataUnavailableError(
                f"CIFAR-10 is in none of {', '.join(map(str, roots))}, and its download failed "
                f"({error}); do one of these: give the folder that holds {CIFAR10.folder} as "
                f"--data-dir (data_dir=) or in {DATA_VARIABLE}; connect to a network"
            ) from error
        paths = [target / file.name for file in files]
    batches = [_read(path, file) for path, file in zip(paths, files, strict=True)]
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([np.asarray(batch["labels"]) for batch in batches])
    return RawSplit(x=images, y=labels, white=255)


class _Arrays(pickle.Unpickler):
    """Unpickle arrays, lists and strings: nothing that could run code."""

    _RECONSTRUCT = np.zeros(0).__reduce__()[0]

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name.startswith("numpy"):
            known = {"_reconstruct": self._RECONSTRUCT, "ndarray": np.ndarray, "dtype": np.dtype}
            if global_name in known:
                return known[global_name]
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")


def _read(path: Path, file: PublishedFile) -> dict[str, Any]:
    """Read a batch: data (n, 3072) and labels; it is unpickled only after its SHA-256 is right."""
    content = read_verified(path, file)
    batch: dict[str, Any] = _Arrays(io.BytesIO(content), encoding="latin1").load()
    return batch


def _fetch(folder: Path) -> None:
    """Download the archive, and store each batch in it once its content is right."""
    urls = (f"{mirror}{CIFAR10_ARCHIVE.name}" for mirror in CIFAR10_ARCHIVE_MIRRORS)
    with (
        from_first_mirror(urls, _fetch_archive) as archive,
        tarfile.open(fileobj=archive, mode="r:gz") as members,
    ):
        for file in (file for files in CIFAR10.files.values() for file in files):
            name = str(CIFAR10.folder / file.name)
            member = members.extractfile(name)
            content = b"" if member is None else member.read(file.n_bytes + 1)
            check_content(io.BytesIO(content), file, origin=name, remedy=LATER)
            write_bytes(folder / file.name, content)


def _fetch_archive(url: str) -> IO[bytes]:
    archive = download(url, most_bytes=CIFAR10_ARCHIVE.n_bytes)
    try:
        check_content(archive, CIFAR10_ARCHIVE, origin=url, remedy=LATER)
    except IntegrityError:
        archive.close()
        raise
    archive.seek(0)
    return archive


INFO = DatasetInfo(
    name="cifar10",
    input_shape=(3, 32, 32),
    class_names=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    sizes={"train": 50_000, "test": 10_000},
    availability={"train": "found or fetched", "test": "found or fetched"},
    source="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none stated; cite Krizhevsky, Learning Multiple Layers of Features, 2009",
    load_raw=load_raw,
)
